//! Everything that speaks ROS 2: names and arguments, DDS, the loop of the node.
//!
//! ```text
//! ingest (a thread per camera) -> slot (newest wins) -> batch -> node (main thread) -> publish
//! ```
//!
//! Every thread reports to `monitor`, whose own thread publishes `/diagnostics`, latencies and `/rosout`.
//! The header crosses unchanged. Ingest never waits for inference. Shutdown: the stop channel closes ->
//! ingest threads return -> their slots close -> the loop of the node ends.

mod args;
mod batch;
mod calibration;
mod context;
mod diagnostics;
mod e2e;
mod endurance;
mod graph;
mod ingest;
mod mode;
mod monitor;
mod node;
mod operating;
mod params;
mod patches;
mod publish;
mod rate;
pub mod raw;
mod recorder;
mod rosout;
mod service;
mod slot;

pub use args::{Names, Network, RosArgs};
pub use node::{Node, Process};
pub use rosout::{Line, Tee};
