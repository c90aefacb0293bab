//! From predictions to topics. What nobody reads is neither computed nor encoded; the status goes out
//! for every frame.
//!
//! All messages carry the input's header. Publishing never waits: best-effort writers do not, the
//! reliable ones refuse a sample for which there is no room. What has to be encoded goes to a thread of
//! its own, which may be a frame behind.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::Serialize;

use super::args::{Names, Network};
use super::context::Participant;
use super::e2e::{self, Identity};
use super::encoder::{Encoder, Picture};
use super::ingest::image_topics;
use super::raw::RECEIVE_BUFFER;
use super::transport::Sink;
use crate::Result;
use crate::config::{ClassTable, MaskReliability, NodeConfig};
use crate::image::{Image, encode_jpeg, encode_png};
use crate::msg::{
    CAMERA_INFO, COMPRESSED_IMAGE, CameraInfo, CompressedImage, DETECTIONS, Detection2DArray,
    FRAME_STATUS, FrameStatus, Header, IMAGE, IMAGE_MARKER, ImageMarker, LABEL_INFO, LabelInfo,
};
use crate::obstacle;
use crate::overlay::overlay;
use crate::pipeline::{Planes, Prediction};
use crate::supervisor::Watch;

/// The outputs of every camera, on a participant of their own.
pub(crate) struct Outputs {
    encoder: Encoder, // before the publishers: it ends when it has published all it was given
    cameras: Vec<Camera>,
    participant: Participant, // after the publishers, which tell it of their end
    classes: Arc<ClassTable>,
    jpeg_quality: u8,
    overlay_alpha: f64,
    /// The topics that are read, each with whether a reader takes best effort.
    read: BTreeMap<String, bool>,
    looked: Option<Instant>,
    reminded: Instant,
}

struct Camera {
    semantic: Pair,
    confidence: Output<Image>,
    label_info: Output<LabelInfo>,
    semantic_info: Output<CameraInfo>,
    ood: Pair,
    score: Output<Image>,
    probability: Pair,
    ood_info: Output<CameraInfo>,
    detections: Output<Detection2DArray>,
    outlines: Output<ImageMarker>,
    overlay: Pair,
    status: Output<FrameStatus>,
}

/// A picture's topic and its compressed twin, which the encoder publishes.
struct Pair {
    raw: Arc<Output<Image>>,
    compressed: Arc<Output<CompressedImage>>,
}

struct Output<M> {
    topic: String,
    reliable: bool,
    sink: Box<dyn Sink<M>>,
}

/// How long a look at the readers in the graph is good for.
const LOOK: Duration = Duration::from_millis(100);

/// The names of the classes come this often to readers that do not ask for what was sent before.
const REMIND: Duration = Duration::from_secs(5);

impl Outputs {
    /// Joins DDS under the node's name and offers the topics of every camera.
    ///
    /// # Errors
    /// [`crate::Error::Ros`] when DDS cannot start, [`crate::Error::Setting`] for a name that ROS does not allow
    /// and for QoS of a topic that this node does not have.
    pub(crate) fn new(
        names: &Names,
        network: Network,
        config: &NodeConfig,
        watch: &Watch,
    ) -> Result<Self> {
        let mut participant =
            Participant::new(network, (names.namespace(), names.node()), RECEIVE_BUFFER)?;
        let (mut cameras, mut read) = (Vec::new(), Vec::new());
        let pictures = Vec::new();
        let mut offer = Offer { participant: &mut participant, names, config, pictures };
        for name in &config.cameras {
            read.extend(image_topics(names, name)?);
            let topic = |suffix: &str| format!("{name}/{suffix}");
            cameras.push(Camera {
                semantic: offer.pair(&topic("semantic/image"))?,
                confidence: offer.image(&topic("semantic/confidence"))?,
                label_info: offer.latched(&topic("semantic/label_info"), LABEL_INFO.type_name)?,
                semantic_info: offer
                    .reliable(&topic("semantic/camera_info"), CAMERA_INFO.type_name)?,
                ood: offer.pair(&topic("ood/image"))?,
                score: offer.image(&topic("ood/score"))?,
                probability: offer.pair(&topic("ood/probability"))?,
                ood_info: offer.reliable(&topic("ood/camera_info"), CAMERA_INFO.type_name)?,
                detections: offer.reliable(&topic("ood/detections"), DETECTIONS.type_name)?,
                outlines: offer.reliable(&topic("ood/outlines"), IMAGE_MARKER.type_name)?,
                overlay: offer.pair(&topic("overlay/image"))?,
                status: offer.latched(&topic("status"), FRAME_STATUS)?,
            });
        }
        config.check_overrides(&read, &offer.pictures)?;
        let (jpeg_quality, overlay_alpha) = (config.jpeg_quality, config.overlay_alpha);
        let (read, reminded) = (BTreeMap::new(), Instant::now());
        let classes = Arc::new(ClassTable(Vec::new()));
        Ok(Self {
            encoder: Encoder::start(watch)?,
            cameras,
            participant,
            classes,
            jpeg_quality,
            overlay_alpha,
            read,
            looked: None,
            reminded,
        })
    }

