//! The loop of the node: newest frame of a camera, pipeline, topics, status; for every frame, whatever
//! became of it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::Select;

use super::args::{Names, Network};
use super::ingest::{Camera, Frame, Payload};
use super::params::{Services, Settings};
use super::publish::Outputs;
use super::raw::RECEIVE_BUFFER;
use crate::config::{NodeConfig, Transport};
use crate::image::{Image, Reject};
use crate::msg::{FrameStatus, Stamp};
use crate::pipeline::{Pipeline, Prediction};
use crate::{Error, Result};

/// The running node: cameras on their threads, everything else on the caller's.
pub struct Node {
    cameras: Vec<Camera>,
    outputs: Outputs,
    pipeline: Pipeline,
    services: Services,
    config: NodeConfig,
    enabled: bool,
    counts: Vec<Counts>,
    stop: smol::channel::Receiver<()>,
}

/// What became of a camera's messages.
#[derive(Clone, Debug, Default)]
struct Counts {
    received: u64,
    dropped: u64,
    segmented: u64,
    refused: BTreeMap<&'static str, Refused>,
}

#[derive(Clone, Copy, Debug)]
struct Refused {
    count: u64,
    logged: Instant,
}

/// A reason is logged when it first occurs and then at most this often, with its count.
const LOG_EVERY: Duration = Duration::from_secs(10);

impl Node {
    /// Joins DDS and starts the cameras; both they and the loop end when `stop` closes.
    ///
    /// # Errors
    /// [`Error::Ros`] when DDS cannot start, [`Error::Setting`] for a name that ROS does not allow.
    pub fn start(
        names: &Names,
        network: Network,
        config: NodeConfig,
        pipeline: Pipeline,
        stop: smol::channel::Receiver<()>,
    ) -> Result<Self> {
        let classes = pipeline.model().config().classes.clone();
        let mut outputs = Outputs::new(names, network, &config, classes)?;
        let start = |name: &String| Camera::start(name, names, network, &config, stop.clone());
        let cameras = config.cameras.iter().map(start).collect::<Result<Vec<_>>>()?;
        let participant = outputs.participant();
        let services = Services::start(participant, names, config.clone(), stop.clone())?;
        let counts = vec![Counts::default(); cameras.len()];
        if config.transport != Transport::Compressed {
            check_receive_buffer();
        }
        Ok(Self { cameras, outputs, pipeline, services, config, enabled: true, counts, stop })
    }

    /// Segments frames until the cameras end, then logs what became of all of them.
    ///
    /// # Errors
    /// [`Error::Torch`] when the network failed on a GPU, whose state is not to be trusted after that;
    /// [`Error::Ros`] when a camera's thread panicked.
    pub fn run(mut self) -> Result<()> {
        let ended = self.frames();
        for (name, counts) in self.config.cameras.iter().zip(&self.counts) {
            log::info!("{name}: {counts}");
        }
        ended?;
        self.cameras.into_iter().try_for_each(Camera::join)?;
        self.services.join()
    }

    fn frames(&mut self) -> Result<()> {
        while !self.stop.is_closed() {
            let mut select = Select::new();
            for camera in &self.cameras {
                select.recv(&camera.slot);
            }
            let ready = select.select();
            let camera = ready.index();
            match ready.recv(&self.cameras[camera].slot) {
                Ok(frame) => self.frame(camera, frame)?,
                Err(_closed) => break,
            }
        }
        Ok(())
    }

    /// Uses what the services were told.
    fn configure(&mut self, settings: Settings) -> Result<()> {
        let Settings { config, enabled } = settings;
        #[expect(clippy::cast_possible_truncation, reason = "scores are float32")]
        self.pipeline.set_ood_threshold(config.ood_threshold as f32)?;
        self.outputs.configure(&config);
        if config.silence_ms != self.config.silence_ms {
            self.cameras.iter_mut().for_each(|camera| camera.set_silence_ms(config.silence_ms));
        }
        (self.config, self.enabled) = (config, enabled);
        Ok(())
    }

