//! What obstacles and class names travel in: `vision_msgs` 4 (Humble and later) and the marker of
//! `visualization_msgs` that viewers draw over a camera's picture.

use serde::{Deserialize, Serialize};

use super::{Header, Stamp};

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
