//! The recorder's memory and its bags.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::bag::{BagWriter, Qos, TopicId};
use crate::config::NodeConfig;
use crate::image::{encode_jpeg, encode_png};
use crate::msg::{
    COMPRESSED_IMAGE, CompressedImage, DETECTIONS as DETECTIONS_TYPE, Definition,
    FRAME_STATUS_DEFINITION, Header,
};
use crate::ros::args::Names;
use crate::{Result, msg};

/// Indices into [`OUTPUTS`].
pub(super) const PICTURE: usize = 0;
pub(super) const SEMANTIC: usize = 1;
pub(super) const OOD: usize = 2;
pub(super) const PROBABILITY: usize = 3;
pub(super) const DETECTIONS: usize = 4;
pub(super) const STATUS: usize = 5;

/// Topics of a camera, whether the name is that of a picture whose twin is meant, and types.
const OUTPUTS: [(&str, bool, Definition); 6] = [
    ("image_raw", true, COMPRESSED_IMAGE),
    ("semantic/image", true, COMPRESSED_IMAGE),
    ("ood/image", true, COMPRESSED_IMAGE),
    ("ood/probability", true, COMPRESSED_IMAGE),
    ("ood/detections", false, DETECTIONS_TYPE),
    ("status", false, FRAME_STATUS_DEFINITION),
];

/// Bytes that the ring may hold.
const RING: usize = 64 << 20;
/// A bag ends this long after its first cause at the latest.
const LONGEST: Duration = Duration::from_secs(60);
/// Share of the disk that stays free.
const FREE: u64 = 20; // a twentieth
/// Bags are named `evidence_<ms since the epoch>_<cause>`, so that they sort by age.
const PREFIX: &str = "evidence_";

/// What is kept, and the bag being written.
pub(super) struct Keeper {
    directory: PathBuf,
    before: Duration,
    after: Duration,
    max_bytes: u64,
    jpeg_quality: u8,
    /// Per camera the names of [`OUTPUTS`].
    topics: Vec<[String; OUTPUTS.len()]>,
    ring: VecDeque<Kept>,
    ring_bytes: usize,
    bag: Option<Bag>,
}

/// A message in the ring.
struct Kept {
    at: Instant,
    log_time_ns: u64,
    topic: (usize, usize),
    cdr: Vec<u8>,
}

struct Bag {
    writer: BagWriter,
    topics: BTreeMap<(usize, usize), TopicId>,
    name: String,
    began: Instant,
    until: Instant,
    bytes: u64,
}

impl Keeper {
    pub(super) fn new(names: &Names, config: &NodeConfig) -> Result<Self> {
        let record = &config.record;
        let of_camera = |camera: &String| {
            let mut topics: [String; OUTPUTS.len()] = Default::default();
            for (topic, (name, is_picture, _)) in topics.iter_mut().zip(OUTPUTS) {
                let name = format!("{camera}/{name}");
                *topic = if is_picture {
                    names.twin(&name, "compressed")?
                } else {
                    names.topic(&name)?
                };
            }
            Ok(topics)
        };
        Ok(Self {
            directory: record.directory.clone(),
            before: Duration::from_secs_f64(record.before_s),
            after: Duration::from_secs_f64(record.after_s),
            max_bytes: record.max_mb.saturating_mul(1_000_000),
            jpeg_quality: config.jpeg_quality,
            topics: config.cameras.iter().map(of_camera).collect::<Result<_>>()?,
            ring: VecDeque::new(),
            ring_bytes: 0,
            bag: None,
        })
    }

    /// Keeps the picture itself, as JPEG.
    pub(super) fn jpeg(
        &mut self,
        camera: usize,
        header: &Header,
        (h, w): (usize, usize),
        rgb: &[u8],
    ) {
        if let Ok(data) = encode_jpeg(h, w, rgb, self.jpeg_quality) {
            let format = "rgb8; jpeg compressed bgr8".into();
            self.keep(camera, PICTURE, &CompressedImage { header: header.clone(), format, data });
        }
    }

    /// Keeps a plane of bytes as PNG.
    pub(super) fn png(
        &mut self,
        camera: usize,
        topic: usize,
        header: &Header,
        ((h, w), plane): ((usize, usize), &[u8]),
    ) {
        if let Ok(data) = encode_png(h, w, plane) {
            let format = "mono8; png compressed ".into();
            self.keep(camera, topic, &CompressedImage { header: header.clone(), format, data });
        }
    }