    fn frame(&mut self, camera: usize, frame: Frame) -> Result<()> {
        if let Ok(settings) = self.services.changes.try_recv() {
            self.configure(settings)?;
        }
        let mut status = FrameStatus {
            camera: self.config.cameras[camera].clone(),
            sequence: frame.sequence,
            dropped: frame.dropped,
            wait_ms: milliseconds(frame.received.elapsed()),
            score: self.pipeline.config().score.to_string(),
            ood_threshold: self.pipeline.config().ood_threshold,
            model_sha256: self.pipeline.model().config().sha256.clone(),
            ..FrameStatus::default()
        };
        let segmented = self.segment(camera, frame.payload, &mut status);
        let published = segmented.and_then(|prediction| self.outputs.publish(camera, prediction));
        if let Err(error) = &published {
            status.state = FrameStatus::NO_DATA;
            (status.reason, status.text) = (reason(error).to_owned(), error.chain());
        }
        let stamp = status.header.stamp;
        status.latency_ms = if self.config.use_sim_time { f32::NAN } else { since(stamp) };
        self.count(camera, &status, published.as_ref().err());
        self.outputs.status(camera, status);
        match published {
            Err(error @ Error::Torch { .. }) if self.pipeline.model().device().is_cuda() => {
                Err(error)
            }
            _ => Ok(()),
        }
    }

    /// Pixels from the message, planes from the pixels; what is learnt on the way goes into `status`.
    fn segment(
        &mut self,
        camera: usize,
        payload: Payload,
        status: &mut FrameStatus,
    ) -> Result<Prediction> {
        let start = Instant::now();
        status.header = payload.header();
        if !self.enabled {
            return Err(Error::Disabled);
        }
        let image = match payload {
            Payload::Raw(image) => image,
            Payload::Compressed(message) => {
                Image::from_compressed(&message, &self.pipeline.config().limits)?
            }
            Payload::Undecodable(problem) => return Err(Reject::Cdr { problem }.into()),
        };
        status.decode_ms = milliseconds(start.elapsed());
        (status.height, status.width) = (image.height, image.width);
        let planes = self.outputs.wanted(camera);
        let prediction = self.pipeline.run(&image, planes);
        self.cameras[camera].recycle(image.data);
        let prediction = prediction?;
        status.preprocess_ms = prediction.timing.preprocess_ms;
        status.inference_ms = prediction.timing.inference_ms;
        status.postprocess_ms = prediction.timing.postprocess_ms;
        Ok(prediction)
    }

    fn count(&mut self, camera: usize, status: &FrameStatus, error: Option<&Error>) {
        let counts = &mut self.counts[camera];
        (counts.received, counts.dropped) = (status.sequence, status.dropped);
        let Some(error) = error else {
            counts.segmented += 1;
            return;
        };
        let now = Instant::now();
        let unheard = Refused { count: 0, logged: now };
        let refused = counts.refused.entry(reason(error)).or_insert(unheard);
        refused.count += 1;
        if refused.count == 1 || now.duration_since(refused.logged) >= LOG_EVERY {
            refused.logged = now;
            let (camera, count) = (&status.camera, refused.count);
            log::warn!("{camera}: no masks ({count} times so far): {}", status.text);
        }
    }
}

/// The fixed name of what went wrong with a frame.
fn reason(error: &Error) -> &'static str {
    match error {
        Error::Frame(reject) => reject.name(),
        Error::NotFinite { .. } => "not_finite",
        Error::Disabled => "disabled",
        _ => "inference",
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { received, dropped, segmented, refused } = self;
        write!(f, "{received} messages, {segmented} segmented, {dropped} replaced by newer ones")?;
        refused.iter().try_for_each(|(reason, refused)| write!(f, ", {} {reason}", refused.count))
    }
}

/// Says once, with the remedy, that the kernel will drop raw images.
fn check_receive_buffer() {
    let limit = std::fs::read_to_string("/proc/sys/net/core/rmem_max").unwrap_or_default();
    let Ok(bytes) = limit.trim().parse::<usize>() else { return };
    if bytes < RECEIVE_BUFFER {
        log::warn!(
            "net.core.rmem_max is {bytes}: raw images above about {} kB may be lost; \
             sudo sysctl -w net.core.rmem_max={RECEIVE_BUFFER}, or transport: compressed",
            bytes * 2 / 5 / 1000 // a burst wants two and a half times its size
        );
    }
}

#[expect(clippy::cast_possible_truncation, reason = "milliseconds need no more digits")]
fn milliseconds(time: Duration) -> f32 {
    (time.as_secs_f64() * 1e3) as f32
}

/// Milliseconds on the system's clock since a stamp; negative when it lies in the future.
#[expect(clippy::cast_possible_truncation, reason = "milliseconds need no more digits")]
fn since(stamp: Stamp) -> f32 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    ((now.as_secs_f64() - f64::from(stamp.sec) - f64::from(stamp.nanosec) * 1e-9) * 1e3) as f32
}
