//! From the network to the slots: one thread and one DDS participant per camera.
//!
//! A camera's socket, event loop and rebuilds are its own, so none disturbs another. A compressed picture
//! is decoded here while the network is at work, else by whoever takes the frame out of the slot.

use std::panic::catch_unwind;
use std::pin::pin;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use futures::stream::{Fuse, LocalBoxStream, StreamExt};
use futures::{FutureExt, select_biased};
use ros2_client::{MessageInfo, ReadResult};

use super::args::{Names, Network};
use super::context::Participant;
use super::diagnostics::Input;
use super::gaps::Gaps;
use super::graph::Publishers;
use super::loaded::limits;
use super::monitor::Report;
use super::rate::{Arrivals, RateLimit};
use super::raw::receive_buffer;
use super::seed::ImageSeed;
use super::slot::{Slot, slot};
use super::statistics::Window;
use super::transport::{Arrival, ImageKind, ImageSource, Images};
use super::writers::WriterLock;
use crate::config::{NodeConfig, Reliability, Transport};
use crate::image::{Image, Limits};
use crate::msg::{
    CAMERA_INFO, COMPRESSED_IMAGE, CameraInfo, CompressedImage, Header, IMAGE, Stamp,
};
use crate::pipeline::panic_text;
use crate::supervisor::{Pulse, Watch};
use crate::{Error, Result};

/// One message of a camera on its way to the main thread.
#[derive(Debug)]
pub(crate) struct Frame {
    /// Messages received from the camera so far, this one included.
    pub(crate) sequence: u64,
    /// Those of them that a newer one replaced unread.
    pub(crate) dropped: u64,
    /// Those of them that came above the camera's rate limit.
    pub(crate) limited: u64,
    pub(crate) received: Instant,
    pub(crate) payload: Payload,
}

/// What the message held.
#[derive(Debug)]
pub(crate) enum Payload {
    Raw(Image),
    /// With its picture where there was time to decode it.
    Compressed(CompressedImage, Option<Decoded>),
    /// CDR that is not the message its topic promises, with the decoder's words.
    Undecodable(String),
}

/// A compressed picture that was decoded while the network was at work on others.
#[derive(Debug)]
pub(crate) struct Decoded {
    pub(crate) image: Result<Image>,
    pub(crate) took: Duration,
}

impl Decoded {
    fn new(message: &CompressedImage, limits: &Limits) -> Self {
        let start = Instant::now();
        let image = match catch_unwind(|| Image::from_compressed(message, limits)) {
            Ok(image) => image.map_err(Error::from),
            Err(panic) => Err(Error::Panicked { problem: panic_text(&*panic) }),
        };
        Self { image, took: start.elapsed() }
    }
}

impl Payload {
    /// That of the message; of one that cannot be read none.
    pub(crate) fn header(&self) -> Header {
        match self {
            Self::Raw(image) => image.header.clone(),
            Self::Compressed(message, _) => message.header.clone(),
            Self::Undecodable(_) => Header::default(),
        }
    }

    /// Bytes of its pixels, or of its file.
    fn len(&self) -> usize {
        match self {
            Self::Raw(image) => image.data.len(),
            Self::Compressed(message, _) => message.data.len(),
            Self::Undecodable(_) => 0,
        }
    }

    /// Of what it holds beside its header.
    pub(crate) fn checksum(&self) -> u32 {
        let mut sum = crc32fast::Hasher::new();
        match self {
            Self::Raw(image) => {
                let Image { height, width, step, .. } = *image;
                [height, width, step].iter().for_each(|field| sum.update(&field.to_le_bytes()));
                sum.update(image.encoding.as_bytes());
                sum.update(&image.data);
            }
            Self::Compressed(message, _) => {
                sum.update(message.format.as_bytes());
                sum.update(&message.data);
            }
            Self::Undecodable(problem) => sum.update(problem.as_bytes()),
        }
        sum.finalize()
    }
}

/// A running camera: its slot and its calibrations.
#[derive(Debug)]
pub(crate) struct Camera {
    pub(crate) slot: Receiver<Frame>,
    /// The newest [`CALIBRATIONS`], in the order they came.
    pub(crate) calibrations: Receiver<CameraInfo>,
    silence_ms: Slot<u32>,
    thread: JoinHandle<()>,
}

