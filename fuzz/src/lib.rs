//! What is fuzzed: one function per kind of bytes that come from outside.
//!
//! `fuzz_targets/` feeds them from libFuzzer, `tests/fuzz.rs` from the corpora on every run. A function
//! fails by panicking; what the library refuses is as good as what it accepts.

mod allocator;
mod targets;

pub use targets::*;
