//! MCAP files: chunks in log-time order through the summary's index, one chunk in memory at a time.
//!
//! Files recorded without chunks (rosbag2's `fastwrite` profile) have no index; theirs is made by
//! walking over the record headers once.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use ::mcap::records::{ChunkIndex, MessageHeader, Record, op};
use ::mcap::sans_io::{
    LinearReadEvent, LinearReader, LinearReaderOptions, SummaryReadEvent, SummaryReader,
    SummaryReaderOptions,
};
use ::mcap::{McapError, McapResult};

use super::storage::{MAX_MESSAGE, Selection, Stream, Summary};
use super::{Message, Qos, Topic};
use crate::{Error, Result};

/// Opcode (1 byte) and length (8 bytes) before every record.
const RECORD_HEADER: usize = 9;
/// Channel id, sequence number, log time and publish time before a message's payload, bytes.
const MESSAGE_HEADER: usize = 2 + 4 + 8 + 8;

/// Opcodes from here on are anybody's own; the crate hands them on unread.
const FIRST_PRIVATE: u8 = 0x80;

/// Bytes that one byte can be unpacked to: 128 KiB from a block of 4 in zstd, far fewer in LZ4.
const MAX_RATIO: u64 = 32_768;

/// Topic and type of a channel.
type Channels = HashMap<u16, (String, String)>;

/// An open MCAP file.
pub(super) struct McapFile {
    path: PathBuf,
    file: File,
    index: ::mcap::Summary,
    pub(super) summary: Summary,
}

impl McapFile {
    /// Reads the summary section.
    pub(super) fn open(path: &Path, mut file: File) -> Result<Self> {
        let index = read_index(&mut file).map_err(|error| {
            let problem = format!(
                "no index at its end ({}): the recording was cut short; `mcap recover` mends it",
                describe(&error)
            );
            Error::bad_file(path, problem)
        })?;
        let Some(statistics) = &index.stats else {
            let problem = "an index without statistics; `mcap recover` makes them";
            return Err(Error::bad_file(path, problem));
        };
        let topics = index.channels.values().map(|channel| Topic {
            name: channel.topic.clone(),
            type_name: channel.schema.as_ref().map(|s| s.name.clone()).unwrap_or_default(),
            message_count: statistics
                .channel_message_counts
                .get(&channel.id)
                .map_or(0, |count| usize::try_from(*count).unwrap_or(usize::MAX)),
            serialization_format: channel.message_encoding.clone(),
            qos: channel.metadata.get("offered_qos_profiles").and_then(|text| Qos::parse(text)),
        });
        let any = statistics.message_count > 0;
        let span = any.then_some((statistics.message_start_time, statistics.message_end_time));
        let summary = Summary { topics: topics.collect(), span };
        Ok(Self { path: path.to_path_buf(), file, index, summary })
    }

    /// The chosen messages in log-time order, at equal times in file order.
    pub(super) fn messages(self, chosen: &Selection) -> Result<Stream> {
        let wanted = self.index.channels.values().filter(|c| chosen.topics.contains(&c.topic));
        let channels: Channels = wanted
            .map(|channel| {
                let schema = channel.schema.as_ref().map(|schema| schema.name.clone());
                (channel.id, (channel.topic.clone(), schema.unwrap_or_default()))
            })
            .collect();
        if self.index.chunk_indexes.is_empty() {
            let order = scan(&self.path, &self.file, &channels, chosen.start_ns)?;
            let Self { path, file, .. } = self;
            return Ok(Box::new(Unchunked { path, file, channels, order }));
        }
        let mut chunks = self.index.chunk_indexes;
        chunks.retain(|chunk| {
            let ids = &chunk.message_index_offsets; // empty when the writer left them out
            let has = ids.is_empty() || ids.keys().any(|id| channels.contains_key(id));
            has && chunk.message_end_time >= chosen.start_ns
        });
        chunks.sort_by_key(|chunk| (chunk.message_start_time, chunk.chunk_start_offset));
        let size = self.file.metadata().map_err(Error::io(&self.path))?.len();
        Ok(Box::new(Chunks {
            path: self.path,
            file: self.file,
            size,
            channels,
            start_ns: chosen.start_ns,
            chunks: chunks.into(),
            read: BTreeMap::new(),
        }))
    }
}

