//! Serialised messages over DDS as they are: for tools that play and record without knowing types.
//!
//! A payload is CDR with its 4-byte encapsulation header, as bags hold it.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use futures::{FutureExt, StreamExt, pin_mut, select_biased};
use ros2_client::dds::{Context, Node, rustdds};
use ros2_client::{NodeName, NodeOptions};
use rustdds::bytes::Bytes;
use rustdds::no_key::{
    DataWriter, Decode, DefaultDecoder, DeserializerAdapter, SerializerAdapter, SimpleDataReader,
};
use rustdds::policy::{Durability, History, Reliability, ResourceLimits};
use rustdds::{
    DataReaderStatus, DataWriterStatus, DomainParticipant, DomainParticipantBuilder, Publisher,
    QosPolicies, QosPolicyBuilder, RepresentationIdentifier, StatusEvented, Subscriber, Topic,
    TopicKind,
};

use super::args::Network;
use crate::{Error, Result};

/// Asked of the kernel, which may grant less: a socket must hold the frames that arrive together. This is enough
/// for `receive_buffer`'s share of 3840x2160 rgb8.
pub const RECEIVE_BUFFER: usize = 64 << 20;
/// Asked of the kernel for sending.
pub(super) const SEND_BUFFER: usize = 16 << 20;
/// Samples that a writer keeps: until the transport's own thread has sent them (with one, the second
/// of two written at once replaces the first), and for late readers when it is transient local.
const DEPTH: i32 = 10;
/// How long a reliable write waits for room before its sample is given up.
const MAX_BLOCKING: Duration = Duration::from_millis(100);

/// What the kernel grants a socket at most, bytes; `None` where it does not say.
pub fn receive_buffer_limit() -> Option<usize> {
    std::fs::read_to_string("/proc/sys/net/core/rmem_max").ok()?.trim().parse().ok()
}

/// What to ask of the kernel for a socket that has received frames of so many bytes: two and a half of them,
/// since the kernel counts more than the payload, and room for smaller ones is free.
pub(super) fn receive_buffer(frame: usize) -> usize {
    RECEIVE_BUFFER.max(needed(frame))
}

/// Two and a half frames.
pub(super) fn needed(frame: usize) -> usize {
    frame.saturating_mul(5) / 2
}

/// The DDS domain that ROS would use: `ROS_DOMAIN_ID`, 0 when it is not set.
///
/// # Errors
/// As [`Network::from_env`].
pub fn domain_id() -> Result<u16> {
    Ok(Network::from_env(|name| std::env::var(name).ok())?.domain_id)
}

/// Quality of service of a raw endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Qos {
    /// Lost samples are sent again.
    pub reliable: bool,
    /// Late readers get the last samples, at most ten.
    pub transient_local: bool,
    /// Writer: unacknowledged samples before a reliable write waits. Reader: unread samples kept.
    pub samples: i32,
}

impl Qos {
    /// With a history of at most `depth`.
    fn policies(self, depth: i32) -> QosPolicies {
        let reliability = match self.reliable {
            true => Reliability::Reliable { max_blocking_time: MAX_BLOCKING.into() },
            false => Reliability::BestEffort,
        };
        let durability = match self.transient_local {
            true => Durability::TransientLocal,
            false => Durability::Volatile,
        };
        let samples = self.samples.max(1);
        QosPolicyBuilder::new()
            .reliability(reliability)
            .durability(durability)
            .history(History::KeepLast { depth: samples.min(depth) })
            .resource_limits(ResourceLimits {
                max_samples: samples,
                max_instances: 1,
                max_samples_per_instance: samples,
            })
            .build()
    }
}

/// A DDS participant of one domain.
pub struct Participant {
    node: Option<(Node, Context)>,
    publisher: Publisher,
    subscriber: Subscriber,
    participant: DomainParticipant,
}

impl Participant {
    /// Joins a domain.
    ///
    /// # Errors
    /// [`Error::Ros`]: no network, or no free port.
    pub fn new(domain: u16) -> Result<Self> {
        Self::with_receive_buffer(domain, RECEIVE_BUFFER)
    }

