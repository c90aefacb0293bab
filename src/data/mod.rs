//! Data sets in their published layouts, and the drawn road world.

pub mod synth;
