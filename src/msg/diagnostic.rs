//! What the node says about itself: `/diagnostics`, latencies, `/statistics`, `/rosout`.

use serde::{Deserialize, Serialize};

use super::{Header, Stamp};

/// `diagnostic_msgs/DiagnosticArray`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiagnosticArray {
    /// When it was made.
    pub header: Header,
    /// One entry per thing that can be well or not.
    pub status: Vec<DiagnosticStatus>,
}

/// `diagnostic_msgs/DiagnosticStatus`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiagnosticStatus {
    /// [`Self::OK`], [`Self::WARN`] or [`Self::ERROR`].
    pub level: u8,
    /// `node: thing`.
    pub name: String,
    /// What is the matter, in a sentence.
    pub message: String,
    /// What it runs on.
    pub hardware_id: String,
    /// Details.
    pub values: Vec<KeyValue>,
}

impl DiagnosticStatus {
    /// All is well.
    pub const OK: u8 = 0;
    /// Degraded, but what is published can be trusted.
    pub const WARN: u8 = 1;
    /// Nothing that can be trusted comes out.
    pub const ERROR: u8 = 2;
}

/// `diagnostic_msgs/KeyValue`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyValue {
    /// Name.
    pub key: String,
    /// Value as text.
    pub value: String,
}

/// `autoware_internal_debug_msgs/Float64Stamped`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Float64Stamped {
    /// That of the image it is about.
    pub stamp: Stamp,
    /// Milliseconds.
    pub data: f64,
}

/// `statistics_msgs/MetricsMessage`: figures of one quantity over one window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MetricsMessage {
    /// Name of the node that measured.
    pub measurement_source_name: String,
    /// What was measured, such as `message_age`.
    pub metrics_source: String,
    /// Such as `ms`.
    pub unit: String,
    /// When the window began.
    pub window_start: Stamp,
    /// When it ended.
    pub window_stop: Stamp,
    /// One entry per figure.
    pub statistics: Vec<StatisticDataPoint>,
}

/// `statistics_msgs/StatisticDataPoint`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StatisticDataPoint {
    /// Which figure, one of the numbers of `statistics_msgs/StatisticDataType`.
    pub data_type: u8,
    /// Its value.
    pub data: f64,
}

#[expect(missing_docs, reason = "the names of statistics_msgs/StatisticDataType")]
impl StatisticDataPoint {
    pub const AVERAGE: u8 = 1;
    pub const MINIMUM: u8 = 2;
    pub const MAXIMUM: u8 = 3;
    pub const STDDEV: u8 = 4;
    pub const SAMPLE_COUNT: u8 = 5;
}

/// `rcl_interfaces/Log`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log {
    /// When it was said.
    pub stamp: Stamp,
    /// 10 debug, 20 info, 30 warn, 40 error.
    pub level: u8,
    /// Logger.
    pub name: String,
    /// The line.
    pub msg: String,
    /// Source file; empty when unknown.
    pub file: String,
    /// Function, or what stands for it.
    pub function: String,
    /// Line of the source file.
    pub line: u32,
}

/// Type of [`DiagnosticArray`].
pub const DIAGNOSTIC_ARRAY: &str = "diagnostic_msgs/msg/DiagnosticArray";
/// [`DiagnosticStatus`] on the wire.
pub const DIAGNOSTIC_STATUS: &str = "diagnostic_msgs/msg/DiagnosticStatus";
/// Type of [`Float64Stamped`].
pub const FLOAT64_STAMPED: &str = "autoware_internal_debug_msgs/msg/Float64Stamped";
/// Type of [`MetricsMessage`].
pub const METRICS_MESSAGE: &str = "statistics_msgs/msg/MetricsMessage";
/// Type of [`Log`].
pub const LOG: &str = "rcl_interfaces/msg/Log";
