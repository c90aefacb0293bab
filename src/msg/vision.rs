//! What obstacles and class names travel in: `vision_msgs` 4 (Humble and later) and the marker of
//! `visualization_msgs` that viewers draw over a camera's picture.

use serde::{Deserialize, Serialize};

use super::{Definition, Header, Stamp, with_header};
use crate::config::{Class, ClassTable};

/// `vision_msgs/LabelInfo`: the names of the ids in a label image.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LabelInfo {
    /// When it was made.
    pub header: Header,
    /// One entry per id.
    pub class_map: Vec<VisionClass>,
    /// Confidence, 0 to 1, that labels had to reach; 0 where none had to.
    pub threshold: f32,
}

impl LabelInfo {
    /// The names of the train ids.
    pub fn new(header: Header, table: &ClassTable) -> Self {
        let entry = |class: &Class| VisionClass {
            class_id: class.id.into(),
            class_name: class.name.clone(),
        };
        Self { header, class_map: table.0.iter().map(entry).collect(), threshold: 0.0 }
    }
}

/// `vision_msgs/VisionClass`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VisionClass {
    /// Value in the label image; 255 of a `mono8` one means unlabelled.
    pub class_id: u16,
    /// Name.
    pub class_name: String,
}

/// `vision_msgs/Detection2DArray`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Detection2DArray {
    /// That of the image.
    pub header: Header,
    /// What was found in it.
    pub detections: Vec<Detection2D>,
}

/// `vision_msgs/Detection2D`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Detection2D {
    /// That of the image.
    pub header: Header,
    /// What it may be.
    pub results: Vec<ObjectHypothesisWithPose>,
    /// Where it is.
    pub bbox: BoundingBox2D,
    /// The same for the same object in later frames; empty without tracking.
    pub id: String,
}

/// `vision_msgs/ObjectHypothesisWithPose`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ObjectHypothesisWithPose {
    /// Class and score.
    pub hypothesis: ObjectHypothesis,
    /// Where it is in space.
    pub pose: PoseWithCovariance,
}

/// `vision_msgs/ObjectHypothesis`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ObjectHypothesis {
    /// Class.
    pub class_id: String,
    /// Probability, 0 to 1.
    pub score: f64,
}

/// `vision_msgs/BoundingBox2D`, pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BoundingBox2D {
    /// Centre.
    pub center: Pose2D,
    /// Width before rotation.
    pub size_x: f64,
    /// Height before rotation.
    pub size_y: f64,
}

/// `vision_msgs/Pose2D`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pose2D {
    /// Pixels.
    pub position: Point2D,
    /// Radians.
    pub theta: f64,
}

/// `vision_msgs/Point2D`, pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Point2D {
    /// From the left.
    pub x: f64,
    /// From the top.
    pub y: f64,
}

/// `geometry_msgs/PoseWithCovariance`; the default is the origin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PoseWithCovariance {
    /// Position and orientation.
    pub pose: Pose,
    /// (6, 6) over x, y, z and the rotations about them.
    pub covariance: [[f64; 6]; 6],
}

/// `geometry_msgs/Pose`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pose {
    /// Metres.
    pub position: Point,
    /// Orientation.
    pub orientation: Quaternion,
}

/// `geometry_msgs/Point`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// First axis.
    pub x: f64,
    /// Second axis.
    pub y: f64,
    /// Third axis.
    pub z: f64,
}

/// `geometry_msgs/Quaternion`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quaternion {
    /// First axis.
    pub x: f64,
    /// Second axis.
    pub y: f64,
    /// Third axis.
    pub z: f64,
    /// Real part.
    pub w: f64,
}

impl Default for Quaternion {
    /// No rotation.
    fn default() -> Self {
        Self { x: 0.0, y: 0.0, z: 0.0, w: 1.0 }
    }
}

/// `visualization_msgs/ImageMarker`: lines over a picture, pixels from its top left corner.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ImageMarker {
    /// That of the image.
    pub header: Header,
    /// With `id`, its name.
    pub ns: String,
    /// With `ns`, its name.
    pub id: i32,
    /// `type` of the message: what the points are.
    pub kind: i32,
    /// 0 adds or replaces it, 1 takes it away.
    pub action: i32,
    /// Centre of a circle.
    pub position: Point,
    /// Width of lines, px.
    pub scale: f32,
    /// Colour of lines.
    pub outline_color: ColorRgba,
    /// Whether to fill it.
    pub filled: u8,
    /// Colour of the filling.
    pub fill_color: ColorRgba,
    /// How long it stays: seconds and nanoseconds, 0 until it is replaced.
    pub lifetime: Stamp,
    /// Ends of lines.
    pub points: Vec<Point>,
    /// A colour per line, or none.
    pub outline_colors: Vec<ColorRgba>,
}

