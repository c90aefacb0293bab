//! Metrics and benchmarks: what a score is worth.
