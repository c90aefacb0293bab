//! The loop of the node: newest frames of the cameras, pipeline, topics, status; for every frame,
//! whatever became of it.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::args::{Names, Network};
use super::batch::Batcher;
use super::calibration::Calibrations;
use super::diagnostics::{Health, processing_ms};
use super::e2e::{Identity, run_id};
use super::endurance::{Endurance, Verdict};
use super::ingest::{Camera, Frame, Links, Payload};
use super::mode::{Ladder, Mode};
use super::monitor::{Monitor, ROOM, Report};
use super::operating;
use super::params::{Services, Settings};
use super::publish::Outputs;
use super::raw::RECEIVE_BUFFER;
use super::recorder::Recorder;
use super::rosout::Line;
use crate::config::{NodeConfig, Transport};
use crate::image::{Image, Reject};
use crate::msg::{CameraInfo, FrameStatus, Stamp};
use crate::pipeline::{EgoMask, Pipeline, Planes, Prediction, Rotation, View, panic_text};
use crate::selftest::SelfTest;
use crate::supervisor::{Phase, Pulse, Watch};
use crate::window::Plan;
use crate::{Error, Result, quality};

/// The running node: cameras on their threads, everything else on the caller's.
pub struct Node {
    cameras: Vec<Camera>,
    outputs: Outputs,
    pipeline: Pipeline,
    services: Services,
    config: NodeConfig,
    views: Vec<View>,
    calibrations: Vec<Calibrations>,
    batcher: Batcher,
    enabled: bool,
    counts: Vec<Counts>,
    quality: Vec<quality::Monitor>,
    stop: smol::channel::Receiver<()>,
    monitor: Monitor,
    reports: Sender<Report>,
    watch: Watch,
    pulse: Pulse,
    selftest: SelfTest,
    tested: Instant,
    endurance: Endurance,
    /// Of each camera the status of the frame in work.
    in_work: Vec<Option<FrameStatus>>,
    /// When that frame came.
    received: Vec<Option<Instant>>,
    ladder: Ladder,
    run_id: u32,
    recorder: Recorder,
}

/// The node's connections to its process.
pub struct Process {
    /// Its closing ends the node.
    pub stop: smol::channel::Receiver<()>,
    /// Lines for `/rosout`.
    pub log: Receiver<Line>,
    /// The supervisor.
    pub watch: Watch,
    /// That of the pipeline, passed once.
    pub selftest: SelfTest,
}

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
const IDLE: Duration = Duration::from_secs(1);

