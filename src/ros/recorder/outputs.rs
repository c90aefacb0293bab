//! What a bag holds of a camera: the node's topics, pictures and masks compressed.

use crate::Result;
use crate::bag::Qos;
use crate::msg::{
    CAMERA_INFO, COMPRESSED_IMAGE, DETECTIONS, Definition, FRAME_STATUS_DEFINITION, IMAGE,
    IMAGE_MARKER, LABEL_INFO,
};
use crate::ros::args::Names;

/// A topic of a camera. The overlay is not among them: it is picture, classes and mask in one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Output {
    Picture,
    PictureInfo,
    Semantic,
    Confidence,
    LabelInfo,
    SemanticInfo,
    Ood,
    Score,
    Probability,
    OodInfo,
    Detections,
    Outlines,
    Status,
}

impl Output {
    /// Every one, in their order.
    pub(super) const ALL: [Self; 13] = [
        Self::Picture,
        Self::PictureInfo,
        Self::Semantic,
        Self::Confidence,
        Self::LabelInfo,
        Self::SemanticInfo,
        Self::Ood,
        Self::Score,
        Self::Probability,
        Self::OodInfo,
        Self::Detections,
        Self::Outlines,
        Self::Status,
    ];

    /// Its name below the camera's, and its type.
    fn row(self) -> (&'static str, Definition) {
        match self {
            Self::Picture => ("image_raw", COMPRESSED_IMAGE),
            Self::PictureInfo => ("camera_info", CAMERA_INFO),
            Self::Semantic => ("semantic/image", COMPRESSED_IMAGE),
            Self::Confidence => ("semantic/confidence", COMPRESSED_IMAGE),
            Self::LabelInfo => ("semantic/label_info", LABEL_INFO),
            Self::SemanticInfo => ("semantic/camera_info", CAMERA_INFO),
            Self::Ood => ("ood/image", COMPRESSED_IMAGE),
            Self::Score => ("ood/score", IMAGE),
            Self::Probability => ("ood/probability", COMPRESSED_IMAGE),
            Self::OodInfo => ("ood/camera_info", CAMERA_INFO),
            Self::Detections => ("ood/detections", DETECTIONS),
            Self::Outlines => ("ood/outlines", IMAGE_MARKER),
            Self::Status => ("status", FRAME_STATUS_DEFINITION),
        }
    }

    /// Its absolute name, as the node's rules remap it.
    pub(super) fn topic(self, camera: &str, names: &Names) -> Result<String> {
        let (name, definition) = self.row();
        let name = format!("{camera}/{name}");
        match self {
            Self::PictureInfo => names.sibling(&format!("{camera}/image_raw"), "camera_info"),
            _ if definition == COMPRESSED_IMAGE => names.twin(&name, "compressed"),
            _ => names.topic(&name),
        }
    }

    /// Its type.
    pub(super) fn definition(self) -> Definition {
        self.row().1
    }

    /// What a replay shall offer: what the node offers.
    pub(super) fn qos(self) -> Qos {
        let reliable = ![COMPRESSED_IMAGE, IMAGE].contains(&self.definition());
        Qos { reliable, transient_local: matches!(self, Self::Status | Self::LabelInfo) }
    }
}
