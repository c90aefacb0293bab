//! ROS 2 messages as plain structs: fields in IDL order, so that serde gives their CDR layout.
//!
//! [`crate::image::Image`] is `sensor_msgs/Image` itself. `ros/` implements the transport's traits
//! for these; `bag/` writes them with `cdr` and reads them with `cdr-encoding`.

mod vision;

use serde::{Deserialize, Serialize};

pub use vision::*;

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
