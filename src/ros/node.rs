//! The loop of the node: newest frames of the cameras, pipeline, topics, status; for every frame,
//! whatever became of it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::args::{Names, Network};
use super::batch::Batcher;
use super::calibration::Calibrations;
use super::clock::Clock;
use super::diagnostics::Health;
use super::ingest::{Camera, Frame, Links, Payload};
use super::lifecycle::State;
use super::monitor::{Monitor, ROOM, Report};
use super::params::{Services, Settings};
use super::publish::Outputs;
use super::raw::RECEIVE_BUFFER;
use super::rosout::Line;
use super::stamps::{Rules, Stamps};
use crate::config::{NodeConfig, Transport};
use crate::image::{Image, Limits, Reject};
use crate::msg::{CameraInfo, FrameStatus, Stamp};
use crate::pipeline::{EgoMask, Pipeline, Planes, Prediction, Rotation, View};
use crate::{Error, Result};

/// The running node: cameras on their threads, everything else on the caller's.
pub struct Node {
    cameras: Vec<Camera>,
    outputs: Outputs,
    /// From being configured to being cleaned up.
    pipeline: Option<Pipeline>,
    load: Load,
    active: bool,
    services: Services,
    config: NodeConfig,
    views: Vec<View>,
    calibrations: Vec<Calibrations>,
    clock: Clock,
    stamps: Vec<Stamps>,
    batcher: Batcher,
    enabled: bool,
    counts: Vec<Counts>,
    stop: smol::channel::Receiver<()>,
    monitor: Monitor,
    reports: Sender<Report>,
}

/// The node's connections to its process.
pub struct Process {
    /// Its closing ends the node.
    pub stop: smol::channel::Receiver<()>,
    /// Lines for `/rosout`.
    pub log: Receiver<Line>,
    /// Makes the pipeline when the node is configured.
    pub load: Load,
}

/// From the parameters to a warm model.
pub type Load = Box<dyn Fn(&NodeConfig) -> Result<Pipeline>>;

/// What became of a camera's messages.
#[derive(Clone, Debug, Default)]
struct Counts {
    received: u64,
    dropped: u64,
    limited: u64,
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

/// How long the loop waits for frames before it looks at what is due without any.
const IDLE: Duration = Duration::from_millis(100);

/// A frame that can be segmented.
struct Job {
    camera: usize,
    status: FrameStatus,
    image: Image,
    planes: Planes,
    /// With the frame's own stamp.
    calibration: Option<CameraInfo>,
}

impl Node {
    /// Joins DDS and starts the cameras; both they and the loop end when the stop channel closes. With a
    /// pipeline the node is active, without one it is unconfigured.
    ///
    /// # Errors
    /// [`Error::Ros`] when DDS cannot start, [`Error::Setting`] for a name that ROS does not allow,
    /// [`Error::Io`] and [`Error::BadFile`] for an ego mask.
    pub fn start(
        names: &Names,
        network: Network,
        config: NodeConfig,
        pipeline: Option<Pipeline>,
        Process { stop, log, load }: Process,
    ) -> Result<Self> {
        let views = config.cameras.iter().map(|camera| view(camera, &config));
        let views = views.collect::<Result<Vec<_>>>()?;
        let mut outputs = Outputs::new(names, network, &config)?;
        let (reports, heard) = bounded(ROOM);
        let health = Health::new(names.node().to_owned(), &config, Vec::new());
        let monitor = Monitor::start(outputs.participant(), names, health, heard, log)?;
        let start = |(camera, name): (usize, &String)| {
            let links = Links { camera, stop: stop.clone(), reports: reports.clone() };
            Camera::start(name, names, network, &config, links)
        };
        let cameras = config.cameras.iter().enumerate().map(start).collect::<Result<Vec<_>>>()?;
        let unread = cameras.iter().map(|camera| camera.calibrations.clone());
        let calibrations = unread.map(Calibrations::new).collect();
        let mut clock = Clock::new(names.topic("/clock")?, reports.clone());
        clock.follow(config.use_sim_time, outputs.participant())?;
        let stamps = config.cameras.iter().cloned().map(Stamps::new).collect();
        let wait = Duration::from_millis(config.batch_wait_ms.into());
        let batcher = Batcher::new(config.batch_cameras, wait);
        let participant = outputs.participant();
        let state = if pipeline.is_some() { State::Active } else { State::Unconfigured };
        let services = Services::start(participant, names, (config.clone(), state), stop.clone())?;
        let counts = vec![Counts::default(); cameras.len()];
        if config.transport != Transport::Compressed {
            check_receive_buffer();
        }
        let mut node = Self {
            cameras,
            outputs,
            pipeline: None,
            load,
            active: pipeline.is_some(),
            services,
            config,
            enabled: true,
            views,
            calibrations,
            clock,
            stamps,
            batcher,
            counts,
            stop,
            monitor,
            reports,
        };
        node.use_pipeline(pipeline);
        Ok(node)
    }

