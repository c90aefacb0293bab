//! ROS 2 messages as plain structs: fields in IDL order, so that serde gives their CDR layout.
//!
//! [`crate::image::Image`] is `sensor_msgs/Image` itself. `ros/` implements the transport's traits
//! for these; `bag/` writes them with `cdr` and reads them with `cdr-encoding`.

mod diagnostic;
mod service;
mod vision;

use std::time::{SystemTime, UNIX_EPOCH};

use cdr::{BigEndian, CdrLe, Infinite, LittleEndian};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use diagnostic::*;
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

impl Stamp {
    /// Now, on the system's clock.
    #[must_use]
    pub fn now() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let sec = i32::try_from(now.as_secs()).unwrap_or(i32::MAX);
        Self { sec, nanosec: now.subsec_nanos() }
    }

    /// Nanoseconds since the epoch.
    #[must_use]
    pub fn nanos(self) -> i64 {
        i64::from(self.sec) * 1_000_000_000 + i64::from(self.nanosec)
    }
}

/// `rosgraph_msgs/Clock`, whose CDR is that of its only field, a [`Stamp`].
pub const CLOCK: &str = "rosgraph_msgs/msg/Clock";

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

impl CompressedImage {
    /// `format` of a JPEG of rgb8, as image_transport calls it.
    pub const JPEG_OF_RGB8: &str = "rgb8; jpeg compressed bgr8";
    /// `format` of a PNG of one channel; the trailing space is part of image_transport's name.
    pub const PNG_OF_MONO8: &str = "mono8; png compressed ";
}

/// `ood_segmentation/FrameStatus`, one per camera frame; `msg/FrameStatus.msg` documents each field.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "msg/FrameStatus.msg documents every field, once")]
pub struct FrameStatus {
    pub header: Header,
    pub camera: String,
    pub sequence: u64,
    pub dropped: u64,
    pub limited: u64,
    pub state: u8,
    pub reason: String,
    pub text: String,
    pub height: u32,
    pub width: u32,
    pub wait_ms: f32,
    pub decode_ms: f32,
    pub preprocess_ms: f32,
    pub inference_ms: f32,
    pub batch: u32,
    pub postprocess_ms: f32,
    pub latency_ms: f32,
    pub score: String,
    pub ood_threshold: f32,
    pub model_sha256: String,
    pub age_ms: f32,
    pub late: bool,
    pub mode: String,
    pub ood_fraction: f32,
    pub run_id: u32,
    pub mask_crc32: u32,
    pub ood_crc32: u32,
    pub quality: u16,
    pub unfamiliarity: f32,
}

/// Type of [`FrameStatus`].
pub const FRAME_STATUS: &str = "ood_segmentation/msg/FrameStatus";

/// [`FrameStatus`], for bags.
pub const FRAME_STATUS_DEFINITION: Definition = Definition {
    type_name: FRAME_STATUS,
    text: concat!(
        include_str!("../msg/FrameStatus.msg"),
        "================================================================================\n",
        "MSG: std_msgs/Header\n",
        "builtin_interfaces/Time stamp\nstring frame_id\n",
        "================================================================================\n",
        "MSG: builtin_interfaces/Time\n",
        "int32 sec\nuint32 nanosec\n",
    ),
    hash: "RIHS01_46a2f248c7caa82fb4cf7c0fc1f22d63b17f8f3ee3ec1fcf5b96a6d7779ad395",
};

impl FrameStatus {
    /// `state`: masks were published.
    pub const OK: u8 = 0;
    /// `state`: nothing is known about this frame.
    pub const NO_DATA: u8 = 1;
    /// `state`: classes were published, nothing is known about obstacles.
    pub const CLASSES_ONLY: u8 = 2;
}

/// `sensor_msgs/CameraInfo`: the pinhole calibration that belongs to an image of the same header.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CameraInfo {
    /// That of the image.
    pub header: Header,
    /// Rows of the calibrated image.
    pub height: u32,
    /// Columns of the calibrated image.
    pub width: u32,
    /// Such as `plumb_bob` or `rational_polynomial`; says how many coefficients `d` has.
    pub distortion_model: String,
    /// Distortion coefficients.
    pub d: Vec<f64>,
    /// Intrinsic matrix (3, 3), row-major: fx 0 cx, 0 fy cy, 0 0 1, pixels.
    pub k: [f64; 9],
    /// Rectification (3, 3), row-major.
    pub r: [f64; 9],
    /// Projection (3, 4), row-major.
    pub p: [f64; 12],
    /// Columns merged into one by the camera; 0 means 1.
    pub binning_x: u32,
    /// Rows merged into one by the camera; 0 means 1.
    pub binning_y: u32,
    /// The part of the sensor that the image shows.
    pub roi: RegionOfInterest,
}

