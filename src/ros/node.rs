//! The loop of the node: newest frames of the cameras, pipeline, topics, status; for every frame,
//! whatever became of it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::args::{Names, Network};
use super::batch::Batcher;
use super::calibration::Calibrations;
use super::clock::Clock;
use super::counts::{Counts, reason};
use super::diagnostics::{Health, processing_ms};
use super::e2e::{Identity, run_id};
use super::endurance::{Endurance, Verdict};
use super::ingest::{Camera, Decoded, Frame, Links, Payload};
use super::lifecycle::State;
use super::loaded::{Load, Loaded, facts, limits, view};
use super::mode::{Ladder, Mode};
use super::monitor::{Monitor, ROOM, Report};
use super::namesake::Namesake;
use super::operating;
use super::params::{Services, Settings};
use super::publish::Outputs;
use super::raw::{RECEIVE_BUFFER, receive_buffer_limit};
use super::recorder::Recorder;
use super::rosout::Line;
use super::stamps::{Rules, Stamps};
use super::statistics::Statistics;
use crate::config::{NodeConfig, Transport};
use crate::image::{Image, Reject};
use crate::model::Fused;
use crate::msg::{CameraInfo, FrameStatus, Stamp};
use crate::pipeline::{Pipeline, Planes, Prediction, View, panic_text};
use crate::quality::{self, Quality};
use crate::selftest::SelfTest;
use crate::supervisor::{Phase, Pulse, Watch};
use crate::window::Plan;
use crate::{Error, Result};

/// The running node: cameras on their threads, everything else on the caller's.
pub struct Node {
    cameras: Vec<Camera>,
    outputs: Outputs,
    /// From being configured to being cleaned up.
    loaded: Option<Loaded>,
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
    quality: Vec<quality::Monitor>,
    stop: smol::channel::Receiver<()>,
    monitor: Monitor,
    reports: Sender<Report>,
    watch: Watch,
    /// None while a network is loaded.
    pulse: Option<Pulse>,
    tested: Instant,
    endurance: Endurance,
    /// Of each camera the status of the frame in work.
    in_work: Vec<Option<FrameStatus>>,
    /// When that frame came.
    received: Vec<Option<Instant>>,
    ladder: Ladder,
    run_id: u32,
    recorder: Recorder,
    namesake: Namesake,
}

/// The node's connections to its process.
pub struct Process {
    /// Its closing ends the node.
    pub stop: smol::channel::Receiver<()>,
    /// Lines for `/rosout`.
    pub log: Receiver<Line>,
    /// The supervisor.
    pub watch: Watch,
    /// Loads the model when the node is configured.
    pub load: Load,
}

/// How long the loop waits for frames before it looks at what is due without any.
const IDLE: Duration = Duration::from_millis(100);

/// The loop's name to the supervisor.
const PULSE: &str = "frames";

/// What a status says about a frame without obstacles.
const CLASSES_ONLY: &str = "frames take longer than budget_ms: nothing is known about obstacles";

/// A frame that can be segmented.
struct Job {
    camera: usize,
    status: FrameStatus,
    image: Image,
    quality: Option<Quality>,
    planes: Planes,
    /// With the frame's own stamp.
    calibration: Option<CameraInfo>,
}