impl ImageMarker {
    /// Lines from the first point to the second, the third to the fourth and so on.
    pub const LINE_LIST: i32 = 2;
}

/// `std_msgs/ColorRGBA`, 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ColorRgba {
    /// Red.
    pub r: f32,
    /// Green.
    pub g: f32,
    /// Blue.
    pub b: f32,
    /// Opacity.
    pub a: f32,
}

/// [`LabelInfo`].
pub const LABEL_INFO: Definition = Definition {
    type_name: "vision_msgs/msg/LabelInfo",
    text: with_header!(
        "std_msgs/Header header\nvision_msgs/VisionClass[] class_map\nfloat32 threshold\n"
        "================================================================================\n\
        MSG: vision_msgs/VisionClass\nuint16 class_id\nstring class_name\n"
    ),
    hash: "RIHS01_3d37df4015cdf660cc851c51897f2acd957e1ca6205ba0a99aebffb9406b0783",
};

/// [`Detection2DArray`].
pub const DETECTIONS: Definition = Definition {
    type_name: "vision_msgs/msg/Detection2DArray",
    text: with_header!(
        "std_msgs/Header header\nvision_msgs/Detection2D[] detections\n"
        "================================================================================\n\
        MSG: vision_msgs/Detection2D\nstd_msgs/Header header\nvision_msgs/ObjectHypothesisWithPose[] results\n\
        vision_msgs/BoundingBox2D bbox\nstring id\n\
        ================================================================================\n\
        MSG: vision_msgs/ObjectHypothesisWithPose\nvision_msgs/ObjectHypothesis hypothesis\n\
        geometry_msgs/PoseWithCovariance pose\n\
        ================================================================================\n\
        MSG: vision_msgs/ObjectHypothesis\nstring class_id\nfloat64 score\n\
        ================================================================================\n\
        MSG: geometry_msgs/PoseWithCovariance\ngeometry_msgs/Pose pose\nfloat64[36] covariance\n\
        ================================================================================\n\
        MSG: geometry_msgs/Pose\ngeometry_msgs/Point position\ngeometry_msgs/Quaternion orientation\n\
        ================================================================================\n\
        MSG: geometry_msgs/Point\nfloat64 x\nfloat64 y\nfloat64 z\n\
        ================================================================================\n\
        MSG: geometry_msgs/Quaternion\nfloat64 x\nfloat64 y\nfloat64 z\nfloat64 w\n\
        ================================================================================\n\
        MSG: vision_msgs/BoundingBox2D\nvision_msgs/Pose2D center\nfloat64 size_x\nfloat64 size_y\n\
        ================================================================================\n\
        MSG: vision_msgs/Pose2D\nvision_msgs/Point2D position\nfloat64 theta\n\
        ================================================================================\n\
        MSG: vision_msgs/Point2D\nfloat64 x\nfloat64 y\n"
    ),
    hash: "RIHS01_214274120007f4a683866481336b70310268cfa107aebe9d594a6acf75bda968",
};