impl CameraInfo {
    /// The calibration beside a picture of `height` and `width` with this header.
    #[must_use]
    pub fn beside(&self, header: &Header, size: (usize, usize)) -> Self {
        let [height, width] = [size.0, size.1].map(|side| u32::try_from(side).unwrap_or(u32::MAX));
        Self { header: header.clone(), ..self.scaled(width, height) }
    }

    /// The calibration of the same picture at `width x height`, as image_proc scales it: focal lengths,
    /// principal point and baseline by the ratio of the sizes, distortion unchanged.
    ///
    /// Binning and region of interest go into the matrices, because the result describes the whole of
    /// its picture. At the size that the fields already describe it is returned unchanged.
    #[must_use]
    pub fn scaled(&self, width: u32, height: u32) -> Self {
        if (width, height) == (self.width, self.height) {
            return self.clone();
        }
        let roi = self.roi;
        // A region of no size is the whole picture; an empty calibration stays one.
        let side =
            |region: u32, full: u32| f64::from(if region > 0 { region } else { full }.max(1));
        let sx = f64::from(width) / side(roi.width, self.width);
        let sy = f64::from(height) / side(roi.height, self.height);
        let (left, top) = (f64::from(roi.x_offset), f64::from(roi.y_offset));
        let transform = |matrix: &mut [f64], columns: usize| {
            for i in 0..columns {
                let third = matrix[2 * columns + i]; // 1 at the principal point, else 0
                matrix[i] = (matrix[i] - left * third) * sx;
                matrix[columns + i] = (matrix[columns + i] - top * third) * sy;
            }
        };
        let mut scaled = Self { width, height, binning_x: 0, binning_y: 0, ..self.clone() };
        scaled.roi = RegionOfInterest { do_rectify: roi.do_rectify, ..Default::default() };
        transform(&mut scaled.k, 3);
        transform(&mut scaled.p, 4);
        scaled
    }
}

/// `sensor_msgs/RegionOfInterest`; all zeros means the whole image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionOfInterest {
    /// First column.
    pub x_offset: u32,
    /// First row.
    pub y_offset: u32,
    /// Rows.
    pub height: u32,
    /// Columns.
    pub width: u32,
    /// The region is to be rectified on its own.
    pub do_rectify: bool,
}

/// What a bag must say about a message type so that others can decode it without having ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Definition {
    /// Such as `sensor_msgs/msg/Image`.
    pub type_name: &'static str,
    /// Fields in the `ros2msg` schema format, with the definitions of the types they use.
    pub text: &'static str,
    /// REP-2016 type hash, `RIHS01_...`; empty when unknown.
    pub hash: &'static str,
}

/// The `ros2msg` text of `std_msgs/Header` and below, appended to a definition that uses it.
macro_rules! with_header {
    ($fields:literal $($more:literal)?) => {
        concat!(
            $fields,
            "================================================================================\n",
            "MSG: std_msgs/Header\n",
            "builtin_interfaces/Time stamp\nstring frame_id\n",
            "================================================================================\n",
            "MSG: builtin_interfaces/Time\n",
            "int32 sec\nuint32 nanosec\n",
            $($more)?
        )
    };
}

use with_header; // by path, so that `vision` sees it

/// [`crate::image::Image`].
pub const IMAGE: Definition = Definition {
    type_name: "sensor_msgs/msg/Image",
    text: with_header!(
        "std_msgs/Header header\nuint32 height\nuint32 width\nstring encoding\n\
        uint8 is_bigendian\nuint32 step\nuint8[] data\n"
    ),
    hash: "RIHS01_d31d41a9a4c4bc8eae9be757b0beed306564f7526c88ea6a4588fb9582527d47",
};

/// [`CompressedImage`].
pub const COMPRESSED_IMAGE: Definition = Definition {
    type_name: "sensor_msgs/msg/CompressedImage",
    text: with_header!("std_msgs/Header header\nstring format\nuint8[] data\n"),
    hash: "RIHS01_15640771531571185e2efc8a100baf923961a4d15d5569652e6cb6691e8e371a",
};