    /// Uses another pipeline, or none, from now on.
    fn use_pipeline(&mut self, pipeline: Option<Pipeline>) {
        self.pipeline = pipeline;
        let facts = self.pipeline.as_ref().map(|pipeline| facts(pipeline, &self.config));
        // The channel has room for many more reports than come before the monitor reads.
        drop(self.reports.try_send(Report::Model(facts.unwrap_or_default())));
        if let Some(pipeline) = &self.pipeline {
            self.outputs.set_classes(pipeline.model().config().classes.clone());
        }
    }

    /// Does what the lifecycle asks for; false when it failed, after saying why.
    fn carry_out(&mut self, doing: State) -> bool {
        match doing {
            State::Configuring => match (self.load)(&self.config) {
                Ok(pipeline) => self.use_pipeline(Some(pipeline)),
                Err(error) => {
                    log::error!("not configured: {}", error.chain());
                    return false;
                }
            },
            State::CleaningUp => self.use_pipeline(None),
            State::Activating => self.active = true,
            State::Deactivating | State::ShuttingDown => self.active = false,
            State::Unconfigured | State::Inactive | State::Active | State::Finalized => {}
        }
        true
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
        self.stop.close(); // for the cameras, when it is the GPU that ended the loop
        drop((self.reports, self.clock)); // the monitor ends with the last of them
        let joined = self.cameras.into_iter().try_for_each(Camera::join);
        ended.and(joined).and(self.services.join()).and(self.monitor.join())
    }

    fn frames(&mut self) -> Result<()> {
        while !self.stop.is_closed() {
            let slots: Vec<_> = self.cameras.iter().map(|camera| &camera.slot).collect();
            let Some(frames) = self.batcher.next(&slots, IDLE) else { break };
            if let Ok(settings) = self.services.changes.try_recv() {
                self.configure(settings)?;
            }
            if let Ok(doing) = self.services.doing.try_recv() {
                let well = self.carry_out(doing);
                if self.services.done.try_send(well).is_err() {
                    log::warn!("nobody waits for the end of {doing:?}");
                }
                if doing == State::ShuttingDown {
                    break;
                }
            }
            self.batch(frames)?;
            self.outputs.remind();
        }
        Ok(())
    }

    /// Uses what the services were told; a camera with a threshold of its own keeps it.
    fn configure(&mut self, settings: Settings) -> Result<()> {
        let Settings { config, enabled } = settings;
        if let Some(pipeline) = &mut self.pipeline {
            #[expect(clippy::cast_possible_truncation, reason = "scores are float32")]
            pipeline.set_ood_threshold(config.ood_threshold as f32)?;
        }
        self.outputs.configure(&config);
        self.clock.follow(config.use_sim_time, self.outputs.participant())?;
        if config.silence_ms != self.config.silence_ms {
            self.cameras.iter_mut().for_each(|camera| camera.set_silence_ms(config.silence_ms));
        }
        (self.config, self.enabled) = (config, enabled);
        Ok(())
    }