    /// As [`Self::new`], with so many bytes asked of the kernel for what was not read yet.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_receive_buffer(domain: u16, bytes: usize) -> Result<Self> {
        let what = || format!("joining DDS domain {domain}");
        offer_type_hashes();
        let participant = DomainParticipantBuilder::new(domain)
            .socket_receive_buffer_size(bytes)
            .socket_send_buffer_size(SEND_BUFFER)
            .build()
            .map_err(failed(what))?;
        let qos = QosPolicyBuilder::new().build();
        let publisher = participant.create_publisher(&qos).map_err(failed(what))?;
        let subscriber = participant.create_subscriber(&qos).map_err(failed(what))?;
        Ok(Self { node: None, publisher, subscriber, participant })
    }

    /// Shows up as a node in `ros2 node list`; its raw endpoints stay without one.
    ///
    /// # Errors
    /// [`Error::Ros`]: a name that ROS does not allow.
    pub fn announce(&mut self, name: &str) -> Result<()> {
        let what = || format!("announcing node /{name}");
        let context = Context::from_domain_participant(self.participant.clone());
        let context = context.map_err(failed(what))?;
        let options = NodeOptions::new().enable_rosout(false).start_parameter_services(false);
        let name = NodeName::new("/", name).map_err(failed(what))?;
        let node = context.new_node(name, options).map_err(failed(what))?;
        self.node = Some((node, context));
        Ok(())
    }

    /// A writer on ROS topic `name` (`/camera/image_raw`) of `type_name`
    /// (`sensor_msgs/msg/Image`), for payloads of one byte order.
    ///
    /// # Errors
    /// [`Error::Ros`].
    pub fn writer(
        &self,
        name: &str,
        type_name: &str,
        qos: Qos,
        order: ByteOrder,
    ) -> Result<RawWriter> {
        let what = || format!("creating the writer of {name}");
        let topic = self.topic(name, type_name, &qos.policies(DEPTH))?;
        let publisher = &self.publisher;
        let writer = match order {
            ByteOrder::Little => {
                publisher.create_datawriter_no_key(&topic, None).map(Writer::Little)
            }
            ByteOrder::Big => publisher.create_datawriter_no_key(&topic, None).map(Writer::Big),
        };
        let writer = writer.map_err(failed(what))?;
        Ok(RawWriter { topic: name.into(), writer, matched: 0 })
    }

    /// A reader, with names as in [`Self::writer`].
    ///
    /// # Errors
    /// [`Error::Ros`].
    pub fn reader(&self, name: &str, type_name: &str, qos: Qos) -> Result<RawReader> {
        let what = || format!("creating the reader of {name}");
        let topic = self.topic(name, type_name, &qos.policies(i32::MAX))?;
        let reader = self.subscriber.create_simple_datareader_no_key(&topic, None);
        let reader = reader.map_err(failed(what))?;
        Ok(RawReader { topic: name.into(), reader, matched: 0 })
    }

    fn topic(&self, name: &str, type_name: &str, qos: &QosPolicies) -> Result<Topic> {
        let dds_name = format!("rt/{}", name.trim_start_matches('/'));
        let topic =
            self.participant.create_topic(dds_name, dds_type(type_name), qos, TopicKind::NoKey);
        topic.map_err(failed(|| format!("creating topic {name}")))
    }
}

/// `sensor_msgs::msg::dds_::Image_` of `sensor_msgs/msg/Image`: the name of a ROS type in DDS.
pub(super) fn dds_type(ros: &str) -> String {
    match ros.rsplit_once('/') {
        Some((package, name)) => format!("{}::dds_::{name}_", package.replace('/', "::")),
        None => ros.to_string(),
    }
}

/// The ROS name of a type, `sensor_msgs/msg/Image`, from that in DDS; as it is when it is none of ROS.
fn ros_type(dds: &str) -> String {
    let ros = dds.split_once("::dds_::").and_then(|(package, name)| {
        Some(format!("{}/{}", package.replace("::", "/"), name.strip_suffix('_')?))
    });
    ros.unwrap_or_else(|| dds.to_string())
}

/// Lets every reader and writer of this process offer the hash of its type, where it is known.
pub(super) fn offer_type_hashes() {
    let user_data = |dds: &str| match crate::msg::type_hash(&ros_type(dds)) {
        Some(hash) => format!("typehash={hash};").into_bytes(),
        None => Vec::new(),
    };
    rustdds::USER_DATA.get_or_init(|| user_data);
}

/// Names a failure.
pub(super) fn failed<E: std::fmt::Display>(
    what: impl FnOnce() -> String,
) -> impl FnOnce(E) -> Error {
    |error| Error::Ros { what: what(), problem: error.to_string() }
}

/// Byte order of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteOrder {
    /// Encapsulation 0x0001.
    Little,
    /// Encapsulation 0x0000.
    Big,
}

impl ByteOrder {
    /// That of a payload; `None` when its first four bytes are no plain CDR header.
    pub fn of(payload: &[u8]) -> Option<Self> {
        match payload {
            [0, 0, _, _, ..] => Some(Self::Big),
            [0, 1, _, _, ..] => Some(Self::Little),
            _ => None,
        }
    }
}

