//! From predictions to topics. What nobody reads is neither computed nor encoded; the status goes out
//! for every frame.
//!
//! All messages carry the input's header. Publishing never waits: best-effort writers do not, the
//! reliable ones refuse a sample for which there is no room.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use ros2_client::{Publisher, WriteError};
use serde::Serialize;

use super::args::{Names, Network};
use super::context::Participant;
use crate::Result;
use crate::config::{ClassTable, MaskReliability, NodeConfig};
use crate::image::{Image, encode_jpeg, encode_png};
use crate::msg::{COMPRESSED_IMAGE, CompressedImage, FRAME_STATUS, FrameStatus, IMAGE};
use crate::overlay::overlay;
use crate::pipeline::{Planes, Prediction};

/// The outputs of every camera, on a participant of their own.
pub(crate) struct Outputs {
    cameras: Vec<Camera>,
    participant: Participant, // after the publishers, which tell it of their end
    classes: ClassTable,
    jpeg_quality: u8,
    reliable: bool,
    read: BTreeSet<String>,
    looked: Option<Instant>,
}

struct Camera {
    semantic: Pair,
    confidence: Output<Image>,
    ood: Pair,
    score: Output<Image>,
    probability: Pair,
    overlay: Pair,
    status: Output<FrameStatus>,
}

/// A picture's topic and its compressed twin.
struct Pair {
    raw: Output<Image>,
    compressed: Output<CompressedImage>,
}

struct Output<M: Serialize> {
    topic: String,
    publisher: Publisher<M>,
}

/// How long a look at the readers in the graph is good for.
const LOOK: Duration = Duration::from_millis(100);

impl Outputs {
    /// Joins DDS under the node's name and offers the topics of every camera.
    ///
    /// # Errors
    /// [`crate::Error::Ros`] when DDS cannot start, [`crate::Error::Setting`] for a name that ROS does not allow.
    pub(crate) fn new(
        names: &Names,
        network: Network,
        config: &NodeConfig,
        classes: ClassTable,
    ) -> Result<Self> {
        let mut participant = Participant::new(network, names.namespace(), names.node())?;
        let reliable = config.mask_reliability == MaskReliability::Reliable;
        let mut cameras = Vec::new();
        for name in &config.cameras {
            let topic = |suffix: &str| format!("{name}/{suffix}");
            let mut offer = Offer { participant: &mut participant, names, reliable };
            cameras.push(Camera {
                semantic: offer.pair(&topic("semantic/image"))?,
                confidence: offer.output(&topic("semantic/confidence"))?,
                ood: offer.pair(&topic("ood/image"))?,
                score: offer.output(&topic("ood/score"))?,
                probability: offer.pair(&topic("ood/probability"))?,
                overlay: offer.pair(&topic("overlay/image"))?,
                status: offer.status(&topic("status"))?,
            });
        }
        let jpeg_quality = config.jpeg_quality;
        let read = BTreeSet::new();
        Ok(Self { cameras, participant, classes, jpeg_quality, reliable, read, looked: None })
    }

    /// The participant under the node's name, for services.
    pub(crate) fn participant(&mut self) -> &mut Participant {
        &mut self.participant
    }

    /// Uses what may change at run time.
    pub(crate) fn configure(&mut self, config: &NodeConfig) {
        self.jpeg_quality = config.jpeg_quality;
    }

    /// The planes that somebody reads of this camera.
    pub(crate) fn wanted(&mut self, camera: usize) -> Planes {
        if self.looked.is_none_or(|looked| looked.elapsed() >= LOOK) {
            self.looked = Some(Instant::now());
            let readers = self.participant.read_topics().into_iter();
            // A reader that insists on reliability gets nothing from a best-effort writer.
            let matched = readers.filter(|(_, reliable)| self.reliable || !reliable);
            self.read = matched.map(|(topic, _)| topic).collect();
        }
        let camera = &self.cameras[camera];
        Planes {
            score: self.reads(&camera.score),
            confidence: self.reads(&camera.confidence),
            probability: self.reads_either(&camera.probability),
            rgb: self.reads_either(&camera.overlay),
        }
    }