    /// Segments frames of different cameras together; a bad one fails alone.
    fn batch(&mut self, frames: Vec<(usize, Frame)>) -> Result<()> {
        let mut ended = Ok(());
        let mut jobs = Vec::new();
        for (camera, frame) in frames {
            let mut status = self.begin(camera, &frame);
            match self.image(camera, frame.payload, &mut status) {
                Ok(image) => {
                    let calibration = self.calibrations[camera].exact(image.header.stamp);
                    let planes = self.outputs.wanted(camera);
                    jobs.push(Job { camera, status, image, planes, calibration });
                }
                Err(error) => ended = ended.and(self.end(camera, status, Err(error))),
            }
        }
        let frames = jobs.iter().map(|job| (&job.image, &self.views[job.camera], job.planes));
        let frames: Vec<_> = frames.collect();
        let predictions = self.pipeline.as_ref().map(|pipeline| pipeline.run_batch(&frames));
        let shared = u32::try_from(jobs.len()).unwrap_or(u32::MAX);
        for (job, prediction) in jobs.into_iter().zip(predictions.unwrap_or_default()) {
            let Job { camera, mut status, image, calibration, .. } = job;
            let stamp = image.header.stamp;
            self.cameras[camera].recycle(image.data);
            let published = prediction.and_then(|prediction| {
                note(&mut status, &prediction, shared);
                let calibration = calibration.or_else(|| self.calibrations[camera].best(stamp));
                self.outputs.publish(camera, prediction, calibration.as_ref())
            });
            ended = ended.and(self.end(camera, status, published));
        }
        ended
    }

    /// The status of a frame that nothing is known about yet.
    fn begin(&self, camera: usize, frame: &Frame) -> FrameStatus {
        #[expect(clippy::cast_possible_truncation, reason = "scores are float32")]
        let threshold = self.config.ood_threshold as f32;
        let model = self.pipeline.as_ref().map(|pipeline| pipeline.model().config());
        FrameStatus {
            camera: self.config.cameras[camera].clone(),
            sequence: frame.sequence,
            dropped: frame.dropped,
            limited: frame.limited,
            wait_ms: milliseconds(frame.received.elapsed()),
            score: self.config.score.clone(),
            ood_threshold: self.views[camera].ood_threshold.unwrap_or(threshold),
            model_sha256: model.map(|model| model.sha256.clone()).unwrap_or_default(),
            ..FrameStatus::default()
        }
    }

    /// Pixels from the message; what is learnt on the way goes into `status`.
    fn image(
        &mut self,
        camera: usize,
        payload: Payload,
        status: &mut FrameStatus,
    ) -> Result<Image> {
        let start = Instant::now();
        status.header = payload.header();
        if !self.active {
            return Err(Error::Inactive);
        }
        if !self.enabled {
            return Err(Error::Disabled);
        }
        if !matches!(payload, Payload::Undecodable(_)) {
            let rules = Rules::of(&self.config);
            self.stamps[camera].check(&payload, self.clock.now(), rules)?;
        }
        let image = match payload {
            Payload::Raw(image) => image,
            Payload::Compressed(message) => {
                Image::from_compressed(&message, &limits(&self.config))?
            }
            Payload::Undecodable(problem) => return Err(Reject::Cdr { problem }.into()),
        };
        status.decode_ms = milliseconds(start.elapsed());
        (status.height, status.width) = (image.height, image.width);
        Ok(image)
    }

    /// Publishes what became of a frame, counts it and, when the GPU failed, passes that on.
    fn end(&mut self, camera: usize, mut status: FrameStatus, published: Result<()>) -> Result<()> {
        if let Err(error) = &published {
            status.state = FrameStatus::NO_DATA;
            (status.reason, status.text) = (reason(error).to_owned(), error.chain());
        }
        status.latency_ms =
            self.clock.now().map_or(f32::NAN, |now| since(status.header.stamp, now));
        self.count(camera, &status, published.as_ref().err());
        // No room: a frame less in the diagnostics, the status topic has them all.
        drop(self.reports.try_send(Report::Frame(camera, status.clone())));
        self.outputs.status(camera, status);
        match published {
            Err(error @ Error::Torch { .. }) if self.on_gpu() => Err(error),
            _ => Ok(()),
        }
    }