/// What a status says about a frame without obstacles.
const CLASSES_ONLY: &str = "frames take longer than budget_ms: nothing is known about obstacles";

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
    /// Joins DDS and starts the cameras; both they and the loop end when the stop channel closes.
    ///
    /// # Errors
    /// [`Error::Ros`] when DDS cannot start, [`Error::Setting`] for a name that ROS does not allow,
    /// [`Error::Io`] and [`Error::BadFile`] for an ego mask.
    pub fn start(
        names: &Names,
        network: Network,
        config: NodeConfig,
        pipeline: Pipeline,
        Process { stop, log, watch, selftest }: Process,
    ) -> Result<Self> {
        let views = config.cameras.iter().map(|camera| view(camera, &config, &pipeline));
        let views = views.collect::<Result<Vec<_>>>()?;
        let classes = pipeline.model().config().classes.clone();
        let mut outputs = Outputs::new(names, network, &config, classes)?;
        operating::log(&pipeline, &config);
        let (reports, heard) = bounded(ROOM);
        let health = Health::new(names.node().to_owned(), &config, facts(&pipeline, &config));
        let monitor =
            Monitor::start(outputs.participant(), names, (health, watch.clone()), heard, log)?;
        let start = |(camera, name): (usize, &String)| {
            let (stop, reports, watch) = (stop.clone(), reports.clone(), watch.clone());
            let links = Links { camera, stop, reports, watch };
            Camera::start(name, names, network, &config, links)
        };
        let cameras = config.cameras.iter().enumerate().map(start).collect::<Result<Vec<_>>>()?;
        let unread = cameras.iter().map(|camera| camera.calibrations.clone());
        let calibrations = unread.map(Calibrations::new).collect();
        let wait = Duration::from_millis(config.batch_wait_ms.into());
        let batcher = Batcher::new(config.batch_cameras, wait);
        let participant = outputs.participant();
        let recorder = Recorder::start(names, &config)?;
        let settings = (config.clone(), recorder.trigger());
        let services = Services::start(participant, names, settings, stop.clone())?;
        let counts = vec![Counts::default(); cameras.len()];
        let in_work = vec![None; cameras.len()];
        let plan = pipeline.config().plan;
        let ladder = Ladder::new(plan, config.budget_ms, config.degrade_after_ms);
        let quality = cameras.iter().map(|_| quality::Monitor::default()).collect();
        if config.transport != Transport::Compressed {
            check_receive_buffer();
        }
        Ok(Self {
            cameras,
            outputs,
            pipeline,
            services,
            config,
            enabled: true,
            views,
            calibrations,
            batcher,
            counts,
            quality,
            stop,
            monitor,
            reports,
            pulse: watch.pulse("frames"),
            watch,
            selftest,
            tested: Instant::now(),
            endurance: Endurance::default(),
            received: vec![None; in_work.len()],
            in_work,
            ladder,
            run_id: run_id(),
            recorder,
        })
    }

    /// Segments frames until the cameras end, then logs what became of all of them.
    ///
    /// # Errors
    /// [`Error::Torch`], [`Error::SelfTest`] and [`Error::Panicked`] when the network, the device or this
    /// program is not to be trusted any more; [`Error::Ros`] when a camera's thread panicked.
    pub fn run(mut self) -> Result<()> {
        self.watch.enter(Phase::Running);
        let ended = self.frames();
        self.watch.stop(ended.as_ref().map_or_else(Error::exit_code, |()| 0));
        for (name, counts) in self.config.cameras.iter().zip(&self.counts) {
            log::info!("{name}: {counts}");
        }
        self.stop.close(); // for the cameras, when it is the GPU that ended the loop
        drop(self.reports);
        let joined = self.cameras.into_iter().try_for_each(Camera::join);
        ended
            .and(joined)
            .and(self.services.join())
            .and(self.recorder.join())
            .and(self.monitor.join())
    }

    fn frames(&mut self) -> Result<()> {
        while !self.stop.is_closed() {
            let slots: Vec<_> = self.cameras.iter().map(|camera| &camera.slot).collect();
            let Some(frames) = self.batcher.next(&slots, IDLE) else { break };
            self.pulse.beat();
            if let Ok(settings) = self.services.changes.try_recv() {
                self.configure(settings)?;
            }
            self.look_at(frames)?;
            self.self_test()?;
            self.outputs.remind();
        }
        Ok(())
    }

    /// Uses what the services were told; a camera with a threshold of its own keeps it.
    fn configure(&mut self, settings: Settings) -> Result<()> {
        let Settings { config, enabled } = settings;
        let calibrated = self.pipeline.calibrated();
        self.pipeline.set_ood_threshold(config.ood_threshold.or(calibrated.ood_threshold))?;
        self.outputs.configure(&config);
        if config.silence_ms != self.config.silence_ms {
            self.cameras.iter_mut().for_each(|camera| camera.set_silence_ms(config.silence_ms));
        }
        (self.config, self.enabled) = (config, enabled);
        Ok(())
    }

    /// Segments frames under the supervisor's eye; a panic costs them and no others. Ends the node when
    /// failures are too many.
    fn look_at(&mut self, frames: Vec<(usize, Frame)>) -> Result<()> {
        if frames.is_empty() {
            return Ok(());
        }
        let pixels = frames.iter().map(|(_, frame)| self.pixels(&frame.payload)).sum();
        let watch = self.watch.clone();
        let done = watch.during(pixels, || catch_unwind(AssertUnwindSafe(|| self.batch(frames))));
        let failure = done.unwrap_or_else(|panic| {
            let problem = panic_text(&*panic);
            let mut failure = None;
            for camera in 0..self.in_work.len() {
                if let Some(status) = self.in_work[camera].take() {
                    let problem = problem.clone();
                    failure = self.end(camera, status, Err(Error::Panicked { problem }));
                }
            }
            failure
        });
        let cuda = self.pipeline.model().device().is_cuda();
        match self.endurance.judge(failure.as_ref(), cuda, Instant::now()) {
            Verdict::GoOn => Ok(()),
            Verdict::Test => self.prove(SelfTest::all),
            Verdict::End => failure.map_or(Ok(()), Err),
        }
    }

    /// Pixels of a message, about; a window's at least.
    fn pixels(&self, payload: &Payload) -> u64 {
        let limits = &self.pipeline.config().limits;
        let most = u64::from(limits.max_width) * u64::from(limits.max_height);
        let pixels = match payload {
            Payload::Raw(image) => u64::from(image.height) * u64::from(image.width),
            Payload::Compressed(message) => message.data.len() as u64 * 16, // of a JPEG
            Payload::Undecodable(_) => 0,
        };
        pixels.min(most).max(self.window_pixels())
    }

    fn window_pixels(&self) -> u64 {
        self.pipeline.model().config().window.map(i64::unsigned_abs).iter().product()
    }

    /// Asks the network for the next known picture when it is time and no frame waits; when frames
    /// always wait, after two periods all the same.
    fn self_test(&mut self) -> Result<()> {
        let period = Duration::from_secs(self.config.selftest_period_s.into());
        let idle = self.cameras.iter().all(|camera| camera.slot.is_empty());
        let due = if idle { period } else { 2 * period };
        if period.is_zero() || self.tested.elapsed() < due {
            return Ok(());
        }
        self.tested = Instant::now();
        self.prove(SelfTest::step)
    }

    fn prove(&mut self, test: fn(&mut SelfTest, &Pipeline) -> Result<()>) -> Result<()> {
        let (watch, pixels) = (self.watch.clone(), self.window_pixels());
        let result = watch.watched(pixels, || test(&mut self.selftest, &self.pipeline));
        let told = result.as_ref().map(|_| ()).map_err(Error::chain);
        drop(self.reports.try_send(Report::SelfTest(told))); // no room: the next one
        result
    }

    /// Segments frames of different cameras together; a bad one fails alone. Returns the last failure.
    fn batch(&mut self, frames: Vec<(usize, Frame)>) -> Option<Error> {
        let mut failure = None;
        let mut jobs = Vec::new();
        for (camera, frame) in frames {
            #[cfg(feature = "fault-injection")]
            if crate::fault::vanishes() {
                continue;
            }
            let mut status = self.begin(camera, &frame);
            self.in_work[camera] = Some(status.clone());
            self.received[camera] = Some(frame.received);
            match self.image(frame.payload, &mut status) {
                Ok(image) => {
                    self.inspect(camera, &image, &mut status);
                    let calibration = self.calibrations[camera].exact(image.header.stamp);
                    let planes = self.recorder.wants(self.outputs.wanted(camera));
                    jobs.push(Job { camera, status, image, planes, calibration });
                }
                Err(error) => failure = self.end(camera, status, Err(error)).or(failure),
            }
        }
        let frames = jobs.iter().map(|job| (&job.image, &self.views[job.camera], job.planes));
        let predictions = self.pipeline.run_batch(&frames.collect::<Vec<_>>());
        let shared = u32::try_from(jobs.len()).unwrap_or(u32::MAX);
        for (job, prediction) in jobs.into_iter().zip(predictions) {
            let Job { camera, mut status, image, calibration, .. } = job;
            let stamp = image.header.stamp;
            self.cameras[camera].recycle(image.data);
            let published = prediction.and_then(|prediction| {
                note(&mut status, &prediction, shared);
                self.recorder.frame(camera, &prediction);
                let calibration = calibration.or_else(|| self.calibrations[camera].best(stamp));
                let identity = Identity { run_id: self.run_id, sequence: status.sequence };
                self.outputs.publish((camera, identity), prediction, calibration.as_ref())
            });
            let published = published.map(|checks| {
                [status.mask_crc32, status.ood_crc32] = checks;
            });
            failure = self.end(camera, status, published).or(failure);
        }
        failure
    }

    /// The status of a frame that nothing is known about yet.
    fn begin(&self, camera: usize, frame: &Frame) -> FrameStatus {
        let threshold = self.pipeline.config().ood_threshold;
        FrameStatus {
            camera: self.config.cameras[camera].clone(),
            sequence: frame.sequence,
            dropped: frame.dropped,
            limited: frame.limited,
            wait_ms: milliseconds(frame.received.elapsed()),
            score: self.pipeline.config().score.to_string(),
            ood_threshold: self.views[camera].ood_threshold.unwrap_or(threshold),
            model_sha256: self.pipeline.model().config().sha256.clone(),
            mode: self.ladder.mode().to_string(),
            run_id: self.run_id,
            ..FrameStatus::default()
        }
    }

    /// Pixels from the message; what is learnt on the way goes into `status`.
    fn image(&self, payload: Payload, status: &mut FrameStatus) -> Result<Image> {
        let start = Instant::now();
        #[cfg(feature = "fault-injection")]
        crate::fault::frame();
        status.header = payload.header();
        if !self.enabled {
            return Err(Error::Disabled);
        }
        if self.ladder.mode() == Mode::NoResult {
            return Err(Error::TooSlow);
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
        Ok(image)
    }

    /// Says what is wrong with a picture, which is segmented all the same.
    fn inspect(&mut self, camera: usize, image: &Image, status: &mut FrameStatus) {
        let (limits, thresholds) = (&self.pipeline.config().limits, &self.config.quality);
        let look = || self.quality[camera].look(image, limits, thresholds, Instant::now());
        let quality = thresholds.enabled.then(look).flatten();
        status.quality = quality.map_or(0, |quality| quality.bits);
        drop(self.reports.try_send(Report::Quality(camera, quality))); // no room: the next one
    }

    /// Publishes what became of a frame, counts it and passes a failure on.
    fn end(
        &mut self,
        camera: usize,
        mut status: FrameStatus,
        published: Result<()>,
    ) -> Option<Error> {
        self.in_work[camera] = None;
        if let Err(error) = &published {
            status.state = FrameStatus::NO_DATA;
            (status.reason, status.text) = (reason(error).to_owned(), error.chain());
        } else if self.ladder.mode() == Mode::SegmentorOnly {
            status.state = FrameStatus::CLASSES_ONLY;
            (status.reason, status.text) = (status.mode.clone(), CLASSES_ONLY.to_owned());
        }
        let (received, budget) = (self.received[camera], self.config.budget_ms as f32);
        status.age_ms = received.map_or(0.0, |received| milliseconds(received.elapsed()));
        status.late = status.age_ms > budget;
        let stamp = status.header.stamp;
        status.latency_ms = if self.config.use_sim_time { f32::NAN } else { since(stamp) };
        self.count(camera, &status, published.as_ref().err());
        match &published {
            Ok(()) => self.pace(Some(processing_ms(&status))),
            Err(Error::TooSlow) => self.pace(None),
            Err(_) => {}
        }
        self.recorder.status(camera, &status);
        // No room: a frame less in the diagnostics, the status topic has them all.
        drop(self.reports.try_send(Report::Frame(camera, status.clone())));
        self.outputs.status(camera, status);
        published.err()
    }

    /// Does less or more from the next frame on, as the budget says.
    fn pace(&mut self, took_ms: Option<f32>) {
        if !self.ladder.frame(took_ms, Instant::now()) {
            return;
        }
        let mode = self.ladder.mode();
        let level = if self.ladder.is_degraded() { log::Level::Warn } else { log::Level::Info };
        log::log!(level, "mode {mode}: frames are held to budget_ms = {}", self.config.budget_ms);
        match mode {
            Mode::Full(plan) => self.pipeline.set_effort(plan, true),
            Mode::SegmentorOnly | Mode::NoResult => self.pipeline.set_effort(Plan::Single, false),
        }
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
    let fact = |key: &str, value: &dyn fmt::Display| (key.to_owned(), value.to_string());
    let mut facts = vec![
        fact("weights", &config.model.weights.display()),
        fact("sha256", &model.sha256),
        fact("architecture", &model.architecture),
        fact("variant", &model.variant()),
        fact("device", &format!("{:?}", pipeline.model().device())),
        fact("precision", &config.model.precision),
        fact("plan", &config.plan),
        fact("score", &pipeline.config().score),
    ];
    facts.extend(operating::facts(pipeline, config));
    facts
}

/// How the camera of this name is seen.
fn view(camera: &str, config: &NodeConfig, pipeline: &Pipeline) -> Result<View> {
    let own = config.of_camera(camera);
    let rotation = Rotation::from_degrees(own.rotation.unwrap_or(config.rotation).into())?;
    let mask = own.ego_mask.as_ref().unwrap_or(&config.ego_mask);
    let limits = &pipeline.config().limits;
    let has_mask = !mask.as_os_str().is_empty();
    let ego_mask = has_mask.then(|| EgoMask::read_file(mask, limits)).transpose()?;
    let calibrated = pipeline.calibrated().ood_threshold;
    let ood_threshold = own.ood_threshold.map(|threshold| threshold.or(calibrated));
    let resolution = config.output_resolution.parse()?;
    Ok(View { rotation, ego_mask, ood_threshold, resolution })
}

/// What the prediction says about itself, into the status.
fn note(status: &mut FrameStatus, prediction: &Prediction, batch: u32) {
    status.ood_threshold = prediction.ood_threshold;
    status.ood_fraction = prediction.ood_fraction;
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
        Error::Disabled => "disabled",
        Error::TooSlow => "too_slow",
        Error::Panicked { .. } => "panic_recovered",
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

/// Milliseconds on the system's clock since a stamp; negative when it lies in the future.
#[expect(clippy::cast_possible_truncation, reason = "milliseconds need no more digits")]
fn since(stamp: Stamp) -> f32 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    ((now.as_secs_f64() - f64::from(stamp.sec) - f64::from(stamp.nanosec) * 1e-9) * 1e3) as f32
}
