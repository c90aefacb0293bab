//! The only frame type: `sensor_msgs/Image`, whether it came from a topic, a bag or a file.
//!
//! [`Image::validate`] is the one place that decides whether a frame may become a tensor. It is pure
//! arithmetic on the header fields and the length of the data, and needs no libtorch.

mod codec;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::msg::Header;

pub use codec::{encode_jpeg, encode_png, write_png};

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
    /// Non-zero when multi-byte channels are big-endian; no channel we accept is, so it is ignored.
    pub is_bigendian: u8,
    /// Bytes from one row to the next, at least `width` pixels' worth.
    pub step: u32,
    /// `height * step` bytes; for `nv12` half as much again, the chroma rows below the luma rows. Counted, so
    /// that those of a message are the ones that DDS received.
    pub data: Bytes,
}

impl Image {
    /// An image of `(height, width)` pixels without row padding.
    pub fn packed(
        header: Header,
        size: (usize, usize),
        encoding: &str,
        data: impl Into<Bytes>,
    ) -> Self {
        let data = data.into();
        let side = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Self {
            header,
            height: side(size.0),
            width: side(size.1),
            encoding: encoding.to_owned(),
            is_bigendian: 0,
            step: side(data.len() / size.0.max(1)),
            data,
        }
    }
}

/// What a camera may send and a decoder may allocate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most columns.
    pub max_width: u32,
    /// Most rows.
    pub max_height: u32,
    /// Most bytes of one uncompressed picture, row padding included.
    pub max_bytes: u64,
}

impl Default for Limits {
    /// 8192 x 8192 pixels, 64 MiB.
    fn default() -> Self {
        Self { max_width: 8192, max_height: 8192, max_bytes: 64 << 20 }
    }
}

impl Limits {
    /// Refuses a picture without pixels, or with more of them or of bytes than allowed.
    fn check(&self, width: u32, height: u32, bytes: u64) -> Result<(), Reject> {
        if width == 0 || height == 0 {
            return Err(Reject::SizeZero { width, height });
        }
        if width > self.max_width || height > self.max_height || bytes > self.max_bytes {
            return Err(Reject::SizeLimit { width, height, bytes, limits: *self });
        }
        Ok(())
    }
}

/// A pixel format that becomes RGB; all of them have 8 bits per sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Red, green, blue.
    Rgb8,
    /// Blue, green, red.
    Bgr8,
    /// Red, green, blue, alpha.
    Rgba8,
    /// Blue, green, red, alpha.
    Bgra8,
    /// One grey value.
    Mono8,
    /// YUV 4:2:2: U Y0 V Y1 for two pixels side by side.
    Uyvy,
    /// YUV 4:2:2: Y0 U Y1 V for two pixels side by side.
    Yuyv,
    /// YUV 4:2:0: `height` rows of Y, then `height / 2` rows of U V, one pair for 2x2 pixels.
    Nv12,
    /// One colour per pixel, 0 red, 1 green, 2 blue: of the pixels (0, 0), (0, 1), (1, 0), (1, 1),
    /// and so on every two rows and columns.
    Bayer([u8; 4]),
}

impl Encoding {
    /// Every name accepted in `Image::encoding`: those of sensor_msgs, its deprecated YUV names, and
    /// OpenCV's types, which hold blue first.
    pub const NAMES: [(&'static str, Self); 17] = [
        ("rgb8", Self::Rgb8),
        ("bgr8", Self::Bgr8),
        ("rgba8", Self::Rgba8),
        ("bgra8", Self::Bgra8),
        ("mono8", Self::Mono8),
        ("8UC1", Self::Mono8),
        ("8UC3", Self::Bgr8),
        ("8UC4", Self::Bgra8),
        ("uyvy", Self::Uyvy),
        ("yuv422", Self::Uyvy),
        ("yuyv", Self::Yuyv),
        ("yuv422_yuy2", Self::Yuyv),
        ("nv12", Self::Nv12),
        ("bayer_rggb8", Self::Bayer([0, 1, 1, 2])),
        ("bayer_bggr8", Self::Bayer([2, 1, 1, 0])),
        ("bayer_gbrg8", Self::Bayer([1, 2, 0, 1])),
        ("bayer_grbg8", Self::Bayer([1, 0, 2, 1])),
    ];

    /// The encoding of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|&(_, encoding)| encoding)
    }

    /// Bytes of a row without padding.
    pub fn row_bytes(self, width: u32) -> u64 {
        u64::from(width)
            * match self {
                Self::Mono8 | Self::Nv12 | Self::Bayer(_) => 1,
                Self::Uyvy | Self::Yuyv => 2,
                Self::Rgb8 | Self::Bgr8 => 3,
                Self::Rgba8 | Self::Bgra8 => 4,
            }
    }