/// The summary section, or why there is none.
fn read_index(file: &mut File) -> McapResult<::mcap::Summary> {
    let size = file.metadata()?.len();
    if !is_summary(&summary_section(file, size)?) {
        return Err(McapError::UnexpectedEof);
    }
    file.rewind()?;
    let options = SummaryReaderOptions::default().with_file_size(size);
    let mut reader = SummaryReader::new_with_options(options);
    while let Some(event) = reader.next_event() {
        match event? {
            SummaryReadEvent::ReadRequest(need) => {
                let read = file.read(reader.insert(need))?;
                reader.notify_read(read);
            }
            SummaryReadEvent::SeekRequest(to) => reader.notify_seeked(file.seek(to)?),
        }
    }
    reader.finish().ok_or(McapError::BadFooter)
}

/// The bytes from the start of the summary to the footer; none where the footer says none.
fn summary_section(file: &mut File, size: u64) -> McapResult<Vec<u8>> {
    let footer = (RECORD_HEADER + 20 + ::mcap::MAGIC.len()) as u64;
    let end = size.checked_sub(footer).ok_or(McapError::UnexpectedEof)?;
    file.seek(SeekFrom::Start(end + RECORD_HEADER as u64))?;
    let mut start = [0; 8];
    file.read_exact(&mut start)?;
    let start = u64::from_le_bytes(start);
    let mut section = Vec::new();
    if (1..end).contains(&start) {
        file.seek(SeekFrom::Start(start))?;
        file.take(end - start).read_to_end(&mut section)?;
    }
    Ok(section)
}

/// Whether these are records of a summary and every text lies within its record: the crate reserves the
/// length that a text claims, up to 4 GiB, before it looks, and would unpack a chunk here.
fn is_summary(mut records: &[u8]) -> bool {
    while let Some((&[opcode, ref length @ ..], rest)) =
        records.split_first_chunk::<RECORD_HEADER>()
    {
        let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
        let Some((body, next)) = rest.split_at_checked(length) else { return false };
        let fixed = |bytes: usize, texts| fields(body.get(bytes..), texts).is_some();
        let fits = match opcode {
            op::SCHEMA => fixed(2, 2),
            op::CHANNEL => fields(body.get(4..), 2).is_some_and(|metadata| {
                // Keys and values behind the length of them all.
                let mut texts = metadata.get(4..).filter(|texts| !texts.is_empty());
                while let Some(left) = texts {
                    let Some(left) = fields(Some(left), 1) else { return false };
                    texts = Some(left).filter(|left| !left.is_empty());
                }
                true
            }),
            // The offsets' length is that of a text.
            op::CHUNK_INDEX => {
                fields(body.get(32..), 1).is_some_and(|rest| fields(rest.get(8..), 1).is_some())
            }
            op::ATTACHMENT_INDEX => fixed(40, 2),
            op::METADATA_INDEX => fixed(16, 1),
            op::STATISTICS | op::SUMMARY_OFFSET | op::FOOTER => true,
            of_the_data => of_the_data >= FIRST_PRIVATE,
        };
        if !fits {
            return false;
        }
        records = next;
    }
    records.is_empty()
}

/// What follows `count` texts, each behind its length; `None` where one is longer than what is there.
fn fields(mut bytes: Option<&[u8]>, count: usize) -> Option<&[u8]> {
    for _ in 0..count {
        let (length, rest) = bytes?.split_first_chunk()?;
        bytes = rest.get(usize::try_from(u32::from_le_bytes(*length)).ok()?..);
    }
    bytes
}

/// The messages of a chunked file.
struct Chunks {
    path: PathBuf,
    file: File,
    size: u64,
    channels: Channels,
    start_ns: u64,
    /// Not yet read, by start time.
    chunks: VecDeque<ChunkIndex>,
    /// Messages read and not yet handed out, by log time and position in the file.
    read: BTreeMap<(u64, u64, usize), Message>,
}