    /// Publishes what is due whether or not frames come.
    pub(crate) fn remind(&mut self) {
        if self.reminded.elapsed() >= REMIND {
            self.name_classes();
        }
    }

    /// The classes of the model that is used from now on.
    pub(crate) fn set_classes(&mut self, classes: ClassTable) {
        self.classes = Arc::new(classes);
        self.name_classes();
    }

    /// Publishes the names of the classes, which hold for frames of any time.
    fn name_classes(&mut self) {
        self.reminded = Instant::now();
        if self.classes.0.is_empty() {
            return;
        }
        for camera in &self.cameras {
            camera.label_info.publish(LabelInfo::new(Header::default(), &self.classes));
        }
    }

    /// The participant, for what else is published under the node's name.
    pub(crate) fn participant(&mut self) -> &mut Participant {
        &mut self.participant
    }

    /// Uses what may change at run time.
    pub(crate) fn configure(&mut self, config: &NodeConfig) {
        (self.jpeg_quality, self.overlay_alpha) = (config.jpeg_quality, config.overlay_alpha);
    }

    /// The planes that somebody reads of this camera.
    pub(crate) fn wanted(&mut self, camera: usize) -> Planes {
        if self.looked.is_none_or(|looked| looked.elapsed() >= LOOK) {
            self.looked = Some(Instant::now());
            self.read.clear();
            for (topic, reliable) in self.participant.read_topics() {
                *self.read.entry(topic).or_default() |= !reliable;
            }
        }
        let camera = &self.cameras[camera];
        Planes {
            score: self.reads(&camera.score),
            confidence: self.reads(&camera.confidence),
            probability: self.reads_either(&camera.probability),
            rgb: self.reads_either(&camera.overlay),
            obstacles: self.reads(&camera.detections) || self.reads(&camera.outlines),
        }
    }

    fn reads<M>(&self, output: &Output<M>) -> bool {
        // A reader that insists on reliability gets nothing from a best-effort writer.
        self.read.get(&output.topic).is_some_and(|takes_any| output.reliable || *takes_any)
    }

    fn reads_either(&self, pair: &Pair) -> bool {
        self.reads(&pair.raw) || self.reads(&pair.compressed)
    }

    /// Publishes what was [`wanted`](Self::wanted), the two masks if they are read, and beside them the
    /// calibration at their size if there is one; what has to be encoded follows from its own thread. Returns
    /// what the two masks can be checked against.
    pub(crate) fn publish(
        &self,
        (camera, identity): (usize, Identity),
        prediction: Prediction,
        calibration: Option<&CameraInfo>,
    ) -> [u32; 2] {
        let camera = &self.cameras[camera];
        let Prediction { header, height, width, classes, ood_mask, rgb, .. } = prediction;
        let ood_mask = (!ood_mask.is_empty()).then_some(ood_mask);
        let crc = |mask: &Vec<u8>| e2e::crc32(identity, &header, [height, width], mask);
        let checks = [crc(&classes), ood_mask.as_ref().map_or(0, crc)];
        #[cfg(feature = "fault-injection")]
        let ood_mask = ood_mask.map(crate::fault::mask);
        // Counted from here on: a picture and its twin share one.
        let (classes, ood_mask) = (Bytes::from(classes), ood_mask.map(Bytes::from));
        let size = (height, width);
        let image =
            |encoding: &str, data: Bytes| Image::packed(header.clone(), size, encoding, data);
        if let Some(calibration) = calibration {
            let info = calibration.beside(&header, size);
            let outputs = [&camera.semantic_info, &camera.ood_info];
            for output in outputs.into_iter().filter(|output| self.reads(output)) {
                output.publish(info.clone());
            }
        }
        if let Some(obstacles) = prediction.obstacles {
            camera.detections.publish(obstacle::detections(&obstacles, &header));
            camera.outlines.publish(obstacle::outlines(&obstacles, &header, obstacle::OUTLINE));
        }
        let mut later = Vec::new();
        for (pair, plane) in [(&camera.ood, ood_mask.as_ref()), (&camera.semantic, Some(&classes))]
        {
            let Some(plane) = plane else { continue };
            self.plane(pair, image("mono8", plane.clone()), &mut later);
        }
        if let Some(confidence) = prediction.confidence {
            camera.confidence.publish(image("mono8", confidence.into()));
        }
        if let Some(score) = prediction.score {
            let bytes = score.iter().flat_map(|value| value.to_le_bytes()).collect();
            camera.score.publish(image("32FC1", bytes));
        }
        if let Some(plane) = prediction.probability {
            self.plane(&camera.probability, image("mono8", plane.into()), &mut later);
        }
        if let (Some(rgb), Some(ood_mask)) = (rgb, ood_mask) {
            let image = image("rgb8", rgb.into());
            later.push(self.overlay(&camera.overlay, image, [classes, ood_mask]));
        }
        self.encoder.encode(later);
        checks
    }