impl Node {
    /// Joins DDS and starts the cameras; both they and the loop end when the stop channel closes. With a
    /// network the node is active, without one it is unconfigured.
    ///
    /// # Errors
    /// [`Error::Ros`] when DDS cannot start, [`Error::Setting`] for a name that ROS does not allow,
    /// [`Error::Io`] and [`Error::BadFile`] for an ego mask.
    pub fn start(
        names: &Names,
        network: Network,
        config: NodeConfig,
        loaded: Option<Loaded>,
        Process { stop, log, watch, load }: Process,
    ) -> Result<Self> {
        let view = |camera: &String| view(camera, &config);
        let views = config.cameras.iter().map(view).collect::<Result<_>>()?;
        let mut outputs = Outputs::new(names, network, &config, &watch)?;
        let (reports, heard) = bounded(ROOM);
        let run_id = run_id();
        let health = Health::new(names.node().to_owned(), &config, Vec::new());
        let statistics = Statistics::offer(outputs.participant(), names, &config)?;
        let health = (health, watch.clone(), run_id, statistics);
        let monitor = Monitor::start(outputs.participant(), names, health, heard, log)?;
        let start = |(camera, name): (usize, &String)| {
            let (stop, reports, watch) = (stop.clone(), reports.clone(), watch.clone());
            let links = Links { camera, stop, reports, watch };
            Camera::start(name, names, network, &config, links)
        };
        let cameras = config.cameras.iter().enumerate().map(start).collect::<Result<Vec<_>>>()?;
        let unread = cameras.iter().map(|camera| camera.calibrations.clone());
        let calibrations = unread.map(Calibrations::new).collect();
        let mut clock = Clock::new(names.topic("/clock")?, reports.clone());
        clock.follow(config.use_sim_time, outputs.participant())?;
        let wait = Duration::from_millis(config.batch_wait_ms.into());
        let batcher = Batcher::new(config.batch_cameras, wait);
        let state = if loaded.is_some() { State::Active } else { State::Unconfigured };
        let recorder = Recorder::start(names, &config, reports.clone())?;
        let settings = (config.clone(), state, recorder.trigger());
        let services = Services::start(outputs.participant(), names, settings, stop.clone())?;
        let graph = outputs.participant().graph();
        let namesake = Namesake::new(names.node_name(), graph, config.allow_duplicate);
        check_receive_buffer(config.transport);
        let mut node = Self {
            counts: vec![Counts::default(); cameras.len()],
            quality: cameras.iter().map(|_| quality::Monitor::default()).collect(),
            received: vec![None; cameras.len()],
            in_work: vec![None; cameras.len()],
            cameras,
            outputs,
            loaded: None,
            load,
            active: loaded.is_some(),
            services,
            stamps: config.cameras.iter().cloned().map(Stamps::new).collect(),
            ladder: Ladder::new(config.plan.parse()?, config.budget_ms, config.degrade_after_ms),
            config,
            enabled: true,
            views,
            calibrations,
            clock,
            batcher,
            stop,
            monitor,
            reports,
            pulse: Some(watch.pulse(PULSE)),
            watch,
            tested: Instant::now(),
            endurance: Endurance::default(),
            run_id,
            recorder,
            namesake,
        };
        node.replace(loaded);
        Ok(node)
    }

    /// Uses another network, or none, from now on.
    fn replace(&mut self, loaded: Option<Loaded>) {
        self.loaded = loaded;
        let facts = self.loaded.as_ref().map(|loaded| facts(&loaded.pipeline, &self.config));
        // The channel has room for many more reports than come before the monitor reads.
        drop(self.reports.try_send(Report::Model(facts.unwrap_or_default())));
        if let Some(Loaded { pipeline, .. }) = &self.loaded {
            operating::log(pipeline, &self.config);
            let calibrated = pipeline.calibrated().ood_threshold;
            for (view, camera) in self.views.iter_mut().zip(&self.config.cameras) {
                let own = self.config.of_camera(camera).ood_threshold;
                view.ood_threshold = own.map(|threshold| threshold.or(calibrated));
            }
            let plan = pipeline.config().plan;
            self.ladder = Ladder::new(plan, self.config.budget_ms, self.config.degrade_after_ms);
            let classes = &pipeline.model().config().classes;
            self.recorder.set_classes(classes);
            self.outputs.set_classes(classes.clone());
        }
    }