/// [`ImageMarker`].
pub const IMAGE_MARKER: Definition = Definition {
    type_name: "visualization_msgs/msg/ImageMarker",
    text: with_header!(
        "int32 CIRCLE=0\nint32 LINE_STRIP=1\nint32 LINE_LIST=2\nint32 POLYGON=3\nint32 POINTS=4\n\
        int32 ADD=0\nint32 REMOVE=1\nstd_msgs/Header header\nstring ns\nint32 id\nint32 type\n\
        int32 action\ngeometry_msgs/Point position\nfloat32 scale\n\
        std_msgs/ColorRGBA outline_color\nuint8 filled\nstd_msgs/ColorRGBA fill_color\n\
        builtin_interfaces/Duration lifetime\ngeometry_msgs/Point[] points\n\
        std_msgs/ColorRGBA[] outline_colors\n"
        "================================================================================\n\
        MSG: geometry_msgs/Point\nfloat64 x\nfloat64 y\nfloat64 z\n\
        ================================================================================\n\
        MSG: std_msgs/ColorRGBA\nfloat32 r\nfloat32 g\nfloat32 b\nfloat32 a\n\
        ================================================================================\n\
        MSG: builtin_interfaces/Duration\nint32 sec\nuint32 nanosec\n"
    ),
    hash: "RIHS01_603152491ef2331c200a5305230d31f6e8704875944b388da0f547c415d11836",
};

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use serde::de::DeserializeOwned;

    use super::super::{decode, encode};
    use super::*;

    /// `header()` in the bytes of PyPI `rosbags` 0.11.9, as all bytes below.
    const HEADER: &str = "00f15365d00700000400000063616d00";

    fn header() -> Header {
        Header { stamp: Stamp { sec: 1_700_000_000, nanosec: 2000 }, frame_id: "cam".into() }
    }

    /// The message is these bytes, in hex without the encapsulation header, and back.
    fn check<T: Serialize + DeserializeOwned + PartialEq + Debug>(message: &T, parts: &[&str]) {
        let text = parts.concat();
        let digits = (0..text.len()).step_by(2);
        let body = digits.map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap());
        let bytes: Vec<u8> = [0, 1, 0, 0].into_iter().chain(body).collect();
        assert_eq!(encode(message).unwrap(), bytes);
        assert_eq!(decode::<T>(&bytes).unwrap(), *message);
    }

    #[test]
    fn label_info_is_the_bytes_of_an_independent_writer() {
        let mut table = ClassTable::cityscapes();
        table.0.truncate(2);
        let info = LabelInfo { threshold: 0.5, ..LabelInfo::new(header(), &table) };
        let road = "0000000005000000726f616400000100";
        check(&info, &[HEADER, "02000000", road, "090000007369646577616c6b000000000000003f"]);
    }

    #[test]
    fn detections_are_the_bytes_of_an_independent_writer() {
        let position = Point { x: 1.0, y: 2.0, z: 3.0 };
        let mut pose = PoseWithCovariance::default();
        pose.pose.position = position;
        pose.covariance[0][1] = 0.25;
        let hypothesis = ObjectHypothesis { class_id: "unknown".into(), score: 0.75 };
        let detection = Detection2D {
            header: header(),
            results: vec![ObjectHypothesisWithPose { hypothesis, pose }],
            bbox: BoundingBox2D {
                center: Pose2D { position: Point2D { x: 4.0, y: 5.0 }, theta: 0.5 },
                size_x: 6.0,
                size_y: 7.0,
            },
            id: "7".into(),
        };
        let message = Detection2DArray { header: header(), detections: vec![detection] };
        let zero = "0000000000000000";
        check(
            &message,
            &[
                HEADER,
                "01000000",
                HEADER,
                "0100000008000000756e6b6e6f776e00",
                "00000000", // the next double is aligned to 8
                "000000000000e83f",
                "000000000000f03f00000000000000400000000000000840",
                &zero.repeat(3),
                "000000000000f03f",
                zero,
                "000000000000d03f",
                &zero.repeat(34),
                "00000000000010400000000000001440000000000000e03f",
                "00000000000018400000000000001c40020000003700",
            ],
        );
    }

    #[test]
    fn a_marker_is_the_bytes_of_an_independent_writer() {
        let marker = ImageMarker {
            header: header(),
            ns: "obstacles".into(),
            id: 1,
            kind: ImageMarker::LINE_LIST,
            action: 0,
            position: Point { x: 1.0, y: 2.0, z: 3.0 },
            scale: 2.0,
            outline_color: ColorRgba { r: 1.0, g: 0.5, b: 0.25, a: 1.0 },
            filled: 1,
            fill_color: ColorRgba { a: 0.5, ..ColorRgba::default() },
            lifetime: Stamp { sec: 3, nanosec: 4 },
            points: vec![Point { x: 5.0, y: 6.0, z: 0.0 }, Point { x: 7.0, y: 8.0, z: 0.0 }],
            outline_colors: vec![ColorRgba { g: 1.0, a: 1.0, ..ColorRgba::default() }],
        };
        check(
            &marker,
            &[
                HEADER,
                "0a0000006f62737461636c6573000000010000000200000000000000",
                "00000000",
                "000000000000f03f00000000000000400000000000000840",
                "000000400000803f0000003f0000803e0000803f01000000",
                "0000000000000000000000000000003f030000000400000002000000",
                "00000000",
                "00000000000014400000000000001840000000000000000000000000",
                "00001c4000000000000020400000000000000000",
                "01000000000000000000803f000000000000803f",
            ],
        );
    }
}