/// Hands payload bytes to RTPS as little-endian CDR.
struct LittleEndian;
/// Hands payload bytes to RTPS as big-endian CDR.
struct BigEndian;

impl SerializerAdapter<Bytes> for LittleEndian {
    type Error = Infallible;

    fn output_encoding() -> RepresentationIdentifier {
        RepresentationIdentifier::CDR_LE
    }

    fn to_bytes(body: &Bytes) -> Result<Bytes, Infallible> {
        Ok(body.clone()) // counts a reference
    }
}

impl SerializerAdapter<Bytes> for BigEndian {
    type Error = Infallible;

    fn output_encoding() -> RepresentationIdentifier {
        RepresentationIdentifier::CDR_BE
    }

    fn to_bytes(body: &Bytes) -> Result<Bytes, Infallible> {
        Ok(body.clone())
    }
}

/// The byte order is part of a DDS writer's type.
enum Writer {
    Little(DataWriter<Bytes, LittleEndian>),
    Big(DataWriter<Bytes, BigEndian>),
}

/// Writes payloads to one topic.
pub struct RawWriter {
    topic: String,
    writer: Writer,
    matched: i32,
}

impl RawWriter {
    /// Sends a payload unchanged; false when a reliable reader is so far behind that there is no
    /// room for it.
    ///
    /// # Errors
    /// [`Error::Ros`]: a payload of the other byte order or without CDR header; a dead participant.
    pub fn write(&self, payload: Vec<u8>) -> Result<bool> {
        let what = || format!("writing to {}", self.topic);
        let (own, found) = match &self.writer {
            Writer::Little(_) => (ByteOrder::Little, ByteOrder::of(&payload)),
            Writer::Big(_) => (ByteOrder::Big, ByteOrder::of(&payload)),
        };
        if found != Some(own) {
            let start = payload.get(..4).unwrap_or(&payload);
            let problem = format!("payload starts with {start:02x?}, expected {own:?}-endian CDR");
            return Err(Error::Ros { what: what(), problem });
        }
        let body = Bytes::from(payload).slice(4..);
        let written = match &self.writer {
            Writer::Little(writer) => writer.write(body, None),
            Writer::Big(writer) => writer.write(body, None),
        };
        match written {
            Ok(()) => Ok(true),
            Err(rustdds::dds::WriteError::WouldBlock { .. }) => Ok(false),
            Err(error) => Err(failed(what)(error)),
        }
    }

    /// Readers matched now. A reader whose QoS does not match is logged.
    pub fn matched(&mut self) -> usize {
        loop {
            let status = match &self.writer {
                Writer::Little(writer) => writer.try_recv_status(),
                Writer::Big(writer) => writer.try_recv_status(),
            };
            match status {
                Some(DataWriterStatus::PublicationMatched { current, .. }) => {
                    self.matched = current.count();
                }
                Some(DataWriterStatus::OfferedIncompatibleQos { last_policy_id, .. }) => {
                    let topic = &self.topic;
                    log::warn!("{topic}: a subscriber asks for other QoS: {last_policy_id:?}");
                }
                Some(_) => {}
                None => return usize::try_from(self.matched).unwrap_or_default(),
            }
        }
    }

    /// Waits until at least one reader is matched, at most `timeout`.
    pub fn wait_matched(&mut self, timeout: Duration) -> bool {
        wait(timeout, || self.matched() > 0)
    }

    /// Waits until reliable readers have everything, at most `timeout`.
    ///
    /// # Errors
    /// [`Error::Ros`]: a dead participant.
    pub fn flush(&self, timeout: Duration) -> Result<bool> {
        let done = match &self.writer {
            Writer::Little(writer) => writer.wait_for_acknowledgments(timeout),
            Writer::Big(writer) => writer.wait_for_acknowledgments(timeout),
        };
        done.map_err(failed(|| format!("waiting for the readers of {}", self.topic)))
    }
}

/// Looks again every few milliseconds: for start-up, where nobody counts them.
fn wait(timeout: Duration, mut done: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + timeout;
    loop {
        if done() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A payload as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// CDR with its encapsulation header. RTPS may have padded its end to four bytes.
    pub data: Vec<u8>,
    /// When it was taken.
    pub received: Instant,
}

/// Copies a payload out of the transport.
struct Copy;

#[derive(Clone)]
struct Copier;

impl DeserializerAdapter<Vec<u8>> for Copy {
    type Error = Infallible;
    type Decoded = Vec<u8>;

    fn supported_encodings() -> &'static [RepresentationIdentifier] {
        &[RepresentationIdentifier::CDR_LE, RepresentationIdentifier::CDR_BE]
    }

    fn transform_decoded(decoded: Vec<u8>) -> Vec<u8> {
        decoded
    }
}

