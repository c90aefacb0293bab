//! Everything that speaks ROS 2: names and arguments, DDS, the loop of the node.
//!
//! ```text
//! ingest (a thread per camera) -> slot (newest wins) -> node (main thread) -> publish
//! ```
//!
//! The header crosses unchanged. Ingest never waits for inference. Shutdown: the stop channel closes ->
//! ingest threads return -> their slots close -> the loop of the node ends.

mod args;
mod context;
mod ingest;
mod node;
mod params;
mod publish;
pub mod raw;
mod service;
mod slot;

pub use args::{Names, Network, RosArgs};
pub use node::Node;
