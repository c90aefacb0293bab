//! `ood_segmentation`: notice in a camera picture what the networks behind it were never taught.
//!
//! A frame's life: bytes arrive (a topic, a bag, a file) as an [`image::Image`], `pipeline::Pipeline`
//! turns it into a `pipeline::Prediction` (windows -> `model::Model` -> mean logits -> score ->
//! masks), and the node publishes it with the input's header, or a tool writes it to disk.
//!
//! Arrows point down only; `tests/layers.rs` holds the modules to it:
//!
//! ```text
//! error  image  msg  config  threads  supervisor  quality   no tch, no ros2-client
//!   +-- model                                tch; knows shapes, not images, not files
//!         +-- preprocess  window  checkpoint
//!               +-- pipeline  obstacle  overlay  selftest
//!                     +-- ros                ros2-client, no tch            main.rs only
//!                     +-- bag  data
//!                     +-- eval <- train                                     bin/ only
//! ```

pub mod bag;
pub mod checkpoint;
pub mod config;
pub mod data;
pub mod error;
pub mod eval;
#[cfg(feature = "fault-injection")]
pub mod fault;
pub mod file;
pub mod image;
pub mod model;
pub mod msg;
pub mod obstacle;
pub mod overlay;
pub mod pipeline;
pub mod preprocess;
pub mod quality;
pub mod ros;
pub mod selftest;
pub mod supervisor;
pub mod threads;
pub mod train;
pub mod window;

pub use error::{Error, Result};