impl DefaultDecoder<Vec<u8>> for Copy {
    type Decoder = Copier;
    const DECODER: Copier = Copier;
}

impl Decode<'_, Vec<u8>> for Copier {
    type Error = Infallible;

    fn decode_bytes(
        self,
        body: &[u8],
        encoding: RepresentationIdentifier,
    ) -> Result<Vec<u8>, Infallible> {
        let mut payload = Vec::with_capacity(4 + body.len());
        payload.extend_from_slice(&encoding.to_bytes());
        payload.extend_from_slice(&[0, 0]);
        payload.extend_from_slice(body);
        Ok(payload)
    }
}

/// Reads payloads of one topic.
pub struct RawReader {
    topic: String,
    reader: SimpleDataReader<Vec<u8>, Copy>,
    matched: i32,
}

impl RawReader {
    /// The oldest unread sample, waiting at most `timeout` for one.
    ///
    /// # Errors
    /// [`Error::Ros`]: a payload that is not plain CDR, a dead participant.
    pub fn next(&self, timeout: Duration) -> Result<Option<Sample>> {
        let stream = self.reader.as_async_stream();
        pin_mut!(stream);
        let sample = smol::block_on(async {
            // The sample first: a time-out of zero still takes what is there.
            select_biased! {
                sample = stream.next() => sample,
                _ = FutureExt::fuse(smol::Timer::after(timeout)) => None,
            }
        });
        let sample = sample.transpose().map_err(failed(|| format!("reading {}", self.topic)))?;
        Ok(sample.map(|sample| Sample { data: sample.into_value(), received: Instant::now() }))
    }

    /// The newest unread sample, if there is one; older ones are let go.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub fn newest(&self) -> Result<Option<Sample>> {
        let mut newest = None;
        while let Some(sample) = self.next(Duration::ZERO)? {
            newest = Some(sample);
        }
        Ok(newest)
    }

    /// Writers matched now.
    pub fn matched(&mut self) -> usize {
        while let Some(status) = self.reader.try_recv_status() {
            if let DataReaderStatus::SubscriptionMatched { current, .. } = status {
                self.matched = current.count();
            }
        }
        usize::try_from(self.matched).unwrap_or_default()
    }

    /// Waits until at least one writer is matched, at most `timeout`.
    pub fn wait_matched(&mut self, timeout: Duration) -> bool {
        wait(timeout, || self.matched() > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RELIABLE: Qos = Qos { reliable: true, transient_local: false, samples: 64 };

    #[test]
    fn ros_types_get_their_dds_names() {
        assert_eq!(dds_type("sensor_msgs/msg/Image"), "sensor_msgs::msg::dds_::Image_");
        let event = "example_interfaces/srv/AddTwoInts_Event";
        assert_eq!(dds_type(event), "example_interfaces::srv::dds_::AddTwoInts_Event_");
        for name in ["sensor_msgs/msg/Image", event] {
            assert_eq!(ros_type(&dds_type(name)), name);
        }
        assert_eq!(ros_type("ShapeType"), "ShapeType");
    }

    #[test]
    fn payloads_of_both_byte_orders_arrive_unchanged_and_others_are_refused() {
        let (mut here, there) = (Participant::new(20).unwrap(), Participant::new(20).unwrap());
        here.announce("raw_test").unwrap();
        let patience = Duration::from_secs(10);
        for (order, start) in [(ByteOrder::Little, [0, 1, 0, 0]), (ByteOrder::Big, [0; 4])] {
            let topic = format!("/raw/{order:?}");
            let kind = "sensor_msgs/msg/Image";
            let mut reader = there.reader(&topic, kind, RELIABLE).unwrap();
            let mut writer = here.writer(&topic, kind, RELIABLE, order).unwrap();
            assert!(writer.wait_matched(patience) && reader.wait_matched(patience));
            let payload = |i: u8| [&start[..], &[i; 40_000]].concat(); // several datagrams
            for i in 0..3 {
                assert!(writer.write(payload(i)).unwrap());
            }
            for i in 0..3 {
                let sample = reader.next(patience).unwrap().unwrap();
                assert!(sample.data == payload(i), "{order:?} {i}");
            }
            assert_eq!(reader.newest().unwrap(), None);
            let error = writer.write(vec![0, 3, 0, 0, 1]).unwrap_err().chain();
            assert!(error.contains(&topic) && error.contains("[00, 03, 00, 00]"), "{error}");
        }
    }
}