    /// Rows of `step` bytes that a picture of `height` rows takes.
    pub fn rows(self, height: u32) -> u64 {
        let chroma = if self == Self::Nv12 { height / 2 } else { 0 };
        u64::from(height) + u64::from(chroma)
    }

    /// What the encoding demands of a picture's size, where this size falls short of it.
    fn size_rule(self, width: u32, height: u32) -> Option<&'static str> {
        match self {
            Self::Uyvy | Self::Yuyv if width % 2 == 1 => Some("an even width"),
            Self::Nv12 if width % 2 == 1 || height % 2 == 1 => Some("an even width and height"),
            Self::Bayer(_) if width < 2 || height < 2 => Some("at least 2x2 pixels"),
            _ => None,
        }
    }
}

impl Image {
    /// The pixel format, if the frame is what its fields say and within `limits`.
    ///
    /// Padded rows and data beyond the last row are fine. As sensor_msgs demands, every row has
    /// `step` bytes, the last one too.
    ///
    /// # Errors
    /// The first disagreement found: encoding, size, limits, step, length of the data.
    pub fn validate(&self, limits: &Limits) -> Result<Encoding, Reject> {
        let Self { width, height, step, .. } = *self;
        let encoding = Encoding::from_name(&self.encoding)
            .ok_or_else(|| Reject::Encoding { found: self.encoding.clone() })?;
        let needed = encoding.rows(height).saturating_mul(step.into());
        limits.check(width, height, needed)?;
        if let Some(rule) = encoding.size_rule(width, height) {
            return Err(Reject::LayoutSize {
                width,
                height,
                encoding: self.encoding.clone(),
                rule,
            });
        }
        let row = encoding.row_bytes(width);
        if u64::from(step) < row {
            return Err(Reject::LayoutStep { step, row, width, encoding: self.encoding.clone() });
        }
        let found = self.data.len() as u64;
        if found < needed {
            return Err(Reject::LayoutShort { found, needed });
        }
        Ok(encoding)
    }
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
    /// More than [`Limits`] allow.
    #[error(
        "{width}x{height} in {bytes} bytes, allowed: {}x{} in {} bytes",
        limits.max_width, limits.max_height, limits.max_bytes
    )]
    SizeLimit {
        /// Columns claimed.
        width: u32,
        /// Rows claimed.
        height: u32,
        /// Bytes of the uncompressed picture.
        bytes: u64,
        /// What is allowed.
        limits: Limits,
    },
    /// A pixel format that is not in [`Encoding::NAMES`], or a file of one.
    #[error("encoding `{found}`, supported: {}", Encoding::NAMES.map(|(name, _)| name).join(", "))]
    Encoding {
        /// The encoding claimed, or what the file holds.
        found: String,
    },
    /// A size that the encoding cannot have.
    #[error("{encoding} needs {rule}, the image is {width}x{height}")]
    LayoutSize {
        /// Columns claimed.
        width: u32,
        /// Rows claimed.
        height: u32,
        /// The encoding claimed.
        encoding: String,
        /// What the encoding demands.
        rule: &'static str,
    },
    /// Rows that overlap.
    #[error("step is {step}, but a row of {width} {encoding} pixels takes {row} bytes")]
    LayoutStep {
        /// Bytes per row claimed.
        step: u32,
        /// Bytes that a row needs.
        row: u64,
        /// Columns claimed.
        width: u32,
        /// The encoding claimed.
        encoding: String,
    },
    /// Less data than the rows take.
    #[error("data holds {found} bytes, its rows take {needed}")]
    LayoutShort {
        /// Bytes there.
        found: u64,
        /// Bytes promised.
        needed: u64,
    },
    /// A compressed picture that is cut short, corrupt, or of another format.
    #[error("{format}: {problem}")]
    Decode {
        /// What it looked like.
        format: &'static str,
        /// Where the decoder stopped.
        problem: String,
    },
    /// A result that the format cannot hold.
    #[error("cannot write {format}: {problem}")]
    Encode {
        /// The format.
        format: &'static str,
        /// What the encoder said.
        problem: String,
    },
    /// A message whose bytes are not of its type.
    #[error("not a message of its type: {problem}")]
    Cdr {
        /// What the CDR reader said.
        problem: String,
    },
    /// A stamp that was never set.
    #[error("its stamp is zero; make the camera set it, or set allow_zero_stamp: true")]
    StampZero,
    /// A stamp before that of the camera's last frame.
    #[error("its stamp lies {back_ms} ms before that of the frame before")]
    StampOld {
        /// By how much.
        back_ms: i64,
    },
    /// A stamp that the clock has not reached.
    #[error(
        "its stamp lies {ahead_ms} ms in the future; synchronise the clocks of camera and computer"
    )]
    StampFuture {
        /// By how much.
        ahead_ms: i64,
    },
    /// A frame that came too late to act upon.
    #[error("it is {age_ms} ms old, allowed: max_age_ms = {max_age_ms}")]
    Stale {
        /// From its stamp to the look at it.
        age_ms: i64,
        /// What is allowed.
        max_age_ms: i64,
    },
    /// The frame before, once more.
    #[error("its stamp and content are those of the frame before")]
    Duplicate,
}

