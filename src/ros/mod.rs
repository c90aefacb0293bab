//! To come: ros.

pub mod raw;
