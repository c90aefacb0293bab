//! ROS 2 messages as plain structs: fields in IDL order, so that serde gives their CDR layout.
//!
//! [`crate::image::Image`] is `sensor_msgs/Image` itself. `ros/` implements the transport's traits
//! for these; `bag/` writes them with `cdr` and reads them with `cdr-encoding`.

use serde::{Deserialize, Serialize};

/// `builtin_interfaces/Time`: seconds and nanoseconds since the epoch of the sender's clock.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Stamp {
    /// Seconds.
    pub sec: i32,
    /// Nanoseconds, 0 to 999,999,999.
    pub nanosec: u32,
}

/// `std_msgs/Header`: when and in which coordinate frame the sensor saw it. Never changed by us.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Sensor time.
    pub stamp: Stamp,
    /// Coordinate frame, an `_optical` one for cameras (REP-103).
    pub frame_id: String,
}

/// `sensor_msgs/CompressedImage`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompressedImage {
    /// Sensor time and frame.
    pub header: Header,
    /// `jpeg`, `png`, or image_transport's `ORIG; jpeg compressed PIXFMT`; empty means JPEG.
    pub format: String,
    /// The encoded file.
    #[serde(with = "serde_bytes")]
    pub data: Vec<u8>,
}

/// `ood_segmentation/FrameStatus`, one per camera frame; `msg/FrameStatus.msg` documents each field.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "msg/FrameStatus.msg documents every field, once")]
pub struct FrameStatus {
    pub header: Header,
    pub camera: String,
    pub sequence: u64,
    pub dropped: u64,
    pub state: u8,
    pub reason: String,
    pub text: String,
    pub height: u32,
    pub width: u32,
    pub wait_ms: f32,
    pub decode_ms: f32,
    pub preprocess_ms: f32,
    pub inference_ms: f32,
    pub postprocess_ms: f32,
    pub latency_ms: f32,
    pub score: String,
    pub ood_threshold: f32,
    pub model_sha256: String,
}

impl FrameStatus {
    /// `state`: masks were published.
    pub const OK: u8 = 0;
    /// `state`: nothing is known about this frame.
    pub const NO_DATA: u8 = 1;
}