    /// Writes a message into the bag at hand, else into the ring.
    pub(super) fn keep<M: Serialize>(&mut self, camera: usize, topic: usize, message: &M) {
        let Ok(cdr) = msg::encode(message) else { return };
        let log_time_ns = now_ns();
        let kept = Kept { at: Instant::now(), log_time_ns, topic: (camera, topic), cdr };
        if self.bag.is_some() {
            return self.write(&kept);
        }
        self.ring_bytes += kept.cdr.len();
        self.ring.push_back(kept);
        let old = |kept: &Kept, bytes| bytes > RING || kept.at.elapsed() > self.before;
        while self.ring.front().is_some_and(|first| old(first, self.ring_bytes)) {
            self.ring_bytes -= self.ring.pop_front().map_or(0, |first| first.cdr.len());
        }
    }

    /// Begins a bag with what is in the ring; goes on with the one at hand.
    pub(super) fn start(&mut self, cause: &str) {
        let now = Instant::now();
        if let Some(bag) = &mut self.bag {
            bag.until = (now + self.after).min(bag.began + LONGEST);
            return;
        }
        self.make_room();
        if is_nearly_full(&self.directory) {
            log::warn!("{}: less than 5 % free, no recording of {cause}", self.directory.display());
            return;
        }
        let name = format!("{PREFIX}{}_{cause}", now_ns() / 1_000_000);
        match BagWriter::create(&self.directory.join(&name)) {
            Ok(writer) => {
                log::info!("recording {name}");
                let (topics, until) = (BTreeMap::new(), now + self.after);
                self.bag = Some(Bag { writer, topics, name, began: now, until, bytes: 0 });
            }
            Err(error) => log::warn!("no recording of {cause}: {}", error.chain()),
        }
        self.ring_bytes = 0;
        for kept in std::mem::take(&mut self.ring) {
            self.write(&kept);
        }
    }

    /// Appends to the bag; a disk that is full ends it with what it holds.
    fn write(&mut self, kept: &Kept) {
        let Some(bag) = &mut self.bag else { return };
        let (camera, output) = kept.topic;
        let added = bag.topics.get(&kept.topic).copied().map_or_else(
            || {
                let qos = Qos { reliable: output >= DETECTIONS, transient_local: output == STATUS };
                bag.writer.add_topic(&self.topics[camera][output], &OUTPUTS[output].2, qos)
            },
            Ok,
        );
        let written = added.and_then(|topic| {
            bag.topics.insert(kept.topic, topic);
            bag.writer.write(topic, kept.log_time_ns, &kept.cdr)
        });
        bag.bytes += kept.cdr.len() as u64;
        let too_long = bag.bytes > self.max_bytes || is_nearly_full(&self.directory);
        if let Err(error) = written {
            log::warn!("recording given up: {}", error.chain());
            self.bag = None; // and its file with it
        } else if too_long {
            log::warn!("{}: recording ended early, the disk is full", self.directory.display());
            self.finish();
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
            Ok(()) => log::info!("recorded {}", bag.name),
            Err(error) => log::warn!("{} is lost: {}", bag.name, error.chain()),
        }
        self.make_room();
    }

    /// Removes the oldest bags until all together are as small as they have to be.
    fn make_room(&self) {
        let mut bags: Vec<_> = std::fs::read_dir(&self.directory)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX))
            .map(|entry| (entry.path(), size(&entry.path())))
            .collect();
        bags.sort();
        let mut total: u64 = bags.iter().map(|(_, bytes)| bytes).sum();
        for (path, bytes) in bags {
            if total <= self.max_bytes {
                return;
            }
            match std::fs::remove_dir_all(&path) {
                Ok(()) => total -= bytes,
                Err(error) => log::warn!("{}: {error}", path.display()),
            }
        }
    }
}

/// Bytes of the files in a folder.
fn size(folder: &Path) -> u64 {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    files.filter_map(|file| Some(file.metadata().ok()?.len())).sum()
}

fn is_nearly_full(directory: &Path) -> bool {
    rustix::fs::statvfs(directory).is_ok_and(|disk| disk.f_bavail < disk.f_blocks / FREE)
}

fn now_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}
