//! ROS services over plain CDR bytes, answered in whichever way they are asked.
//!
//! DDS carries the identity of a request in one of two ways, under the same topic and type names:
//! rmw_fastrtps in the inline QoS (the "enhanced" mapping of OMG DDS-RPC 1.0, 7.2.4), rmw_cyclonedds in
//! the first 16 bytes of the payload (`cdds_request_header_t`, the client and its sequence number). A
//! server of ros2-client knows one of them; this one tells them apart by the vendor id with which the
//! GUID of a request's writer begins. Requests are little-endian, as on every platform of ROS 2.

use std::fmt;

use futures::StreamExt;
use futures::stream::FusedStream;
use ros2_client::dds::rustdds::no_key::DataWriterCdr;
use ros2_client::dds::rustdds::rpc::SampleIdentity;
use ros2_client::dds::rustdds::{SequenceNumber, Timestamp, WriteOptionsBuilder};
use ros2_client::{Message, MessageInfo, ReadResult, RmwRequestId, Subscription};
use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeTuple, Serializer};

/// A service by its absolute name.
pub(crate) struct Service {
    pub(crate) name: String,
    pub(crate) requests: Subscription<Body>,
    pub(crate) replies: DataWriterCdr<Body>,
}

/// CDR of a request or reply, without encapsulation header, to the end of the DDS payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Body(Vec<u8>);

/// A request and whom to answer.
pub(crate) struct Request {
    id: RmwRequestId,
    /// What a client of Cyclone wants to see again before the reply; empty for others.
    header: Vec<u8>,
    /// CDR with its encapsulation header.
    pub(crate) message: Vec<u8>,
}

/// Length of an encapsulation header.
const ENCAPSULATION: usize = 4;
/// Eclipse Cyclone DDS in the OMG's list of RTPS vendors.
const CYCLONE: [u8; 2] = [1, 16];
/// The client's 8 bytes and its sequence number of 8; a multiple of every CDR alignment.
const CYCLONE_HEADER: usize = 16;

impl Service {
    /// Requests as they come.
    pub(crate) fn requests(&self) -> impl FusedStream<Item = Request> + Unpin {
        let requests = self.requests.async_stream().boxed_local().fuse();
        let request = move |received: ReadResult<(Body, MessageInfo)>| match received {
            Ok((Body(cdr), info)) => Request::new(identity(&info), cdr),
            Err(error) => {
                log::warn!("{}: {error:?}", self.name);
                None
            }
        };
        // Two steps instead of `filter_map`, whose stream could not be moved.
        requests.map(move |received| futures::stream::iter(request(received))).flatten()
    }

    /// Answers with CDR in its encapsulation; a reply that cannot be sent is logged.
    pub(crate) fn reply(&self, request: &Request, message: &[u8]) {
        let cdr = message.get(ENCAPSULATION..).unwrap_or_default();
        let body = Body([&request.header, cdr].concat());
        let options = WriteOptionsBuilder::new()
            .source_timestamp(Timestamp::now())
            .related_sample_identity(SampleIdentity::from(request.id));
        if let Err(error) = self.replies.write_with_options(body, options.build()) {
            log::warn!("{}: no reply sent: {error:?}", self.name);
        }
    }
}

impl Request {
    /// `None` when a client of Cyclone sent no header.
    fn new(id: RmwRequestId, mut cdr: Vec<u8>) -> Option<Self> {
        let cyclone = id.writer_gid.as_bytes().starts_with(&CYCLONE);
        let header = if cyclone { CYCLONE_HEADER } else { 0 };
        if cdr.len() < header {
            return None;
        }
        let body = cdr.split_off(header);
        Some(Self { id, header: cdr, message: [&[0, 1, 0, 0], body.as_slice()].concat() })
    }
}

/// What a reply names; rmw_fastrtps leaves the sequence number to DDS.
fn identity(info: &MessageInfo) -> RmwRequestId {
    let (writer_gid, sequence_number) = (info.publisher_gid(), info.sequence_number());
    match info.related_request_id() {
        Some(id) if id.sequence_number == i64::from(SequenceNumber::UNKNOWN) => {
            RmwRequestId { sequence_number, ..id }
        }
        Some(id) => id,
        None => RmwRequestId { writer_gid, sequence_number },
    }
}

impl Message for Body {}

impl Serialize for Body {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut bytes = serializer.serialize_tuple(self.0.len())?;
        self.0.iter().try_for_each(|byte| bytes.serialize_element(byte))?;
        bytes.end()
    }
}

impl<'de> Deserialize<'de> for Body {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;

        impl<'de> Visitor<'de> for Bytes {
            type Value = Body;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut bytes: A) -> Result<Body, A::Error> {
                let mut body = Vec::new();
                // The tuple is longer than any payload: its end shows as an error.
                while let Ok(Some(byte)) = bytes.next_element() {
                    body.push(byte);
                }
                Ok(Body(body))
            }
        }

        deserializer.deserialize_tuple(usize::MAX, Bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_as_its_clients_vendor_writes_it() {
        let id = |vendor: [u8; 2]| {
            let mut gid = [7; 16];
            gid[..2].copy_from_slice(&vendor);
            RmwRequestId { writer_gid: gid.into(), sequence_number: 1 }
        };
        let cdr: Vec<u8> = (0..20).collect();
        let fast = Request::new(id([1, 15]), cdr.clone()).unwrap();
        assert_eq!((fast.header.len(), &fast.message[..6]), (0, &[0, 1, 0, 0, 0, 1][..]));
        let cyclone = Request::new(id([1, 16]), cdr.clone()).unwrap();
        assert_eq!(cyclone.header, cdr[..16]);
        assert_eq!(cyclone.message, [0, 1, 0, 0, 16, 17, 18, 19]);
        assert!(Request::new(id([1, 16]), vec![0; 15]).is_none());
    }

    #[test]
    fn a_body_is_every_byte_that_is_there() {
        let bytes = [3u8, 0, 255, 9, 1];
        let (body, read) = cdr_encoding::from_bytes::<Body, cdr::LittleEndian>(&bytes).unwrap();
        assert_eq!((body.0.as_slice(), read), (&bytes[..], 5));
    }
}