    fn on_gpu(&self) -> bool {
        self.pipeline.as_ref().is_some_and(|pipeline| pipeline.model().device().is_cuda())
    }

    fn count(&mut self, camera: usize, status: &FrameStatus, error: Option<&Error>) {
        let counts = &mut self.counts[camera];
        (counts.received, counts.dropped) = (status.sequence, status.dropped);
        counts.limited = status.limited;
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

/// What runs where, for people.
fn facts(pipeline: &Pipeline, config: &NodeConfig) -> Vec<(String, String)> {
    let model = pipeline.model().config();
    let calibration = model.calibration.as_ref().map_or("n/a".into(), |found| {
        let (target, threshold, dataset) = (&found.target, found.ood_threshold, &found.dataset);
        format!("{target} at {} > {threshold} on {dataset}", found.score)
    });
    let fact = |key: &str, value: &dyn fmt::Display| (key.to_owned(), value.to_string());
    vec![
        fact("weights", &config.model.weights.display()),
        fact("sha256", &model.sha256),
        fact("architecture", &model.architecture),
        fact("variant", &model.variant()),
        fact("device", &format!("{:?}", pipeline.model().device())),
        fact("precision", &config.model.precision),
        fact("plan", &config.plan),
        fact("score", &pipeline.config().score),
        fact("calibration", &calibration),
    ]
}

/// Largest picture that is taken.
fn limits(config: &NodeConfig) -> Limits {
    let NodeConfig { max_width, max_height, max_bytes, .. } = *config;
    Limits { max_width, max_height, max_bytes }
}

/// How the camera of this name is seen.
fn view(camera: &str, config: &NodeConfig) -> Result<View> {
    let own = config.of_camera(camera);
    let rotation = Rotation::from_degrees(own.rotation.unwrap_or(config.rotation).into())?;
    let mask = own.ego_mask.as_ref().unwrap_or(&config.ego_mask);
    let has_mask = !mask.as_os_str().is_empty();
    let ego_mask = has_mask.then(|| EgoMask::read_file(mask, &limits(config))).transpose()?;
    #[expect(clippy::cast_possible_truncation, reason = "scores are float32")]
    let ood_threshold = own.ood_threshold.map(|threshold| threshold as f32);
    let resolution = config.output_resolution.parse()?;
    Ok(View { rotation, ego_mask, ood_threshold, resolution })
}

/// What the prediction says about itself, into the status.
fn note(status: &mut FrameStatus, prediction: &Prediction, batch: u32) {
    status.ood_threshold = prediction.ood_threshold;
    status.preprocess_ms = prediction.timing.preprocess_ms;
    status.inference_ms = prediction.timing.inference_ms;
    status.postprocess_ms = prediction.timing.postprocess_ms;
    status.batch = batch;
}

/// The fixed name of what went wrong with a frame.
fn reason(error: &Error) -> &'static str {
    match error {
        Error::Frame(reject) => reject.name(),
        Error::NotFinite { .. } => "not_finite",
        Error::Setting { .. } => "setting", // an ego mask of another size
        Error::Inactive => "inactive",
        Error::Disabled => "disabled",
        _ => "inference",
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { received, dropped, limited, segmented, refused } = self;
        write!(f, "{received} messages, {segmented} segmented, {dropped} replaced by newer ones")?;
        if *limited > 0 {
            write!(f, ", {limited} above max_rate_hz")?;
        }
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

/// Milliseconds from a stamp to `now`; negative when it lies in the future.
#[expect(clippy::cast_possible_truncation, reason = "milliseconds need no more digits")]
#[expect(clippy::cast_precision_loss, reason = "milliseconds need no more digits")]
fn since(stamp: Stamp, now: Stamp) -> f32 {
    ((now.nanos() - stamp.nanos()) as f64 / 1e6) as f32
}