    /// A plane and its compressed twin, each if it is read; the twin later.
    fn plane(&self, pair: &Pair, plane: Image, later: &mut Vec<Picture>) {
        if self.reads(&pair.raw) {
            pair.raw.publish(plane.clone());
        }
        if self.reads(&pair.compressed) {
            let compressed = pair.compressed.clone();
            later.push(Box::new(move || {
                compressed.encoded(plane, CompressedImage::PNG_OF_MONO8, encode_png);
            }));
        }
    }

    /// Classes and mask over a picture, and its compressed twin, each if it is read.
    fn overlay(&self, pair: &Pair, rgb: Image, masks: [Bytes; 2]) -> Picture {
        let raw = self.reads(&pair.raw).then(|| pair.raw.clone());
        let compressed = self.reads(&pair.compressed).then(|| pair.compressed.clone());
        let (table, alpha, quality) = (self.classes.clone(), self.overlay_alpha, self.jpeg_quality);
        Box::new(move || {
            let [classes, ood_mask] = masks;
            let width = rgb.width as usize;
            let mixed = overlay(&rgb.data, width, &classes, &ood_mask, (&table, alpha));
            let mixed = Image { data: mixed.into(), ..rgb };
            if let Some(raw) = raw {
                raw.publish(mixed.clone());
            }
            if let Some(compressed) = compressed {
                let jpeg = |h, w, rgb: &[u8]| encode_jpeg(h, w, rgb, quality);
                compressed.encoded(mixed, CompressedImage::JPEG_OF_RGB8, jpeg);
            }
        })
    }

    /// Publishes what became of a frame.
    pub(crate) fn status(&self, camera: usize, status: FrameStatus) {
        self.cameras[camera].status.publish(status);
    }
}

impl Output<CompressedImage> {
    /// Encodes a picture and publishes it.
    fn encoded(
        &self,
        image: Image,
        format: &str,
        encode: impl FnOnce(usize, usize, &[u8]) -> Result<Vec<u8>>,
    ) {
        let Image { header, height, width, data, .. } = image;
        match encode(height as usize, width as usize, &data) {
            Ok(data) => self.publish(CompressedImage { header, format: format.to_owned(), data }),
            Err(error) => log::warn!("{}: {error}", self.topic),
        }
    }
}

impl<M> Output<M> {
    fn publish(&self, message: M) {
        match self.sink.put(message) {
            Ok(true) => {}
            Ok(false) => log::debug!("{}: no room", self.topic),
            Err(error) => log::warn!("{}: {error}", self.topic),
        }
    }
}

/// Makes publishers under remapped names.
struct Offer<'a> {
    participant: &'a mut Participant,
    names: &'a Names,
    config: &'a NodeConfig,
    /// Topics of pictures so far.
    pictures: Vec<String>,
}

impl Offer<'_> {
    fn pair(&mut self, name: &str) -> Result<Pair> {
        let raw = self.image(name)?;
        let topic = self.names.twin(name, "compressed")?;
        let compressed = self.picture(topic, COMPRESSED_IMAGE.type_name)?;
        Ok(Pair { raw: Arc::new(raw), compressed: Arc::new(compressed) })
    }

    fn image(&mut self, name: &str) -> Result<Output<Image>> {
        self.picture(self.names.topic(name)?, IMAGE.type_name)
    }

    fn picture<M: Serialize + Send + Sync + 'static>(
        &mut self,
        topic: String,
        type_name: &str,
    ) -> Result<Output<M>> {
        self.pictures.push(topic.clone());
        let reliable = self.config.mask_reliability_of(&topic) == MaskReliability::Reliable;
        self.output(topic, type_name, (reliable, false))
    }

    /// For messages of a few datagrams: most readers ask for reliability.
    fn reliable<M: Serialize + Send + Sync + 'static>(
        &mut self,
        name: &str,
        type_name: &str,
    ) -> Result<Output<M>> {
        self.output(self.names.topic(name)?, type_name, (true, false))
    }

    fn latched<M: Serialize + Send + Sync + 'static>(
        &mut self,
        name: &str,
        type_name: &str,
    ) -> Result<Output<M>> {
        self.output(self.names.topic(name)?, type_name, (true, true))
    }

    fn output<M: Serialize + Send + Sync + 'static>(
        &mut self,
        topic: String,
        type_name: &str,
        (reliable, latched): (bool, bool),
    ) -> Result<Output<M>> {
        let publisher = self.participant.publish(&topic, type_name, (reliable, latched))?;
        Ok(Output { topic, reliable, sink: Box::new(publisher) })
    }
}
