//! Every output of every frame in one bag, under the topic names of the node.

use std::collections::HashMap;
use std::path::Path;

use ood_segmentation::bag::{BagWriter, Qos, TopicId};
use ood_segmentation::config::ClassTable;
use ood_segmentation::image::{Image, encode_jpeg};
use ood_segmentation::msg::{
    CAMERA_INFO, COMPRESSED_IMAGE, CameraInfo, CompressedImage, DETECTIONS, Definition, Header,
    IMAGE, IMAGE_MARKER, LABEL_INFO, LabelInfo, Stamp, encode,
};
use ood_segmentation::pipeline::Prediction;
use ood_segmentation::{Error, Result, obstacle};
use serde::Serialize;

use crate::inputs::Frame;
use crate::outputs::overlay_of;

/// Namespace and frame of pictures that were not recorded.
const CAMERA: &str = "camera";
/// Quality of the pictures.
const JPEG_QUALITY: u8 = 90;

/// A bag that appears when it is finished.
pub(crate) struct BagOut {
    bag: BagWriter,
    topics: HashMap<String, TopicId>,
    /// With the pictures themselves, and so many per second where they have no time of their own.
    pictures: Option<f64>,
    count: u32,
}

impl BagOut {
    /// A folder with the outputs, for ROS.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        Ok(Self { bag: BagWriter::create(path)?, topics: HashMap::new(), pictures: None, count: 0 })
    }

    /// One file with pictures and outputs, for viewers. Picture files follow each other `fps` times a
    /// second on a camera of their own, the first at 1 / `fps` seconds.
    ///
    /// # Errors
    /// [`Error::Setting`] for a name by which no viewer knows what it is.
    pub(crate) fn with_pictures(path: &Path, fps: f64) -> Result<Self> {
        if path.extension().is_none_or(|ending| ending != "mcap") {
            return Err(Error::setting("--foxglove", &path.display(), "a name that ends in .mcap"));
        }
        let (bag, pictures) = (BagWriter::create_file(path)?, Some(fps));
        Ok(Self { bag, topics: HashMap::new(), pictures, count: 0 })
    }

    /// Writes the outputs of one picture with its header, at the time it was recorded.
    ///
    /// # Errors
    /// A picture that is not from a bag, unless pictures go in: it has neither camera nor time.
    pub(crate) fn add(
        &mut self,
        frame: &Frame,
        prediction: &Prediction,
        classes: &ClassTable,
    ) -> Result<()> {
        self.count += 1;
        let (camera, time_ns, header) = match (&frame.recorded, self.pictures) {
            (Some((camera, time_ns)), _) => (camera.clone(), *time_ns, prediction.header.clone()),
            (None, Some(fps)) => self.made_up(fps),
            (None, None) => {
                let problem = "a picture file has no camera and no time: --bag-out takes bags only";
                return Err(Error::bad_file(&frame.source, problem));
            }
        };
        let mut at = At { out: self, camera, time_ns, header };
        at.masks(prediction, classes)?;
        at.obstacles(prediction, classes)?;
        if let Some(calibration) = &frame.calibration {
            at.calibration(calibration, prediction)?;
        }
        at.picture(prediction)
    }

    /// Camera, log time and header of a picture that has none.
    fn made_up(&self, fps: f64) -> (String, u64, Header) {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "fps >= 0.001")]
        let time_ns = (f64::from(self.count) / fps * 1e9).round() as u64;
        let sec = i32::try_from(time_ns / 1_000_000_000).unwrap_or(i32::MAX);
        let nanosec = u32::try_from(time_ns % 1_000_000_000).unwrap_or_default();
        let header = Header { stamp: Stamp { sec, nanosec }, frame_id: CAMERA.to_owned() };
        (format!("/{CAMERA}"), time_ns, header)
    }

    fn write(
        &mut self,
        topic: String,
        (definition, qos): (&Definition, Qos),
        time_ns: u64,
        message: &impl Serialize,
    ) -> Result<()> {
        let bytes = encode(message).map_err(|error| Error::bad_file(&topic, error.to_string()))?;
        let id = match self.topics.get(&topic) {
            Some(id) => *id,
            None => self.bag.add_topic(&topic, definition, qos)?,
        };
        self.topics.insert(topic, id);
        self.bag.write(id, time_ns, &bytes)
    }

    /// Completes the bag.
    pub(crate) fn finish(self) -> Result<()> {
        self.bag.finish()
    }
}

/// One frame's place in the bag.
struct At<'a> {
    out: &'a mut BagOut,
    camera: String,
    time_ns: u64,
    header: Header,
}

impl At<'_> {
    fn write(&mut self, name: &str, kind: &Definition, message: &impl Serialize) -> Result<()> {
        self.out.write(self.topic(name), (kind, Qos::default()), self.time_ns, message)
    }

    fn topic(&self, name: &str) -> String {
        format!("{}/{name}", self.camera)
    }

    fn masks(&mut self, prediction: &Prediction, classes: &ClassTable) -> Result<()> {
        let score = prediction.score.iter().flatten().flat_map(|value| value.to_le_bytes());
        let planes = [
            ("semantic/image", "mono8", prediction.classes.clone()),
            ("semantic/confidence", "mono8", prediction.confidence.clone().unwrap_or_default()),
            ("ood/image", "mono8", prediction.ood_mask.clone()),
            ("ood/probability", "mono8", prediction.probability.clone().unwrap_or_default()),
            ("ood/score", "32FC1", score.collect()),
            ("overlay/image", "rgb8", overlay_of(prediction, classes)),
        ];
        for (name, encoding, data) in planes {
            let size = (prediction.height, prediction.width);
            let image = Image::packed(self.header.clone(), size, encoding, data);
            self.write(name, &IMAGE, &image)?;
        }
        Ok(())
    }

    fn obstacles(&mut self, prediction: &Prediction, classes: &ClassTable) -> Result<()> {
        let (name, latched) =
            ("semantic/label_info", Qos { reliable: true, transient_local: true });
        if !self.out.topics.contains_key(&self.topic(name)) {
            let labels = LabelInfo::new(self.header.clone(), classes);
            self.out.write(self.topic(name), (&LABEL_INFO, latched), self.time_ns, &labels)?;
        }
        let (found, header) = (prediction.obstacles.as_deref().unwrap_or_default(), &self.header);
        let detections = obstacle::detections(found, header);
        let outlines = obstacle::outlines(found, header, obstacle::OUTLINE);
        self.write("ood/detections", &DETECTIONS, &detections)?;
        self.write("ood/outlines", &IMAGE_MARKER, &outlines)
    }

    fn calibration(&mut self, info: &CameraInfo, prediction: &Prediction) -> Result<()> {
        let info = info.beside(&self.header, (prediction.height, prediction.width));
        let own = self.out.pictures.map(|_| "camera_info"); // of the picture
        for name in ["semantic/camera_info", "ood/camera_info"].into_iter().chain(own) {
            self.write(name, &CAMERA_INFO, &info)?;
        }
        Ok(())
    }

    fn picture(&mut self, prediction: &Prediction) -> Result<()> {
        let (Some(rgb), Some(_)) = (&prediction.rgb, self.out.pictures) else { return Ok(()) };
        let data = encode_jpeg(prediction.height, prediction.width, rgb, JPEG_QUALITY)?;
        let format = CompressedImage::JPEG_OF_RGB8.to_owned();
        let picture = CompressedImage { header: self.header.clone(), format, data };
        self.write("image_raw/compressed", &COMPRESSED_IMAGE, &picture)
    }
}
