//! rosbag2 bags in and out: MCAP and SQLite, every compression that `ros2 bag` writes, one message
//! or chunk in memory at a time.
//!
//! A message's `data` is CDR with its encapsulation header; [`crate::msg::decode`] reads it.

mod mcap;
mod metadata;
mod sqlite3;
mod storage;
mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use metadata::Metadata;
use storage::{Selection, Storage, Stream};

use crate::image::{Image, Limits, Reject};
use crate::{Error, Result, msg};

pub use writer::{BagWriter, TopicId};

/// One topic of a bag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Such as `/camera/front/image_raw`.
    pub name: String,
    /// Such as `sensor_msgs/msg/Image`.
    pub type_name: String,
    /// Messages in the bag.
    pub message_count: usize,
    /// `cdr` for everything that ROS 2 records.
    pub serialization_format: String,
    /// What its publishers offered when recorded, if that was written down.
    pub qos: Option<Qos>,
}

impl Topic {
    /// Whether [`Message::image`] reads its messages.
    pub fn is_image(&self) -> bool {
        [msg::IMAGE, msg::COMPRESSED_IMAGE].iter().any(|kind| kind.type_name == self.type_name)
    }
}

/// The two policies of a publisher that decide which subscriptions it reaches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Qos {
    /// Lost samples are sent again; reaches best-effort subscriptions too.
    pub reliable: bool,
    /// Late subscribers get the last samples; reaches volatile subscriptions too.
    pub transient_local: bool,
}

/// One recorded message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The topic's name.
    pub topic: String,
    /// The topic's type.
    pub type_name: String,
    /// When the recorder got it, nanoseconds since the epoch.
    pub log_time_ns: u64,
    /// CDR with its 4-byte encapsulation header.
    pub data: Vec<u8>,
}

impl Message {
    /// The picture in a `sensor_msgs/msg/Image` or `CompressedImage`, the latter decoded.
    ///
    /// # Errors
    /// [`Reject`]: another type, a payload that is not such a message, or a compressed picture
    /// outside `limits`; a raw one is checked by [`Image::validate`].
    pub fn image(&self, limits: &Limits) -> Result<Image, Reject> {
        let not_cdr =
            |error: msg::CdrError| Reject::Cdr { problem: format!("{}: {error}", self.type_name) };
        if self.type_name == msg::IMAGE.type_name {
            msg::decode(&self.data).map_err(not_cdr)
        } else if self.type_name == msg::COMPRESSED_IMAGE.type_name {
            Image::from_compressed(&msg::decode(&self.data).map_err(not_cdr)?, limits)
        } else {
            Err(Reject::Cdr { problem: format!("{} is not a picture", self.type_name) })
        }
    }
}

/// A bag, looked through and ready to be read any number of times.
pub struct BagReader {
    path: PathBuf,
    files: Vec<BagFile>,
    topics: Vec<Topic>,
    span: Option<(u64, u64)>,
    /// Every message is a zstd frame.
    compressed_messages: bool,
}

/// One file of a bag.
#[derive(Clone)]
struct BagFile {
    path: PathBuf,
    /// Log time of its first message, ns.
    start_ns: u64,
}

impl BagReader {
    /// Opens a bag: a folder with or without `metadata.yaml`, or one `.mcap`, `.db3` or `.zstd` of
    /// either. Every file is looked into, and what its recorder counted must be there.
    ///
    /// # Errors
    /// Missing, cut short or unreadable files, and metadata that the files contradict.
    pub fn open(path: &Path) -> Result<Self> {
        let is_dir = std::fs::metadata(path).map_err(Error::io(path))?.is_dir();
        let said = path.join("metadata.yaml");
        let metadata = (is_dir && said.exists()).then(|| Metadata::read(&said)).transpose()?;
        let paths = match &metadata {
            Some(metadata) => metadata.files(path),
            None if is_dir => files_in(path)?,
            None => vec![path.to_path_buf()],
        };
        let mut bag = Self {
            path: path.to_path_buf(),
            files: Vec::new(),
            topics: Vec::new(),
            span: None,
            compressed_messages: false,
        };
        for file in paths {
            if metadata.is_some() && !file.exists() {
                let problem = format!("names {}, which is not there", file.display());
                return Err(Error::bad_file(said, problem));
            }
            let storage = Storage::open(&file)?;
            if let Some(metadata) = &metadata
                && metadata.storage_identifier != storage.name()
            {
                let (says, is) = (&metadata.storage_identifier, storage.name());
                let problem = format!("is {is}, metadata.yaml says {says}");
                return Err(Error::bad_file(file, problem));
            }
            bag.add(file, &storage)?;
        }
        bag.topics.sort_by(|a, b| a.name.cmp(&b.name));
        bag.files.sort_by_key(|file| file.start_ns); // stable: equal starts stay in the bag's order
        if let Some(metadata) = metadata {
            metadata.check_topics(&said, &mut bag.topics)?;
            bag.compressed_messages = metadata.compression_mode.eq_ignore_ascii_case("message");
        }
        Ok(bag)
    }

    /// Adds what one file holds.
    fn add(&mut self, path: PathBuf, storage: &Storage) -> Result<()> {
        let summary = storage.summary();
        for topic in &summary.topics {
            match self.topics.iter_mut().find(|known| known.name == topic.name) {
                Some(known) if known.type_name != topic.type_name => {
                    let (name, here, there) = (&topic.name, &topic.type_name, &known.type_name);
                    let problem = format!("{name} is {here} here and {there} before");
                    return Err(Error::bad_file(path, problem));
                }
                Some(known) => {
                    known.message_count = known.message_count.saturating_add(topic.message_count);
                    known.qos = known.qos.or(topic.qos);
                }
                None => self.topics.push(topic.clone()),
            }
        }
        if let Some((start, end)) = summary.span {
            let (first, last) = self.span.unwrap_or((start, end));
            self.span = Some((first.min(start), last.max(end)));
            self.files.push(BagFile { path, start_ns: start });
        }
        Ok(())
    }