/// [`CameraInfo`].
pub const CAMERA_INFO: Definition = Definition {
    type_name: "sensor_msgs/msg/CameraInfo",
    text: with_header!(
        "std_msgs/Header header\nuint32 height\nuint32 width\nstring distortion_model\n\
        float64[] d\nfloat64[9] k\nfloat64[9] r\nfloat64[12] p\nuint32 binning_x\n\
        uint32 binning_y\nsensor_msgs/RegionOfInterest roi\n"
        "================================================================================\n\
        MSG: sensor_msgs/RegionOfInterest\nuint32 x_offset\nuint32 y_offset\nuint32 height\n\
        uint32 width\nbool do_rectify\n"
    ),
    hash: "RIHS01_b3dfd68ff46c9d56c80fd3bd4ed22c7a4ddce8c8348f2f59c299e73118e7e275",
};

/// REP-2016 hash of a type by its name, such as `sensor_msgs/msg/Image`: `RIHS01_...`, what ROS 2 offers in
/// discovery; of a service's request or response that of the service. `None` for types that no topic or
/// service of ours has.
pub fn type_hash(type_name: &str) -> Option<&'static str> {
    let defined = [
        IMAGE,
        COMPRESSED_IMAGE,
        CAMERA_INFO,
        LABEL_INFO,
        DETECTIONS,
        IMAGE_MARKER,
        FRAME_STATUS_DEFINITION,
    ];
    let known =
        defined.into_iter().map(|definition| (definition.type_name, definition.hash)).chain(HASHES);
    let service = |end| type_name.strip_suffix(end).filter(|name| name.contains("/srv/"));
    let type_name = service("_Request").or_else(|| service("_Response")).unwrap_or(type_name);
    known.chain(service::HASHES).find_map(|(name, hash)| (name == type_name).then_some(hash))
}

/// Those of types without a [`Definition`]; the last two are read and written by ros2-client itself.
const HASHES: [(&str, &str); 9] = [
    (DIAGNOSTIC_ARRAY, "RIHS01_5a8a36efb05fb25070fa0fb3810290c0e6cd4862b54a8fb975a1ee8dc55a333e"),
    (DIAGNOSTIC_STATUS, "RIHS01_b0e3e692ea2d54a8af2f4ef1930e81556a2db55216b771f8a7d2724ed47bf0e4"),
    (FLOAT64_STAMPED, "RIHS01_588b194ed7eddc089b6ca098eb093e92f29bdad96ebd906fc9282816335942eb"),
    (METRICS_MESSAGE, "RIHS01_36a67fb499fc2a11b8b9ff9ac735ed76e8d5a1f7775d6d5b97b625188ec68e20"),
    (LOG, "RIHS01_e28ce254ca8abc06abf92773b74602cdbf116ed34fbaf294fb9f81da9f318eac"),
    (
        "lifecycle_msgs/msg/TransitionEvent",
        "RIHS01_d5f8873a2f0146498f812d7885c7327ce27e463d36811d8792f35ee38c0d6c38",
    ),
    (
        "rcl_interfaces/msg/ParameterEvent",
        "RIHS01_043e627780fcad87a22d225bc2a037361dba713fca6a6b9f4b869a5aa0393204",
    ),
    (
        "builtin_interfaces/msg/Time",
        "RIHS01_b106235e25a4c5ed35098aa0a61a3ee9c9b18d197f398b0e4206cea9acf9c197",
    ),
    (
        "rmw_dds_common/msg/ParticipantEntitiesInfo",
        "RIHS01_e725f4a506958c79f95dd693b965722c57b19cd18e7eff984f49561b93dc985d",
    ),
];

