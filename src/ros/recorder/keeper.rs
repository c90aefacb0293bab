//! The recorder's thread: its memory and its bags.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::disk::{Disk, make_room};
use super::outputs::Output;
use super::ring::Ring;
use super::{Frame, Recording};
use crate::bag::{BagWriter, TopicId};
use crate::config::{ClassTable, NodeConfig};
use crate::image::{Image, encode_jpeg, encode_png};
use crate::msg::{CompressedImage, FrameStatus, Header, LabelInfo};
use crate::ros::args::Names;
use crate::{Result, msg, obstacle};

/// A bag ends this long after its first cause at the latest.
const LONGEST: Duration = Duration::from_secs(60);
/// Bags are named `evidence_<ms since the epoch>_<cause>`, so that they sort by age.
const PREFIX: &str = "evidence_";

/// What is kept, and the bag being written.
pub(super) struct Keeper {
    directory: PathBuf,
    disk: Disk,
    after: Duration,
    max_bytes: u64,
    jpeg_quality: u8,
    /// Per camera the names of [`Output::ALL`].
    topics: Vec<Vec<String>>,
    classes: ClassTable,
    ring: Ring,
    bag: Option<Bag>,
    pub(super) recording: Recording,
}

struct Bag {
    writer: BagWriter,
    topics: BTreeMap<(usize, Output), TopicId>,
    began: Instant,
    until: Instant,
    bytes: u64,
}

impl Keeper {
    pub(super) fn new(names: &Names, config: &NodeConfig) -> Result<Self> {
        let record = &config.record;
        let of_camera = |camera: &String| {
            Output::ALL.iter().map(|output| output.topic(camera, names)).collect::<Result<_>>()
        };
        let ring = usize::try_from(record.memory_mb.saturating_mul(1_000_000));
        let before = Duration::from_secs_f64(record.before_s);
        Ok(Self {
            directory: record.directory.clone(),
            disk: Disk::of(record.directory.clone()),
            after: Duration::from_secs_f64(record.after_s),
            max_bytes: record.max_mb.saturating_mul(1_000_000),
            jpeg_quality: config.jpeg_quality,
            topics: config.cameras.iter().map(of_camera).collect::<Result<_>>()?,
            classes: ClassTable(Vec::new()),
            ring: Ring::new(ring.unwrap_or(usize::MAX), before),
            bag: None,
            recording: Recording::default(),
        })
    }

    /// The classes of the model from now on.
    pub(super) fn classes(&mut self, classes: ClassTable) {
        self.classes = classes;
        if self.bag.is_some() {
            self.name_classes();
        }
    }

    /// Everything about a frame but its status: the picture as JPEG, planes of bytes as PNG.
    pub(super) fn frame(&mut self, camera: usize, Frame { prediction, calibration }: &Frame) {
        let (header, size) = (&prediction.header, (prediction.height, prediction.width));
        if let Some(Ok(data)) =
            prediction.rgb.as_ref().map(|rgb| encode_jpeg(size.0, size.1, rgb, self.jpeg_quality))
        {
            self.compressed(camera, Output::Picture, header, (CompressedImage::JPEG_OF_RGB8, data));
        }
        let planes = [
            (Output::Semantic, Some(&prediction.classes)),
            (Output::Ood, Some(&prediction.ood_mask)),
            (Output::Confidence, prediction.confidence.as_ref()),
            (Output::Probability, prediction.probability.as_ref()),
        ];
        for (output, plane) in planes {
            let Some(plane) = plane.filter(|plane| !plane.is_empty()) else { continue };
            if let Ok(data) = encode_png(size.0, size.1, plane) {
                self.compressed(camera, output, header, (CompressedImage::PNG_OF_MONO8, data));
            }
        }
        if let Some(score) = &prediction.score {
            let bytes: Vec<u8> = score.iter().flat_map(|value| value.to_le_bytes()).collect();
            let score = Image::packed(header.clone(), size, "32FC1", bytes);
            self.keep(camera, Output::Score, &score);
        }
        if let Some(obstacles) = &prediction.obstacles {
            let outlines = obstacle::outlines(obstacles, header, obstacle::OUTLINE);
            self.keep(camera, Output::Detections, &obstacle::detections(obstacles, header));
            self.keep(camera, Output::Outlines, &outlines);
        }
        if let Some(calibration) = calibration {
            let info = calibration.beside(header, size);
            for output in [Output::PictureInfo, Output::SemanticInfo, Output::OodInfo] {
                self.keep(camera, output, &info);
            }
        }
    }