    /// The topics by name.
    pub fn topics(&self) -> &[Topic] {
        &self.topics
    }

    /// Log times of the first and the last message, nanoseconds since the epoch; `None` when there
    /// are no messages.
    pub fn span_ns(&self) -> Option<(u64, u64)> {
        self.span
    }

    /// The messages of these topics, of all when none is named, in log-time order; at equal times
    /// in the order of the files.
    ///
    /// # Errors
    /// A topic that is not in the bag or not CDR. The iterator ends after its first error: a file
    /// that turns out corrupt, or holds another number of messages than its summary says.
    pub fn messages(&self, topics: &[String]) -> Result<Messages> {
        self.messages_from(topics, 0)
    }

    /// As [`Self::messages`], without those logged before `start_ns`.
    ///
    /// # Errors
    /// As there.
    pub fn messages_from(&self, topics: &[String], start_ns: u64) -> Result<Messages> {
        for name in topics {
            if !self.topics.iter().any(|topic| topic.name == *name) {
                let names: Vec<_> = self.topics.iter().map(|topic| topic.name.as_str()).collect();
                let problem = format!("no topic {name}; it holds {}", names.join(", "));
                return Err(Error::bad_file(&self.path, problem));
            }
        }
        let chosen = |topic: &&Topic| topics.is_empty() || topics.contains(&topic.name);
        let mut names = BTreeSet::new();
        let mut expected = 0_usize;
        for topic in self.topics.iter().filter(chosen) {
            if topic.serialization_format != "cdr" && topic.message_count > 0 {
                let (name, format) = (&topic.name, &topic.serialization_format);
                let problem = format!("{name} is serialized as `{format}`, readable is cdr");
                return Err(Error::bad_file(&self.path, problem));
            }
            names.insert(topic.name.clone());
            expected = expected.saturating_add(topic.message_count);
        }
        Ok(Messages {
            path: self.path.clone(),
            waiting: self.files.clone().into(),
            open: BTreeMap::new(),
            chosen: Selection { topics: names, start_ns },
            compressed: self.compressed_messages,
            expected: (start_ns == 0).then_some(expected),
            read: 0,
        })
    }
}

/// The storage files of a folder without metadata, by name.
fn files_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
        let path = entry.map_err(Error::io(folder))?.path();
        let name = path.to_string_lossy();
        let name = name.strip_suffix(".zstd").unwrap_or(&name);
        if name.ends_with(".mcap") || name.ends_with(".db3") {
            files.push(path);
        }
    }
    if files.is_empty() {
        let problem = "neither metadata.yaml nor .mcap or .db3 files in it: not a bag";
        return Err(Error::bad_file(folder, problem));
    }
    // `bag_2.mcap` comes before `bag_10.mcap`.
    files.sort_by(|a, b| {
        let length = |path: &PathBuf| path.as_os_str().len();
        length(a).cmp(&length(b)).then_with(|| a.cmp(b))
    });
    Ok(files)
}

/// The messages of a bag in log-time order: a merge of its files, each opened when the time comes
/// that it starts at.
pub struct Messages {
    path: PathBuf,
    waiting: std::collections::VecDeque<BagFile>,
    /// Open files by log time of their next message, then by the order in which they were opened.
    open: BTreeMap<(u64, usize), (Message, Stream)>,
    chosen: Selection,
    compressed: bool,
    /// Messages that the summaries promise, when all are read.
    expected: Option<usize>,
    read: usize,
}

impl Iterator for Messages {
    type Item = Result<Message>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.advance();
        if next.is_err() {
            self.waiting.clear();
            self.open.clear();
            self.expected = None;
        }
        next.transpose()
    }
}

impl Messages {
    fn advance(&mut self) -> Result<Option<Message>> {
        while let Some(file) = self.waiting.front() {
            if self.open.first_key_value().is_some_and(|((time, _), _)| *time < file.start_ns) {
                break;
            }
            let messages = Storage::open(&file.path)?.messages(&self.chosen)?;
            let order = usize::MAX - self.waiting.len();
            self.waiting.pop_front();
            self.hold(order, messages)?;
        }
        let Some(((_, order), (mut message, rest))) = self.open.pop_first() else {
            return self.end();
        };
        self.hold(order, rest)?;
        self.read += 1;
        message.data =
            storage::decompress_message(message.data, self.compressed).map_err(|error| {
                let (topic, time) = (&message.topic, message.log_time_ns);
                let problem = format!("{topic} at {time} ns: zstd: {error}");
                Error::bad_file(&self.path, problem)
            })?;
        Ok(Some(message))
    }

    /// Keeps a file with its next message; lets go of one that has none.
    fn hold(&mut self, order: usize, mut messages: Stream) -> Result<()> {
        if let Some(message) = messages.next().transpose()? {
            self.open.insert((message.log_time_ns, order), (message, messages));
        }
        Ok(())
    }

    /// After the last message.
    fn end(&mut self) -> Result<Option<Message>> {
        match self.expected.take() {
            Some(expected) if expected != self.read => {
                let read = self.read;
                let problem = format!("{read} messages read, its index says {expected}");
                Err(Error::bad_file(&self.path, problem))
            }
            _ => Ok(None),
        }
    }
}