/// A camera's connections to the other threads.
pub(crate) struct Links {
    /// Index of the camera.
    pub(crate) camera: usize,
    /// Its closing ends the thread.
    pub(crate) stop: smol::channel::Receiver<()>,
    /// Where its state goes every [`TICK`].
    pub(crate) reports: Sender<Report>,
    /// Where its life and its memory are watched.
    pub(crate) watch: Watch,
}
/// Calibrations held until somebody looks: an image and its own may come in either order.
pub(crate) const CALIBRATIONS: usize = 16;

impl Camera {
    /// Starts the thread of the camera called `name`; it ends when the stop channel is closed.
    ///
    /// # Errors
    /// [`Error::Ros`] when DDS cannot start, [`Error::Setting`] for a name that ROS does not allow.
    pub(crate) fn start(
        name: &str,
        names: &Names,
        network: Network,
        config: &NodeConfig,
        links: Links,
    ) -> Result<Self> {
        let raw = format!("{name}/image_raw");
        let topics = image_topics(names, name)?;
        let (slot, reader) = slot();
        let (calibrations, unread) = bounded(CALIBRATIONS);
        let max_rate_hz = config.of_camera(name).max_rate_hz.unwrap_or(config.max_rate_hz);
        let (silence_ms, new_silence_ms) = self::slot();
        let ingest = Ingest {
            node: (names.namespace().to_owned(), node_of(names, name)),
            reliability: topics.each_ref().map(|topic| config.reliability_of(topic)),
            topics,
            info: names.sibling(&raw, "camera_info")?,
            network,
            transport: config.transport,
            limits: limits(config),
            slot,
            calibrations: (calibrations, unread.clone()),
            sequence: 0,
            dropped: 0,
            limited: 0,
            lost: 0,
            largest: 0,
            gaps: Gaps::default(),
            rate: RateLimit::new(max_rate_hz),
            arrivals: Arrivals::default(),
            statistics: config.topic_statistics.then(Window::open),
            writers: WriterLock::new(config.writer_lock_ms),
            newest: None,
            joined: (Instant::now(), 0),
            mismatch: None,
            watchdog: Watchdog::new(config.silence_ms),
            new_silence_ms,
            pulse: links.watch.pulse(format!("ingest {name}")),
            rebuilds: links.watch.rebuilds(),
            links,
        };
        let participant = ingest.join()?;
        let thread = thread::Builder::new().name(format!("ingest {name}"));
        let thread = thread.spawn(move || ingest.run(participant)).map_err(|error| Error::Ros {
            what: format!("thread of camera {name}"),
            problem: error.to_string(),
        })?;
        Ok(Self { slot: reader, calibrations: unread, silence_ms, thread })
    }

    /// Changes how long a silence is taken for the end of the connection.
    pub(crate) fn set_silence_ms(&mut self, silence_ms: u32) {
        self.silence_ms.put(|_unread| silence_ms);
    }

    /// Waits for the thread's end, which follows the closing of `stop`.
    ///
    /// # Errors
    /// [`Error::Ros`] when it ended in a panic.
    pub(crate) fn join(self) -> Result<()> {
        let name = self.thread.thread().name().unwrap_or_default().to_owned();
        let panicked = |_payload| Error::Ros { what: name, problem: "it panicked".into() };
        self.thread.join().map_err(panicked)
    }
}

/// Absolute names of a camera's raw and compressed topic.
pub(crate) fn image_topics(names: &Names, camera: &str) -> Result<[String; 2]> {
    let raw = format!("{camera}/image_raw");
    Ok([names.topic(&raw)?, names.twin(&raw, "compressed")?])
}

/// The node whose subscriptions are those of a camera.
pub(crate) fn node_of(names: &Names, camera: &str) -> String {
    format!("{}_{camera}", names.node()).replace('/', "_")
}

/// The topic and QoS that are read now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Source {
    compressed: bool,
    reliable: bool,
    /// Of the calibrations: whether the last one from before is asked for.
    latched: bool,
}

