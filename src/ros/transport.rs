//! The two seams at which another transport can be put in for pictures: where a camera's messages come
//! from, and where a topic's messages go. DDS is the one that is built.

use futures::stream::{LocalBoxStream, StreamExt, unfold};
use ros2_client::{Gid, MessageInfo, Publisher, ReadError, ReadResult, Subscription, WriteError};
use serde::Serialize;

use super::context::Participant;
use super::ingest::Payload;
use super::raw::failed;
use super::seed::ImageSeed;
use crate::Result;
use crate::image::Image;
use crate::msg::{COMPRESSED_IMAGE, CompressedImage, IMAGE};

/// Where a camera's messages come from.
pub(crate) trait ImageSource {
    /// Those of a topic as they come; of several that wait the newest alone. An error is the end.
    ///
    /// # Errors
    /// [`crate::Error::Ros`].
    fn images(&mut self, topic: &str, kind: ImageKind, reliable: bool) -> Result<Images>;
}

/// Where the messages of one topic go.
pub(crate) trait Sink<M>: Send + Sync {
    /// Passes a message on without waiting; false where there is no room for it.
    ///
    /// # Errors
    /// [`crate::Error::Ros`].
    fn put(&self, message: M) -> Result<bool>;
}

/// Which of a camera's two messages.
pub(crate) enum ImageKind {
    /// `sensor_msgs/Image`, decoded by the seed.
    Raw(ImageSeed),
    /// `sensor_msgs/CompressedImage`.
    Compressed,
}

/// Messages of a camera.
pub(crate) type Images = LocalBoxStream<'static, Result<Arrival>>;

/// A message of a camera.
pub(crate) struct Arrival {
    pub(crate) payload: Payload,
    /// Its publisher and the number that it gave; not known of what cannot be read.
    pub(crate) sender: Option<(Gid, i64)>,
}

impl Arrival {
    fn new(read: ReadResult<(Payload, MessageInfo)>, topic: &str) -> Result<Self> {
        match read {
            Ok((payload, info)) => {
                let sender = Some((info.publisher_gid(), info.sequence_number()));
                Ok(Self { payload, sender })
            }
            Err(ReadError::Deserialization { reason }) => {
                Ok(Self { payload: Payload::Undecodable(reason), sender: None })
            }
            Err(error) => Err(failed(|| format!("reading {topic}"))(error)),
        }
    }
}

impl ImageSource for Participant {
    fn images(&mut self, topic: &str, kind: ImageKind, reliable: bool) -> Result<Images> {
        let name = topic.to_owned();
        Ok(match kind {
            ImageKind::Raw(seed) => {
                let images: Subscription<Image> =
                    self.subscribe(topic, IMAGE.type_name, reliable)?;
                let next = move |(images, seed): (Subscription<Image>, ImageSeed)| async move {
                    let read = images.async_stream_seed(seed.clone()).boxed_local().next().await;
                    Some((read?, (images, seed)))
                };
                let images = unfold((images, seed), next);
                let payload = |(image, info)| (Payload::Raw(image), info);
                images.map(move |read| Arrival::new(read.map(payload), &name)).boxed_local()
            }
            ImageKind::Compressed => {
                let messages: Subscription<CompressedImage> =
                    self.subscribe(topic, COMPRESSED_IMAGE.type_name, reliable)?;
                let next = |messages: Subscription<CompressedImage>| async move {
                    Some((messages.async_take().await, messages))
                };
                let payload = |(message, info)| (Payload::Compressed(message, None), info);
                let messages = unfold(messages, next);
                messages.map(move |read| Arrival::new(read.map(payload), &name)).boxed_local()
            }
        })
    }
}

impl<M: Serialize + Send + Sync> Sink<M> for Publisher<M> {
    fn put(&self, message: M) -> Result<bool> {
        match self.publish(message) {
            Ok(()) => Ok(true),
            // A reader that stopped acknowledging; the next message is the one that counts.
            Err(WriteError::WouldBlock { .. }) => Ok(false),
            Err(error) => Err(failed(|| "publishing".into())(error)),
        }
    }
}