    /// Does what the lifecycle asks for; false when it failed, after saying why.
    fn carry_out(&mut self, doing: State) -> bool {
        match doing {
            State::Configuring => {
                self.pulse = None; // loading takes the time it takes
                let loaded = (self.load)(&self.config);
                self.pulse = Some(self.watch.pulse(PULSE));
                match loaded {
                    Ok(loaded) => self.replace(Some(loaded)),
                    Err(error) => {
                        log::error!("not configured: {}", error.chain());
                        return false;
                    }
                }
            }
            State::CleaningUp => self.replace(None),
            State::Activating => self.active = true,
            State::Deactivating | State::ShuttingDown => self.active = false,
            State::Unconfigured | State::Inactive | State::Active | State::Finalized => {}
        }
        true
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
        drop((self.reports, self.clock)); // the monitor ends with the last of them
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
            self.pulse.iter().for_each(Pulse::beat);
            self.namesake.check()?;
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
            self.look_at(frames)?;
            self.self_test()?;
            self.outputs.remind();
        }
        Ok(())
    }

    /// Uses what the services were told; a camera with a threshold of its own keeps it.
    fn configure(&mut self, settings: Settings) -> Result<()> {
        let Settings { config, enabled } = settings;
        if let Some(Loaded { pipeline, .. }) = &mut self.loaded {
            let calibrated = pipeline.calibrated();
            pipeline.set_ood_threshold(config.ood_threshold.or(calibrated.ood_threshold))?;
        }
        self.outputs.configure(&config);
        self.clock.follow(config.use_sim_time, self.outputs.participant())?;
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
        let cuda = self.model().is_some_and(|model| model.device().is_cuda());
        match self.endurance.judge(failure.as_ref(), cuda, Instant::now()) {
            Verdict::GoOn => Ok(()),
            Verdict::Test => self.prove(SelfTest::all),
            Verdict::End => failure.map_or(Ok(()), Err),
        }
    }

    /// Pixels of a message, about; a window's at least.
    fn pixels(&self, payload: &Payload) -> u64 {
        let limits = limits(&self.config);
        let most = u64::from(limits.max_width) * u64::from(limits.max_height);
        let pixels = match payload {
            Payload::Raw(image) => u64::from(image.height) * u64::from(image.width),
            Payload::Compressed(message, _) => message.data.len() as u64 * 16, // of a JPEG
            Payload::Undecodable(_) => 0,
        };
        pixels.min(most).max(self.window_pixels())
    }

    fn window_pixels(&self) -> u64 {
        let window = self.model().map_or([0, 0], |model| model.config().window);
        window.map(i64::unsigned_abs).iter().product()
    }

    fn model(&self) -> Option<&Fused> {
        self.loaded.as_ref().map(|loaded| loaded.pipeline.model())
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
        let Some(Loaded { pipeline, selftest }) = &mut self.loaded else { return Ok(()) };
        let result = watch.watched(pixels, || test(selftest, pipeline));
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
            match self.image(camera, frame.payload, &mut status) {
                Ok(image) => {
                    let quality = self.inspect(camera, &image);
                    let calibration = self.calibrations[camera].exact(image.header.stamp);
                    let planes = self.recorder.wants(self.outputs.wanted(camera));
                    jobs.push(Job { camera, status, image, quality, planes, calibration });
                }
                Err(error) => failure = self.end(camera, status, Err(error)).or(failure),
            }
        }
        let frames = jobs.iter().map(|job| (&job.image, &self.views[job.camera], job.planes));
        let frames: Vec<_> = frames.collect();
        let predictions = self.loaded.as_ref().map(|loaded| loaded.pipeline.run_batch(&frames));
        let shared = u32::try_from(jobs.len()).unwrap_or(u32::MAX);
        for (job, prediction) in jobs.into_iter().zip(predictions.unwrap_or_default()) {
            let Job { camera, mut status, image, quality, calibration, .. } = job;
            let stamp = image.header.stamp;
            let unfamiliarity = prediction.as_ref().ok().and_then(|seen| seen.unfamiliarity);
            self.tell(camera, quality, unfamiliarity, &mut status);
            let published = prediction.map(|prediction| {
                note(&mut status, &prediction, shared);
                let calibration = calibration.or_else(|| self.calibrations[camera].best(stamp));
                self.recorder.frame(camera, &prediction, calibration.as_ref());
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
        // Without a network that of the parameters, if it is not left to the calibration.
        let told = || self.config.ood_threshold.or(f32::NAN);
        let used = self.loaded.as_ref().map(|loaded| loaded.pipeline.config().ood_threshold);
        let threshold = used.unwrap_or_else(told);
        FrameStatus {
            camera: self.config.cameras[camera].clone(),
            sequence: frame.sequence,
            dropped: frame.dropped,
            limited: frame.limited,
            wait_ms: milliseconds(frame.received.elapsed()),
            score: self.config.score.clone(),
            ood_threshold: self.views[camera].ood_threshold.unwrap_or(threshold),
            model_sha256: self
                .model()
                .map(|model| model.config().sha256.clone())
                .unwrap_or_default(),
            mode: self.ladder.mode().to_string(),
            run_id: self.run_id,
            unfamiliarity: f32::NAN,
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
        #[cfg(feature = "fault-injection")]
        crate::fault::frame();
        status.header = payload.header();
        if !self.active {
            return Err(Error::Inactive);
        }
        if !self.enabled {
            return Err(Error::Disabled);
        }
        if self.ladder.mode() == Mode::NoResult {
            return Err(Error::TooSlow);
        }
        if !matches!(payload, Payload::Undecodable(_)) {
            let rules = Rules::of(&self.config);
            self.stamps[camera].check(&payload, self.clock.now(), rules)?;
        }
        let mut ahead = Duration::ZERO;
        let image = match payload {
            Payload::Raw(image) => image,
            Payload::Compressed(_, Some(Decoded { image, took })) => {
                ahead = took;
                image?
            }
            Payload::Compressed(message, None) => {
                Image::from_compressed(&message, &limits(&self.config))?
            }
            Payload::Undecodable(problem) => return Err(Reject::Cdr { problem }.into()),
        };
        status.decode_ms = milliseconds(ahead + start.elapsed());
        (status.height, status.width) = (image.height, image.width);
        Ok(image)
    }

    /// Looks at a picture, which is segmented whatever is wrong with it.
    fn inspect(&mut self, camera: usize, image: &Image) -> Option<Quality> {
        let (limits, thresholds) = (&limits(&self.config), &self.config.quality);
        let look = || self.quality[camera].look(image, limits, thresholds, Instant::now());
        thresholds.enabled.then(look).flatten()
    }

    /// Says what is wrong with a picture, and how far from the calibration's the network finds it.
    fn tell(
        &self,
        camera: usize,
        quality: Option<Quality>,
        unfamiliarity: Option<f32>,
        status: &mut FrameStatus,
    ) {
        let thresholds = &self.config.quality;
        let quality = quality.map(|it| it.with_unfamiliarity(unfamiliarity, thresholds));
        status.quality = quality.map_or(0, |quality| quality.bits);
        status.unfamiliarity = unfamiliarity.unwrap_or(f32::NAN);
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
        status.latency_ms =
            self.clock.now().map_or(f32::NAN, |now| since(status.header.stamp, now));
        self.counts[camera].count(&status, published.as_ref().err());
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
        let Some(Loaded { pipeline, .. }) = &mut self.loaded else { return };
        match mode {
            Mode::Full(plan) => pipeline.set_effort(plan, true),
            Mode::SegmentorOnly | Mode::NoResult => pipeline.set_effort(Plan::Single, false),
        }
    }
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

/// Says once, with the remedy, that the kernel will drop raw images.
fn check_receive_buffer(transport: Transport) {
    if transport == Transport::Compressed {
        return;
    }
    let Some(bytes) = receive_buffer_limit() else { return };
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
