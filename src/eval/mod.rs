//! Metrics and benchmarks: what a score is worth.

pub mod benchmark;
pub mod calibrate;
pub mod hdf5;
pub mod metrics;
pub mod plot;
pub mod segments;
pub mod table;
pub mod tally;
