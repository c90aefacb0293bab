//! Writes a bag as `ros2 bag record --storage mcap` does, the same bytes for the same messages.

use std::collections::BTreeMap;
use std::fs::{File, Permissions};
use std::io::BufWriter;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use ::mcap::WriteOptions;
use ::mcap::records::MessageHeader;

use super::Qos;
use super::metadata::{Duration, FileInfo, Metadata, Time, TopicCount, TopicMetadata};
use crate::msg::Definition;
use crate::{Error, Result};

/// A topic of the bag being written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicId(usize);

/// What `metadata.yaml` will say of a topic.
struct Written {
    name: String,
    definition: Definition,
    qos: Qos,
    channel: u16,
    count: u64,
}

/// A bag that appears when it is finished; dropped before that, it leaves nothing.
pub struct BagWriter {
    /// Where it will be.
    path: PathBuf,
    /// Where it is until then; removed on drop.
    part: tempfile::TempDir,
    file: PathBuf,
    /// One file, without the folder and `metadata.yaml` around it.
    single: bool,
    mcap: ::mcap::Writer<BufWriter<File>>,
    topics: Vec<Written>,
    /// First and last log time, ns.
    span: Option<(u64, u64)>,
}

impl BagWriter {
    /// Begins a bag at `path`, which will be a folder.
    ///
    /// # Errors
    /// [`Error::BadFile`] when something is there already; [`Error::Io`].
    pub fn create(path: &Path) -> Result<Self> {
        Self::begin(path, false)
    }

    /// Begins a bag at `path` that will be one MCAP file, which says of itself all that matters.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub fn create_file(path: &Path) -> Result<Self> {
        Self::begin(path, true)
    }

    fn begin(path: &Path, single: bool) -> Result<Self> {
        if path.exists() {
            let problem = "already there, a bag is never written over; remove it or name another";
            return Err(Error::bad_file(path, problem));
        }
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        std::fs::create_dir_all(parent).map_err(Error::io(parent))?;
        let part = tempfile::Builder::new()
            .prefix(&format!(".{name}."))
            .suffix(".part")
            .permissions(Permissions::from_mode(0o777)) // less the umask, as any other folder
            .tempdir_in(parent)
            .map_err(Error::io(path))?;
        let file = PathBuf::from(format!("{name}_0.mcap"));
        let output = File::create(part.path().join(&file)).map_err(Error::io(path))?;
        let options = WriteOptions::new()
            .profile("ros2")
            .library(concat!("ood_segmentation ", env!("CARGO_PKG_VERSION")))
            .compression(Some(::mcap::Compression::Zstd))
            .compression_threads(0); // threads would change the bytes from machine to machine
        let mcap = options.create(BufWriter::new(output)).map_err(bad(path))?;
        let (path, topics) = (path.to_path_buf(), Vec::new());
        Ok(Self { path, part, file, single, mcap, topics, span: None })
    }

    /// Adds a topic; `qos` is what a replay shall offer.
    ///
    /// # Errors
    /// [`Error::BadFile`]: a name used twice, a full disk.
    pub fn add_topic(&mut self, name: &str, definition: &Definition, qos: Qos) -> Result<TopicId> {
        if self.topics.iter().any(|topic| topic.name == name) {
            return Err(Error::bad_file(&self.path, format!("topic {name} is added twice")));
        }
        let mut metadata = BTreeMap::from([("offered_qos_profiles".into(), qos.profile())]);
        if !definition.hash.is_empty() {
            metadata.insert("topic_type_hash".into(), definition.hash.into());
        }
        let text = definition.text.as_bytes();
        let schema = self.mcap.add_schema(definition.type_name, "ros2msg", text);
        let channel =
            schema.and_then(|schema| self.mcap.add_channel(schema, name, "cdr", &metadata));
        let channel = channel.map_err(bad(&self.path))?;
        let (name, definition) = (name.to_string(), *definition);
        self.topics.push(Written { name, definition, qos, channel, count: 0 });
        Ok(TopicId(self.topics.len() - 1))
    }

    /// Appends a message: CDR with its encapsulation header, as [`crate::msg::encode`] makes it.
    ///
    /// # Errors
    /// [`Error::BadFile`]: a full disk.
    pub fn write(&mut self, topic: TopicId, log_time_ns: u64, cdr: &[u8]) -> Result<()> {
        let topic = &mut self.topics[topic.0];
        let header = MessageHeader {
            channel_id: topic.channel,
            sequence: u32::try_from(topic.count & 0xffff_ffff).unwrap_or_default(),
            log_time: log_time_ns,
            publish_time: log_time_ns,
        };
        self.mcap.write_to_known_channel(&header, cdr).map_err(bad(&self.path))?;
        topic.count += 1;
        let (first, last) = self.span.unwrap_or((log_time_ns, log_time_ns));
        self.span = Some((first.min(log_time_ns), last.max(log_time_ns)));
        Ok(())
    }

    /// Completes the bag and makes it appear.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::BadFile`]: a full disk, something at its place by now.
    pub fn finish(mut self) -> Result<()> {
        self.mcap.finish().map_err(bad(&self.path))?;
        let metadata = self.metadata();
        let Self { path, part, file: name, single, mcap, .. } = self;
        let file = mcap.into_inner().into_inner();
        let synced = file.map_err(std::io::IntoInnerError::into_error).and_then(|f| f.sync_all());
        synced.map_err(Error::io(&path))?;
        if single {
            return std::fs::rename(part.path().join(name), &path).map_err(Error::io(&path));
        }
        let yaml = metadata.into_yaml();
        let yaml = yaml.map_err(|source| Error::Yaml { path: path.clone(), source })?;
        std::fs::write(part.path().join("metadata.yaml"), yaml).map_err(Error::io(&path))?;
        std::fs::rename(part.path(), &path).map_err(Error::io(&path))
    }

    /// `metadata.yaml` as of now.
    fn metadata(&self) -> Metadata {
        let count = self.topics.iter().map(|topic| topic.count).sum();
        let (first, last) = self.span.unwrap_or_default();
        let ns = |time: u64| i64::try_from(time).unwrap_or(i64::MAX);
        let starting_time = Time { nanoseconds_since_epoch: ns(first) };
        let duration = Duration { nanoseconds: ns(last - first) };
        let path = self.file.to_string_lossy().into_owned();
        let topic = |topic: &Written| TopicCount {
            topic_metadata: TopicMetadata {
                name: topic.name.clone(),
                type_name: topic.definition.type_name.into(),
                serialization_format: "cdr".into(),
                offered_qos_profiles: serde_yaml::from_str(&topic.qos.profile())
                    .unwrap_or_default(),
                type_description_hash: topic.definition.hash.into(),
            },
            message_count: topic.count,
        };
        Metadata {
            version: 9,
            storage_identifier: "mcap".into(),
            duration,
            starting_time,
            message_count: count,
            topics_with_message_count: self.topics.iter().map(topic).collect(),
            compression_format: String::new(),
            compression_mode: String::new(),
            relative_file_paths: vec![path.clone()],
            files: vec![FileInfo { path, starting_time, duration, message_count: count }],
            custom_data: serde_yaml::Value::Null,
            ros_distro: String::new(),
        }
    }
}

/// An error of the MCAP writer, about the bag.
fn bad(path: &Path) -> impl FnOnce(::mcap::McapError) -> Error {
    let path = path.to_path_buf();
    move |error| match error {
        ::mcap::McapError::Io(source) => Error::Io { path, source },
        other => Error::bad_file(path, other.to_string()),
    }
}