/// Bytes that do not hold the message they should, or a message that CDR cannot hold.
#[derive(Debug, thiserror::Error)]
pub enum CdrError {
    /// Not even an encapsulation header.
    #[error("{0} bytes, the CDR encapsulation header alone takes 4")]
    Short(usize),
    /// A representation that is not plain CDR, or no CDR at all.
    #[error("encapsulation {0:#06x}, readable are CDR_BE 0x0000 and CDR_LE 0x0001")]
    Encapsulation(u16),
    /// A length beyond the end, text that is not UTF-8, a boolean other than 0 and 1.
    #[error("{length} bytes do not hold the message: {source}")]
    Decode {
        /// Bytes of the payload, header included.
        length: usize,
        /// What was met in them.
        source: cdr_encoding::Error,
    },
    /// A sequence of more than 2^32 - 1 elements.
    #[error("the message does not fit CDR: {0}")]
    Encode(#[from] cdr::Error),
}

/// A message as little-endian CDR with its 4-byte encapsulation header, as bags and DDS hold it.
///
/// # Errors
/// [`CdrError::Encode`].
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, CdrError> {
    Ok(cdr::serialize::<_, _, CdrLe>(message, Infinite)?)
}

/// The message in CDR bytes with their encapsulation header, either endianness.
///
/// Lengths are checked against the bytes that are there before anything is allocated. Bytes after
/// the message are ignored, as every ROS implementation does: writers pad to four.
///
/// # Errors
/// All variants of [`CdrError`] but `Encode`.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CdrError> {
    let Some((&[high, low, _, _], body)) = bytes.split_first_chunk() else {
        return Err(CdrError::Short(bytes.len()));
    };
    let decoded = match u16::from_be_bytes([high, low]) {
        0 => cdr_encoding::from_bytes::<T, BigEndian>(body),
        1 => cdr_encoding::from_bytes::<T, LittleEndian>(body),
        other => return Err(CdrError::Encapsulation(other)),
    };
    let (message, _read) =
        decoded.map_err(|source| CdrError::Decode { length: bytes.len(), source })?;
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Image;

    /// Bytes of PyPI `rosbags` 0.11.9 for the messages below, little-endian then big-endian.
    const IMAGE_CDR: [&[u8]; 2] = [
        b"\0\x01\0\0\0\xf1Se\xd0\x07\0\0\x04\0\0\0cam\0\x02\0\0\0\x03\0\0\0\x06\0\0\0mono8\0\0\0\x03\0\0\0\
          \x06\0\0\0\0\x01\x02\x03\x04\x05",
        b"\0\0\0\0eS\xf1\0\0\0\x07\xd0\0\0\0\x04cam\0\0\0\0\x02\0\0\0\x03\0\0\0\x06mono8\0\0\0\0\0\0\x03\
          \0\0\0\x06\0\x01\x02\x03\x04\x05",
    ];
    const COMPRESSED_CDR: &[u8] =
        b"\0\x01\0\0\0\xf1Se\xd0\x07\0\0\x04\0\0\0cam\0\x05\0\0\0jpeg\0\0\0\0\
          \x03\0\0\0\xff\xd8\xff";
    const CAMERA_INFO_CDR: [&str; 2] = [
        "\
         0001000000f15365d00700000400000063616d0002000000030000000a000000706c756d625f626f620000\
         000200000000000000000000000000e03f000000000000d0bf0000000000000000000000000000f03f0000\
         00000000004000000000000008400000000000001040000000000000144000000000000018400000000000\
         001c400000000000002040000000000000f03f000000000000000000000000000000000000000000000000\
         000000000000f03f000000000000000000000000000000000000000000000000000000000000f03f000000\
         0000000000000000000000f03f000000000000004000000000000008400000000000001040000000000000\
         144000000000000018400000000000001c4000000000000020400000000000002240000000000000244000\
         0000000000264001000000020000000500000006000000070000000800000001",
        "\
         000000006553f100000007d00000000463616d0000000002000000030000000a706c756d625f626f620000\
         0000000002000000003fe0000000000000bfd000000000000000000000000000003ff00000000000004000\
         0000000000004008000000000000401000000000000040140000000000004018000000000000401c000000\
         00000040200000000000003ff0000000000000000000000000000000000000000000000000000000000000\
         3ff00000000000000000000000000000000000000000000000000000000000003ff0000000000000000000\
         00000000003ff0000000000000400000000000000040080000000000004010000000000000401400000000\
         00004018000000000000401c00000000000040200000000000004022000000000000402400000000000040\
         2600000000000000000001000000020000000500000006000000070000000801",
    ];

    fn header() -> Header {
        Header { stamp: Stamp { sec: 1_700_000_000, nanosec: 2000 }, frame_id: "cam".into() }
    }

    fn image() -> Image {
        let data = vec![0, 1, 2, 3, 4, 5];
        let encoding = "mono8".to_string();
        Image {
            header: header(),
            height: 2,
            width: 3,
            encoding,
            is_bigendian: 0,
            step: 3,
            data: data.into(),
        }
    }

