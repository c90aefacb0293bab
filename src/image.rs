//! The only frame type: `sensor_msgs/Image`, whether it came from a topic, a bag or a file.

use serde::{Deserialize, Serialize};

use crate::msg::{CompressedImage, Header};

/// `sensor_msgs/Image`, fields in message order so that serde gives its CDR layout.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Sensor time and frame; crosses the whole node unchanged.
    pub header: Header,
    /// Rows.
    pub height: u32,
    /// Columns.
    pub width: u32,
    /// The pixel format.
    pub encoding: String,
    /// Non-zero when multi-byte channels are big-endian.
    pub is_bigendian: u8,
    /// Bytes from one row to the next, at least `width` pixels' worth.
    pub step: u32,
    /// `height * step` bytes.
    #[serde(with = "serde_bytes")]
    pub data: Vec<u8>,
}

/// What a picture may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Columns.
    pub max_width: u32,
    /// Rows.
    pub max_height: u32,
    /// Bytes of the uncompressed picture.
    pub max_bytes: u64,
}

/// Why a frame is refused before any tensor is made. The name is what `status` publishes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reject {
    /// Zero rows or columns.
    #[error("{width}x{height} has no pixels")]
    SizeZero {
        /// Columns claimed.
        width: u32,
        /// Rows claimed.
        height: u32,
    },
    /// A compressed picture that is cut short, corrupt, or of another format.
    #[error("{format}: {problem}")]
    Decode {
        /// What it looked like.
        format: &'static str,
        /// Where the decoder stopped.
        problem: String,
    },
}

impl Reject {
    /// The reason's fixed name in `status`, counters and diagnostics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::SizeZero { .. } => "size_zero",
            Self::Decode { .. } => "decode",
        }
    }
}

impl Image {
    /// Stub of this branch: the decoder is merged from its own branch.
    pub fn from_compressed(image: &CompressedImage, _limits: &Limits) -> Result<Self, Reject> {
        Err(Reject::Decode { format: "jpeg", problem: image.format.clone() })
    }
}