    fn reads<M: Serialize>(&self, output: &Output<M>) -> bool {
        self.read.contains(&output.topic)
    }

    fn reads_either(&self, pair: &Pair) -> bool {
        self.reads(&pair.raw) || self.reads(&pair.compressed)
    }

    /// Publishes what was [`wanted`](Self::wanted), and the two masks if they are read.
    ///
    /// # Errors
    /// An encoder that fails.
    pub(crate) fn publish(&self, camera: usize, prediction: Prediction) -> Result<()> {
        let camera = &self.cameras[camera];
        let Prediction { header, height, width, classes, ood_mask, rgb, .. } = prediction;
        let size = (height, width);
        let image = |encoding: &str, data| Image::packed(header.clone(), size, encoding, data);
        if let Some(rgb) = rgb {
            let mixed = overlay(&rgb, width, &classes, &ood_mask, &self.classes);
            let jpeg = |rgb: &[u8]| encode_jpeg(height, width, rgb, self.jpeg_quality);
            let mixed = image("rgb8", mixed);
            self.pair(&camera.overlay, mixed, "rgb8; jpeg compressed bgr8", jpeg)?;
        }
        let png = |plane: &[u8]| encode_png(height, width, plane);
        let masks = [(&camera.semantic, Some(classes)), (&camera.ood, Some(ood_mask))];
        let pictures = masks.into_iter().chain([(&camera.probability, prediction.probability)]);
        for (pair, plane) in pictures.filter_map(|(pair, plane)| Some((pair, plane?))) {
            // The trailing space is part of image_transport's format.
            self.pair(pair, image("mono8", plane), "mono8; png compressed ", png)?;
        }
        if let Some(confidence) = prediction.confidence {
            camera.confidence.publish(image("mono8", confidence));
        }
        if let Some(score) = prediction.score {
            let bytes = score.iter().flat_map(|value| value.to_le_bytes()).collect();
            camera.score.publish(image("32FC1", bytes));
        }
        Ok(())
    }

    /// A picture and its compressed twin, each if it is read.
    fn pair(
        &self,
        pair: &Pair,
        image: Image,
        format: &str,
        encode: impl FnOnce(&[u8]) -> Result<Vec<u8>>,
    ) -> Result<()> {
        if self.reads(&pair.compressed) {
            let (header, format) = (image.header.clone(), format.to_owned());
            let data = encode(&image.data)?;
            pair.compressed.publish(CompressedImage { header, format, data });
        }
        if self.reads(&pair.raw) {
            pair.raw.publish(image);
        }
        Ok(())
    }

    /// Publishes what became of a frame.
    pub(crate) fn status(&self, camera: usize, status: FrameStatus) {
        self.cameras[camera].status.publish(status);
    }
}

impl<M: Serialize> Output<M> {
    fn publish(&self, message: M) {
        match self.publisher.publish(message) {
            Ok(()) => {}
            // A reader that stopped acknowledging; the next message is the one that counts.
            Err(WriteError::WouldBlock { .. }) => log::debug!("{}: no room", self.topic),
            Err(error) => log::warn!("{}: {error}", self.topic),
        }
    }
}

/// Makes publishers under remapped names.
struct Offer<'a> {
    participant: &'a mut Participant,
    names: &'a Names,
    reliable: bool,
}

impl Offer<'_> {
    fn pair(&mut self, name: &str) -> Result<Pair> {
        let raw = self.output(name)?;
        let topic = self.names.twin(name, "compressed")?;
        let qos = (self.reliable, false);
        let publisher = self.participant.publish(&topic, COMPRESSED_IMAGE.type_name, qos)?;
        Ok(Pair { raw, compressed: Output { topic, publisher } })
    }

    fn output(&mut self, name: &str) -> Result<Output<Image>> {
        let topic = self.names.topic(name)?;
        let publisher =
            self.participant.publish(&topic, IMAGE.type_name, (self.reliable, false))?;
        Ok(Output { topic, publisher })
    }

    fn status(&mut self, name: &str) -> Result<Output<FrameStatus>> {
        let topic = self.names.topic(name)?;
        let publisher = self.participant.publish(&topic, FRAME_STATUS, (true, true))?;
        Ok(Output { topic, publisher })
    }
}