    pub(super) fn status(&mut self, camera: usize, status: &FrameStatus) {
        self.keep(camera, Output::Status, status);
    }

    fn compressed(
        &mut self,
        camera: usize,
        output: Output,
        header: &Header,
        (format, data): (&str, Vec<u8>),
    ) {
        let (header, format) = (header.clone(), format.to_owned());
        self.keep(camera, output, &CompressedImage { header, format, data });
    }

    /// Writes a message into the bag at hand, else into the ring.
    fn keep<M: Serialize>(&mut self, camera: usize, output: Output, message: &M) {
        let Ok(cdr) = msg::encode(message) else { return };
        match self.bag {
            Some(_) => self.write(now_ns(), (camera, output), &cdr),
            None => self.ring.push(now_ns(), (camera, output), cdr),
        }
    }

    /// Begins a bag with what is in the ring; goes on with the one at hand.
    pub(super) fn start(&mut self, cause: &str) {
        let now = Instant::now();
        if let Some(bag) = &mut self.bag {
            bag.until = (now + self.after).min(bag.began + LONGEST);
            return;
        }
        make_room(&self.directory, PREFIX, self.max_bytes);
        if !self.disk.takes(1) {
            let problem = format!("{}: less than 5 % free", self.directory.display());
            return self.fail(problem);
        }
        let name = format!("{PREFIX}{}_{cause}", now_ns() / 1_000_000);
        match BagWriter::create(&self.directory.join(&name)) {
            Ok(writer) => {
                log::info!("recording {name}");
                let until = now + self.after;
                self.bag =
                    Some(Bag { writer, topics: BTreeMap::new(), began: now, until, bytes: 0 });
                self.recording.bag = Some(name);
            }
            Err(error) => return self.fail(error.chain()),
        }
        let ring = self.ring.take();
        self.name_classes();
        for kept in ring {
            let (time, topic) = (kept.log_time_ns, kept.topic);
            if let Some(cdr) = kept.into_cdr() {
                self.write(time, topic, &cdr);
            }
        }
    }

    /// The names of the classes, which hold for all frames of the bag.
    fn name_classes(&mut self) {
        if self.classes.0.is_empty() {
            return;
        }
        let labels = LabelInfo::new(Header::default(), &self.classes);
        (0..self.topics.len()).for_each(|camera| self.keep(camera, Output::LabelInfo, &labels));
    }

    /// Appends to the bag; a disk that is full ends it with what it holds.
    fn write(&mut self, log_time_ns: u64, topic: (usize, Output), cdr: &[u8]) {
        let Some(bag) = &mut self.bag else { return };
        let (camera, output) = topic;
        let added = bag.topics.get(&topic).copied().map_or_else(
            || {
                let name = &self.topics[camera][output as usize];
                bag.writer.add_topic(name, &output.definition(), output.qos())
            },
            Ok,
        );
        let written = added.and_then(|id| {
            bag.topics.insert(topic, id);
            bag.writer.write(id, log_time_ns, cdr)
        });
        let bytes = cdr.len() as u64;
        bag.bytes += bytes;
        if let Err(error) = written {
            self.bag = None; // and its file with it
            self.fail(error.chain());
        } else if bag.bytes > self.max_bytes || !self.disk.takes(bytes) {
            self.finish();
            self.fail("ended early, the disk is full or record.max_mb reached".into());
        }
    }

    /// Completes a bag whose time is over.
    pub(super) fn end_when_due(&mut self, over: bool) {
        if self.bag.as_ref().is_some_and(|bag| over || Instant::now() >= bag.until) {
            self.finish();
        }
    }

    fn finish(&mut self) {
        let Some(bag) = self.bag.take() else { return };
        match bag.writer.finish() {
            Ok(()) => {
                let name = self.recording.bag.take().unwrap_or_default();
                log::info!("recorded {name}");
                self.recording.bags += 1;
                self.recording.problem = None;
            }
            Err(error) => self.fail(error.chain()),
        }
        make_room(&self.directory, PREFIX, self.max_bytes);
    }

    /// Says why a recording is not what it should be.
    fn fail(&mut self, problem: String) {
        let name = self.recording.bag.take().unwrap_or_default();
        log::warn!("recording {name}: {problem}");
        self.recording.problem = Some(problem);
    }
}

fn now_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}