/// Calibrations as they come.
type Infos<'a> = Fuse<LocalBoxStream<'a, ReadResult<(CameraInfo, MessageInfo)>>>;

/// What lives on the thread.
struct Ingest {
    node: (String, String),
    /// The raw and the compressed one.
    topics: [String; 2],
    info: String,
    network: Network,
    transport: Transport,
    /// Of each of the topics.
    reliability: [Reliability; 2],
    limits: Limits,
    slot: Slot<Frame>,
    links: Links,
    pulse: Pulse,
    /// Of those that the supervisor asked for, the last that was seen to.
    rebuilds: u64,
    calibrations: (Sender<CameraInfo>, Receiver<CameraInfo>),
    sequence: u64,
    dropped: u64,
    limited: u64,
    /// Messages that a publisher sent and that never came, whole.
    lost: u64,
    /// Bytes of the largest message so far.
    largest: usize,
    gaps: Gaps,
    rate: RateLimit,
    arrivals: Arrivals,
    /// None where they are not asked for.
    statistics: Option<Window>,
    writers: WriterLock,
    newest: Option<Instant>,
    /// When DDS was joined last, and how often before.
    joined: (Instant, u64),
    mismatch: Option<String>,
    watchdog: Watchdog,
    new_silence_ms: Receiver<u32>,
}

/// How often discovery and silence are looked at.
const TICK: Duration = Duration::from_millis(100);
/// Discovery needs a moment: a participant younger than this does not say that nobody publishes.
const DISCOVERY: Duration = Duration::from_secs(2);

impl Ingest {
    fn join(&self) -> Result<Participant> {
        let name = (&*self.node.0, &*self.node.1);
        Participant::new(self.network, name, receive_buffer(self.largest))
    }

    /// Reads until told to stop, through as many participants as it takes.
    fn run(mut self, participant: Participant) {
        let compressed = self.transport == Transport::Compressed;
        let mut source = Source {
            compressed,
            reliable: self.reliability[usize::from(compressed)] == Reliability::Reliable,
            latched: false,
        };
        let mut first = Some(participant);
        while !self.links.stop.is_closed() {
            self.pulse.beat();
            let participant = first.take().map_or_else(
                || {
                    self.joined = (Instant::now(), self.joined.1 + 1);
                    self.join()
                },
                Ok,
            );
            let read = participant
                .and_then(|participant| smol::block_on(self.read(participant, &mut source)));
            if let Err(error) = read {
                log::error!("{}; trying again in a second", error.chain());
                let pause = smol::Timer::after(Duration::from_secs(1));
                smol::block_on(futures::future::select(pin!(self.links.stop.recv()), pause));
            }
        }
    }

    /// Reads with one participant until told to stop or the camera falls silent.
    async fn read(&mut self, mut participant: Participant, source: &mut Source) -> Result<()> {
        loop {
            let calibrations = if source.latched {
                participant.subscribe_latched::<CameraInfo>(&self.info, CAMERA_INFO.type_name)
            } else {
                // Best effort matches every publisher, and the next one comes with the next image.
                participant.subscribe(&self.info, CAMERA_INFO.type_name, false)
            }?;
            let mut infos = calibrations.async_stream().boxed_local().fuse();
            let topic = &self.topics[usize::from(source.compressed)];
            let reliability = if source.reliable { "reliable" } else { "best effort" };
            log::info!("reading {topic} ({reliability})");
            self.writers.release();
            match self.follow(&mut participant, *source, &mut infos).await? {
                Some(better) => *source = better,
                None => return Ok(()),
            }
        }
    }

    /// Subscribes to `source`; returns the better one that showed up, or `None` when this is over.
    async fn follow(
        &mut self,
        participant: &mut Participant,
        source: Source,
        infos: &mut Infos<'_>,
    ) -> Result<Option<Source>> {
        let kind = match source.compressed {
            true => ImageKind::Compressed,
            false => {
                let max_bytes = usize::try_from(self.limits.max_bytes).unwrap_or(usize::MAX);
                ImageKind::Raw(ImageSeed { max_bytes })
            }
        };
        let topic = &self.topics[usize::from(source.compressed)];
        let images = participant.images(topic, kind, source.reliable)?;
        self.drain(participant, source, infos, images).await
    }