impl Iterator for Chunks {
    type Item = Result<Message>;

    fn next(&mut self) -> Option<Self::Item> {
        // Chunks may overlap in time: every one that starts no later than the next message is read.
        while let Some(chunk) = self.chunks.front() {
            let next = self.read.first_key_value().map(|((time, ..), _)| *time);
            if next.is_some_and(|time| chunk.message_start_time > time) {
                break;
            }
            let chunk = self.chunks.pop_front()?;
            if let Err(error) = self.load(&chunk) {
                self.chunks.clear();
                self.read.clear();
                let (at, why) = (chunk.chunk_start_offset, describe(&error));
                return Some(Err(Error::bad_file(
                    &self.path,
                    format!("chunk at byte {at}: {why}"),
                )));
            }
        }
        self.read.pop_first().map(|(_, message)| Ok(message))
    }
}

impl Chunks {
    /// Reads a chunk, checks its CRC, and keeps its wanted messages.
    fn load(&mut self, chunk: &ChunkIndex) -> McapResult<()> {
        let end = chunk.chunk_start_offset.checked_add(chunk.chunk_length);
        if end.is_none_or(|end| end > self.size) {
            return Err(McapError::UnexpectedEof);
        }
        let too_large = McapError::ChunkTooLarge(chunk.chunk_length);
        let length = usize::try_from(chunk.chunk_length).or(Err(too_large))?;
        let mut record = vec![0; length];
        self.file.seek(SeekFrom::Start(chunk.chunk_start_offset))?;
        self.file.read_exact(&mut record)?;
        let (Some(&op::CHUNK), Some(body)) = (record.first(), record.get(RECORD_HEADER..)) else {
            return Err(McapError::BadIndex);
        };
        if fields(body.get(28..), 1).is_none() {
            return Err(McapError::UnexpectedEoc);
        }
        let Record::Chunk { header, data } = ::mcap::parse_record(op::CHUNK, body)? else {
            return Err(McapError::BadIndex);
        };
        // The reader below subtracts the lengths of an uncompressed chunk's records unchecked.
        if header.compression.is_empty() && !holds_whole_records(&data) {
            return Err(McapError::UnexpectedEoc);
        }
        // And it makes room for what a record claims: no more than can come of these bytes.
        let packed = (data.len() as u64).saturating_mul(MAX_RATIO);
        let limit = header.uncompressed_size.min(packed).max(chunk.chunk_length).min(MAX_MESSAGE);
        let mut rest = &record[..];
        let options = LinearReaderOptions::default()
            .with_skip_start_magic(true)
            .with_skip_end_magic(true)
            .with_prevalidate_chunk_crcs(true)
            .with_record_length_limit(usize::try_from(limit).unwrap_or(usize::MAX));
        let mut reader = LinearReader::new_with_options(options);
        let mut position = 0;
        while let Some(event) = reader.next_event() {
            match event? {
                LinearReadEvent::ReadRequest(need) => {
                    let (now, later) = rest.split_at(need.min(rest.len()));
                    reader.insert(now.len()).copy_from_slice(now);
                    reader.notify_read(now.len());
                    rest = later;
                }
                LinearReadEvent::Record { opcode: op::MESSAGE, data } => {
                    if let Record::Message { header, data } =
                        ::mcap::parse_record(op::MESSAGE, data)?
                        && let Some((topic, type_name)) = self.channels.get(&header.channel_id)
                        && header.log_time >= self.start_ns
                    {
                        let key = (header.log_time, chunk.chunk_start_offset, position);
                        let message = message(topic, type_name, header.log_time, data.into_owned());
                        self.read.insert(key, message);
                    }
                    position += 1;
                }
                LinearReadEvent::Record { .. } => {}
            }
        }
        Ok(())
    }
}

