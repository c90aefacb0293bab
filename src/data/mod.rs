//! Data sets in their published layouts, and the drawn road world.

pub mod ood_sets;

/// Label of pixels that no metric and no loss counts.
pub const IGNORE: u8 = 255;