    fn camera_info() -> CameraInfo {
        let ramp = |i: usize| f64::from(u8::try_from(i).unwrap());
        CameraInfo {
            header: header(),
            height: 2,
            width: 3,
            distortion_model: "plumb_bob".into(),
            d: vec![0.5, -0.25],
            k: std::array::from_fn(ramp),
            r: [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
            p: std::array::from_fn(ramp),
            binning_x: 1,
            binning_y: 2,
            roi: RegionOfInterest {
                x_offset: 5,
                y_offset: 6,
                height: 7,
                width: 8,
                do_rectify: true,
            },
        }
    }

    fn hex(text: &str) -> Vec<u8> {
        let digits = (0..text.len()).step_by(2);
        digits.map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }

    #[test]
    fn bytes_are_those_of_an_independent_writer() {
        let compressed = CompressedImage {
            header: header(),
            format: "jpeg".into(),
            data: vec![0xff, 0xd8, 0xff],
        };
        assert_eq!(encode(&image()).unwrap(), IMAGE_CDR[0]);
        assert_eq!(encode(&compressed).unwrap(), COMPRESSED_CDR);
        assert_eq!(encode(&camera_info()).unwrap(), hex(CAMERA_INFO_CDR[0]));
        assert_eq!(decode::<CompressedImage>(COMPRESSED_CDR).unwrap(), compressed);
    }

    #[test]
    fn both_endiannesses_are_read_and_trailing_bytes_ignored() {
        for (bytes, info) in IMAGE_CDR.iter().zip(CAMERA_INFO_CDR) {
            assert_eq!(decode::<Image>(bytes).unwrap(), image());
            assert_eq!(decode::<CameraInfo>(&hex(info)).unwrap(), camera_info());
            let padded = [bytes, &b"\0\0"[..]].concat();
            assert_eq!(decode::<Image>(&padded).unwrap(), image());
        }
    }

    #[test]
    fn a_lying_length_is_an_error_wherever_it_stands() {
        let good = IMAGE_CDR[0];
        for cut in 0..good.len() {
            assert!(decode::<Image>(&good[..cut]).is_err(), "cut to {cut} bytes");
        }
        for at in [12, 28, 44] {
            let mut bytes = good.to_vec(); // frame_id, encoding, data
            bytes[at..at + 4].fill(0xff);
            assert!(decode::<Image>(&bytes).is_err(), "length at {at}");
        }
        let mut long = hex(CAMERA_INFO_CDR[0]);
        long[44..48].fill(0xff); // d
        assert!(decode::<CameraInfo>(&long).is_err());
        let parameter_list = [&[0, 3, 0, 0], &good[4..]].concat();
        let error = decode::<Image>(&parameter_list).unwrap_err().to_string();
        assert!(error.contains("0x0003"), "{error}");
    }

    #[test]
    fn a_scaled_calibration_projects_points_to_the_same_place_of_the_picture() {
        let mut info = CameraInfo {
            width: 1920,
            height: 1200,
            k: [1000.0, 0.0, 960.0, 0.0, 1100.0, 600.0, 0.0, 0.0, 1.0],
            p: [900.0, 0.0, 950.0, -90.0, 0.0, 990.0, 590.0, 0.0, 0.0, 0.0, 1.0, 0.0],
            d: vec![0.1],
            ..CameraInfo::default()
        };
        assert_eq!(info.scaled(1920, 1200), info);
        let half = info.scaled(960, 300);
        assert_eq!((half.width, half.height, &half.d), (960, 300, &info.d));
        assert_eq!(half.k, [500.0, 0.0, 480.0, 0.0, 275.0, 150.0, 0.0, 0.0, 1.0]);
        let p = [450.0, 0.0, 475.0, -45.0, 0.0, 247.5, 147.5, 0.0, 0.0, 0.0, 1.0, 0.0];
        assert_eq!(half.p, p);
        // The right lower quarter of the sensor, binned: what was at (960, 600) is at (0, 0).
        info.roi =
            RegionOfInterest { x_offset: 960, y_offset: 600, height: 600, width: 960, ..info.roi };
        (info.binning_x, info.binning_y) = (2, 2);
        let cut = info.scaled(480, 300);
        assert_eq!(cut.k, [500.0, 0.0, 0.0, 0.0, 550.0, 0.0, 0.0, 0.0, 1.0]);
        assert_eq!((cut.p[2], cut.p[3], cut.p[6]), (-5.0, -45.0, -5.0));
        assert_eq!((cut.binning_x, cut.roi), (0, RegionOfInterest::default()));
        let empty = CameraInfo::default().scaled(640, 480);
        assert_eq!((empty.k, empty.width), ([0.0; 9], 640));
    }
}