/// Whether records fill these bytes to the end.
fn holds_whole_records(mut bytes: &[u8]) -> bool {
    while let Some((&[_, ref length @ ..], rest)) = bytes.split_first_chunk::<RECORD_HEADER>() {
        let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
        let Some(next) = rest.get(length..) else { return false };
        bytes = next;
    }
    bytes.is_empty()
}

/// Where a message lies in a file without chunks.
struct Place {
    log_time_ns: u64,
    channel: u16,
    /// Of the payload.
    offset: u64,
    length: usize,
}

/// The messages of a file without chunks.
struct Unchunked {
    path: PathBuf,
    file: File,
    channels: Channels,
    order: std::vec::IntoIter<Place>,
}

impl Iterator for Unchunked {
    type Item = Result<Message>;

    fn next(&mut self) -> Option<Self::Item> {
        let place = self.order.next()?;
        let (topic, type_name) = self.channels.get(&place.channel)?;
        let mut data = vec![0; place.length];
        let read = self.file.seek(SeekFrom::Start(place.offset));
        let read = read.and_then(|_| self.file.read_exact(&mut data));
        let read = read.map(|()| message(topic, type_name, place.log_time_ns, data));
        Some(read.map_err(Error::io(&self.path)))
    }
}

/// Walks over the records of a file without chunks.
fn scan(
    path: &Path,
    file: &File,
    channels: &Channels,
    start_ns: u64,
) -> Result<std::vec::IntoIter<Place>> {
    let size = file.metadata().map_err(Error::io(path))?.len();
    let mut reader = BufReader::new(file);
    let mut at = ::mcap::MAGIC.len() as u64;
    let mut order = Vec::new();
    loop {
        reader.seek(SeekFrom::Start(at)).map_err(Error::io(path))?;
        let mut start = [0; RECORD_HEADER + MESSAGE_HEADER];
        reader.read_exact(&mut start).map_err(Error::io(path))?;
        let [opcode, l0, l1, l2, l3, l4, l5, l6, l7, header @ ..] = start;
        let length = u64::from_le_bytes([l0, l1, l2, l3, l4, l5, l6, l7]);
        let end = at.checked_add(RECORD_HEADER as u64).and_then(|data| data.checked_add(length));
        let Some(end) = end.filter(|end| *end <= size) else {
            let problem = format!("record at byte {at} claims {length} bytes, the file has {size}");
            return Err(Error::bad_file(path, problem));
        };
        match opcode {
            op::DATA_END | op::FOOTER => break,
            op::MESSAGE if length >= MESSAGE_HEADER as u64 => {
                let header = message_header(&header);
                if channels.contains_key(&header.channel_id) && header.log_time >= start_ns {
                    order.push(Place {
                        log_time_ns: header.log_time,
                        channel: header.channel_id,
                        offset: at + (RECORD_HEADER + MESSAGE_HEADER) as u64,
                        length: usize::try_from(length).unwrap_or(usize::MAX) - MESSAGE_HEADER,
                    });
                }
            }
            _ => {}
        }
        at = end;
    }
    order.sort_by_key(|place| place.log_time_ns); // stable: equal times stay in file order
    Ok(order.into_iter())
}

/// A message record's fixed part.
fn message_header(bytes: &[u8; MESSAGE_HEADER]) -> MessageHeader {
    let [c0, c1, s0, s1, s2, s3, l0, l1, l2, l3, l4, l5, l6, l7, publish @ ..] = *bytes;
    MessageHeader {
        channel_id: u16::from_le_bytes([c0, c1]),
        sequence: u32::from_le_bytes([s0, s1, s2, s3]),
        log_time: u64::from_le_bytes([l0, l1, l2, l3, l4, l5, l6, l7]),
        publish_time: u64::from_le_bytes(publish),
    }
}

fn message(topic: &str, type_name: &str, log_time_ns: u64, data: Vec<u8>) -> Message {
    Message { topic: topic.into(), type_name: type_name.into(), log_time_ns, data }
}

/// An error with its cause, which the crate keeps apart.
fn describe(error: &McapError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
