//! Everything that speaks ROS 2: names and arguments, DDS, the loop of the node.
//!
//! ```text
//! ingest (a thread per camera) -> slot (newest wins) -> batch -> node (main thread) -> publish
//!                                                                                        -> encoder (a thread)
//! ```
//!
//! `transport` has the two traits behind which pictures come and go.
//! Every thread reports to `monitor`, whose own thread publishes `/diagnostics`, latencies and `/rosout`.
//! Between batch and pipeline `stamps` refuses frames whose time cannot be true, on the time of `clock`.
//! The header crosses unchanged. Ingest never waits for inference. Shutdown: the stop channel closes ->
//! ingest threads return -> their slots close -> the loop of the node ends.

mod args;
mod batch;
mod calibration;
mod clock;
mod console;
mod context;
mod counts;
mod diagnostics;
mod drops;
mod e2e;
mod encoder;
mod endurance;
mod finding;
mod gaps;
mod graph;
mod heartbeat;
mod ingest;
mod lifecycle;
mod loaded;
mod mode;
mod monitor;
mod namesake;
mod node;
mod operating;
mod params;
mod patches;
mod publish;
mod rate;
pub mod raw;
mod recorder;
mod rosout;
mod seed;
mod service;
mod slot;
mod stamps;
mod statistics;
mod stream;
mod transport;
mod writers;

pub use args::{Names, Network, RosArgs};
pub use console::Console;
pub use loaded::{Load, Loaded, limits};
pub use node::{Node, Process};
pub use rosout::{Line, Tee};