    async fn drain(
        &mut self,
        participant: &Participant,
        source: Source,
        infos: &mut Infos<'_>,
        images: Images,
    ) -> Result<Option<Source>> {
        let mut images = images.fuse();
        let mut tick = StreamExt::fuse(smol::Timer::interval(TICK));
        let stop = self.links.stop.clone();
        loop {
            select_biased! {
                _ = stop.recv().fuse() => return Ok(None),
                _ = tick.select_next_some() => {
                    self.pulse.beat();
                    let asked = self.links.watch.rebuilds();
                    if std::mem::replace(&mut self.rebuilds, asked) != asked {
                        return Ok(None);
                    }
                    if let Ok(silence_ms) = self.new_silence_ms.try_recv() {
                        self.watchdog = Watchdog::new(silence_ms);
                    }
                    let found = self.best(participant, source.latched);
                    let best = found.as_ref().map_or(source, |(best, _)| *best);
                    if best != source {
                        return Ok(Some(best));
                    }
                    self.report(source, found.map(|(_, publishers)| publishers));
                    self.tell_statistics();
                    if let Some(silent) = self.watchdog.expired(Instant::now()) {
                        log::warn!("{}: silent for {silent:.0?}, joining DDS anew", self.topics[0]);
                        return Ok(None);
                    }
                }
                arrival = images.select_next_some() => self.take(arrival?),
                info = infos.select_next_some() => match info {
                    Ok((info, _)) => self.keep(info),
                    Err(error) => log::debug!("{}: {error}", self.info),
                },
            }
        }
    }

    /// Passes a calibration on; the oldest of many that nobody looked at makes room.
    fn keep(&self, info: CameraInfo) {
        let (calibrations, unread) = &self.calibrations;
        if let Err(TrySendError::Full(info)) = calibrations.try_send(info) {
            drop(unread.try_recv());
            drop(calibrations.try_send(info)); // room was made, and there is no other sender
        }
    }

    /// The source to read, given the publishers that are known, and these; `None` while there are none.
    fn best(&self, participant: &Participant, latched: bool) -> Option<(Source, Publishers)> {
        let graph = participant.graph();
        let known = |topic: &str, type_name| {
            let publishers = graph.publishers(topic, type_name);
            (publishers.count > 0).then_some(publishers)
        };
        let raw = || Some((false, known(&self.topics[0], IMAGE.type_name)?));
        let compressed = || Some((true, known(&self.topics[1], COMPRESSED_IMAGE.type_name)?));
        let (compressed, publishers) = match self.transport {
            Transport::Auto => raw().or_else(compressed),
            Transport::Raw => raw(),
            Transport::Compressed => compressed(),
        }?;
        let reliable = match self.reliability[usize::from(compressed)] {
            Reliability::Auto => publishers.reliable,
            Reliability::Reliable => true,
            Reliability::BestEffort => false,
        };
        let latched = known(&self.info, CAMERA_INFO.type_name).map_or(latched, |info| info.latched);
        Some((Source { compressed, reliable, latched }, publishers))
    }

    /// Tells how the input is; logs a QoS mismatch when it is found.
    fn report(&mut self, source: Source, publishers: Option<Publishers>) {
        if publishers.is_none() && self.joined.1 > 0 && self.joined.0.elapsed() < DISCOVERY {
            return;
        }
        let Publishers { count, mismatch, .. } = publishers.unwrap_or_default();
        let mismatch = mismatch[usize::from(source.reliable)].clone();
        // Joining anew cures silence, but not a publisher that does not match.
        if count > 0 && mismatch.is_none() {
            self.watchdog.publisher(Instant::now());
        }
        if let Some(problem) = mismatch.as_ref().filter(|_| mismatch != self.mismatch) {
            log::warn!("{problem}");
        }
        self.mismatch.clone_from(&mismatch);
        let input = Input {
            topic: self.topics[usize::from(source.compressed)].clone(),
            reliable: source.reliable,
            publishers: count,
            mismatch,
            received: self.sequence,
            dropped: self.dropped,
            lost: self.lost,
            largest: self.largest as u64,
            newest: self.newest,
            pace: self.arrivals.pace(),
            several: self.writers.several(Instant::now()),
            other_writers: self.writers.refused(),
            rebuilds: self.joined.1,
        };
        // No room: the next one, 100 ms later, says the same and more.
        drop(self.links.reports.try_send(Report::Input(self.links.camera, input)));
    }