impl Reject {
    /// The reason's fixed name in `status`, counters and diagnostics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::SizeZero { .. } => "size_zero",
            Self::SizeLimit { .. } => "size_limit",
            Self::Encoding { .. } => "encoding",
            Self::LayoutSize { .. } => "layout_size",
            Self::LayoutStep { .. } => "layout_step",
            Self::LayoutShort { .. } => "layout_short",
            Self::Decode { .. } => "decode",
            Self::Encode { .. } => "encode",
            Self::Cdr { .. } => "cdr",
            Self::StampZero => "stamp_zero",
            Self::StampOld { .. } => "stamp_old",
            Self::StampFuture { .. } => "stamp_future",
            Self::Stale { .. } => "stale",
            Self::Duplicate => "duplicate",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(encoding: &str, width: u32, height: u32, step: u32, bytes: usize) -> Image {
        let (encoding, data) = (encoding.into(), vec![0; bytes]);
        Image { height, width, encoding, step, data: data.into(), ..Image::default() }
    }

    fn reason(image: &Image) -> &'static str {
        image.validate(&Limits::default()).unwrap_err().name()
    }

    #[test]
    fn every_encoding_takes_exactly_its_bytes() {
        for (name, encoding) in Encoding::NAMES {
            let row = match name {
                "rgb8" | "bgr8" | "8UC3" => 18,
                "rgba8" | "bgra8" | "8UC4" => 24,
                "uyvy" | "yuv422" | "yuyv" | "yuv422_yuy2" => 12,
                _ => 6,
            };
            let rows = if name == "nv12" { 6 } else { 4 };
            for padding in [0, 5] {
                let step = row + padding;
                let bytes = usize::try_from(rows * step).unwrap();
                let limits = Limits::default();
                assert_eq!(image(name, 6, 4, step, bytes).validate(&limits), Ok(encoding));
                assert_eq!(image(name, 6, 4, step, bytes + 9).validate(&limits), Ok(encoding));
                assert_eq!(reason(&image(name, 6, 4, step, bytes - 1)), "layout_short");
            }
            assert_eq!(reason(&image(name, 6, 4, row - 1, 999)), "layout_step");
        }
    }

    #[test]
    fn lying_sizes_are_refused_by_name() {
        let most = u32::MAX;
        for (image, name) in [
            (image("rgb8", 0, 4, 0, 0), "size_zero"),
            (image("rgb8", 6, 0, 18, 0), "size_zero"),
            (image("rgb8", 65535, 65535, 196_605, 10), "size_limit"),
            (image("nv12", most, most, most, 10), "size_limit"),
            (image("mono8", 8192, 8192, 8193, 10), "size_limit"), // by its padding
            (image("mono8", 8192, 8192, 8192, 10), "layout_short"),
            (image("yuyv", 5, 4, 12, 48), "layout_size"),
            (image("nv12", 6, 3, 6, 99), "layout_size"),
            (image("bayer_rggb8", 1, 4, 6, 99), "layout_size"),
            (image("", 6, 4, 18, 72), "encoding"),
            (image("RGB8", 6, 4, 18, 72), "encoding"),
            (image("mono16", 6, 4, 12, 48), "encoding"),
        ] {
            assert_eq!(reason(&image), name, "{image:?}");
        }
        let all = Limits { max_width: most, max_height: most, max_bytes: u64::MAX - 1 };
        let error = image("nv12", most - 1, most - 1, most, 10).validate(&all).unwrap_err();
        assert_eq!(error.name(), "size_limit", "a product beyond 64 bits must not wrap");
    }

    #[test]
    fn a_reject_names_the_two_things_that_disagree() {
        for (image, parts) in [
            (image("bgr8", 640, 480, 640, 0), ["640 bgr8", "1920"]),
            (image("bgr8", 640, 480, 1920, 7), ["7 bytes", "921600"]),
            (image("rgb16", 640, 480, 3840, 0), ["`rgb16`", "bayer_grbg8"]),
            (image("rgb8", 9000, 1, 27000, 0), ["9000x1", "8192x8192"]),
        ] {
            let text = image.validate(&Limits::default()).unwrap_err().to_string();
            assert!(parts.iter().all(|part| text.contains(part)), "{text}");
        }
    }
}