    /// Passes on the statistics of a second that is over.
    fn tell_statistics(&mut self) {
        if let Some(window) = self.statistics.as_mut().and_then(|it| it.next(Instant::now())) {
            let report = Report::Statistics(self.links.camera, window);
            drop(self.links.reports.try_send(report)); // no room: a window less
        }
    }

    /// Takes the message of the publisher that is read; another's goes no further.
    fn take(&mut self, Arrival { payload, sender }: Arrival) {
        let is_read = sender.is_none_or(|(writer, number)| {
            self.lost += self.gaps.after(writer, number);
            self.writers.admits(writer, Instant::now())
        });
        if is_read {
            self.put(payload);
        }
    }

    fn put(&mut self, payload: Payload) {
        let received = Instant::now();
        self.watchdog.message(received);
        self.arrivals.message(received);
        if let Some(window) = &mut self.statistics {
            window.message(payload.header().stamp, (received, Stamp::now()));
        }
        self.newest = Some(received);
        self.largest = self.largest.max(payload.len());
        self.sequence += 1;
        if !self.rate.admits(received) {
            self.limited += 1;
            return;
        }
        let payload = match payload {
            // Not in place of a frame that waits: of a camera that is too fast most are never looked at.
            Payload::Compressed(message, None)
                if self.slot.is_empty() && self.links.watch.at_work() =>
            {
                let decoded = Decoded::new(&message, &self.limits);
                Payload::Compressed(message, Some(decoded))
            }
            other => other,
        };
        self.slot.put(|unread| {
            self.dropped += u64::from(unread.is_some());
            let (sequence, dropped, limited) = (self.sequence, self.dropped, self.limited);
            Frame { sequence, dropped, limited, received, payload }
        });
    }
}

/// Tells a camera that fell silent from one that was never there.
#[derive(Debug)]
struct Watchdog {
    /// Zero: never.
    silence: Duration,
    /// Doubles with every rebuild that brought nothing.
    patience: Duration,
    /// The last message, or what stands for it; `None` until the camera was seen.
    since: Option<Instant>,
}

impl Watchdog {
    const MAX_PATIENCE: Duration = Duration::from_secs(60);

    fn new(silence_ms: u32) -> Self {
        let silence = Duration::from_millis(silence_ms.into());
        Self { silence, patience: silence, since: None }
    }

    fn message(&mut self, now: Instant) {
        (self.patience, self.since) = (self.silence, Some(now));
    }

    fn publisher(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    /// The length of a silence that calls for a new participant; the next one has to be longer.
    fn expired(&mut self, now: Instant) -> Option<Duration> {
        let silent = now.duration_since(self.since?);
        if self.silence.is_zero() || silent < self.patience {
            return None;
        }
        self.patience = (2 * self.patience).min(Self::MAX_PATIENCE.max(self.silence));
        self.since = Some(now);
        Some(silent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_answered_once_and_then_with_growing_patience() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut dog = Watchdog::new(3000);
        assert_eq!(dog.expired(at(100)), None, "never seen");
        dog.message(at(100));
        assert_eq!(dog.expired(at(102)), None);
        assert_eq!(dog.expired(at(103)), Some(Duration::from_secs(3)));
        assert_eq!(dog.expired(at(108)), None);
        assert_eq!(dog.expired(at(109)), Some(Duration::from_secs(6)));
        for (now, silent) in [(121, 12), (145, 24), (193, 48), (253, 60), (313, 60)] {
            assert_eq!(dog.expired(at(now)), Some(Duration::from_secs(silent)));
        }
        dog.message(at(314));
        dog.publisher(at(316));
        assert_eq!(dog.expired(at(317)), Some(Duration::from_secs(3)));
        assert_eq!(Watchdog::new(0).expired(at(999)), None);
    }
}
