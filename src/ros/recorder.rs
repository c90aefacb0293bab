//! Evidence: the seconds around something remarkable, as a bag.
//!
//! The node hands on what it published and goes on at once; a thread of its own compresses it into a ring
//! in memory and, once triggered, writes ring and what follows. Whatever it cannot keep up with is dropped
//! and counted in the diagnostics; a disk that is full ends a recording and nothing else.

mod disk;
mod keeper;
mod outputs;
mod ring;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded, unbounded};

use super::args::Names;
use super::monitor::Report;
use super::raw::failed;
use crate::config::{ClassTable, NodeConfig};
use crate::msg::{CameraInfo, FrameStatus};
use crate::pipeline::{Planes, Prediction};
use crate::{Error, Result};
use keeper::Keeper;

/// Frames and statuses that wait for the thread; a frame of 1920x1080 is 20 MB.
const ROOM: usize = 8;

/// The node's end; nothing behind it when `record.directory` is empty.
pub(crate) struct Recorder {
    running: Option<Running>,
    trigger: Trigger,
}

struct Running {
    events: Sender<Event>,
    cameras: Vec<Camera>,
    /// Events that found no room.
    dropped: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

/// What a camera's last frame was, so that only changes are remarkable.
#[derive(Clone, Default)]
struct Camera {
    mode: String,
    obstacles: bool,
    refused: bool,
    bad_picture: bool,
}

/// Starts a recording, from any thread.
#[derive(Clone, Debug)]
pub(crate) struct Trigger(Option<Sender<&'static str>>);

/// What the thread hears of.
enum Event {
    Frame(usize, Box<Frame>),
    Status(usize, Box<FrameStatus>),
    Classes(ClassTable),
}

/// What came of a frame, its picture included, and the calibration that goes with it.
struct Frame {
    prediction: Prediction,
    calibration: Option<CameraInfo>,
}

/// How the recorder is, for the diagnostics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Recording {
    /// The bag being written.
    pub(crate) bag: Option<String>,
    /// Bags completed by this run.
    pub(crate) bags: u64,
    /// Frames and statuses that found no room, and are in no bag.
    pub(crate) dropped: u64,
    /// Why the last recording is missing or ended early.
    pub(crate) problem: Option<String>,
}

impl Recorder {
    /// Starts the thread, if bags are wanted.
    ///
    /// # Errors
    /// [`Error::Io`] for a directory that cannot be made, [`Error::Setting`] for a name that ROS does not
    /// allow, [`Error::Ros`] when no thread can be had.
    pub(crate) fn start(
        names: &Names,
        config: &NodeConfig,
        reports: Sender<Report>,
    ) -> Result<Self> {
        let record = &config.record;
        if record.directory.as_os_str().is_empty() {
            return Ok(Self { running: None, trigger: Trigger(None) });
        }
        std::fs::create_dir_all(&record.directory).map_err(Error::io(&record.directory))?;
        let (events, heard) = bounded(ROOM);
        let (pull, pulled) = unbounded();
        let keeper = Keeper::new(names, config)?;
        let dropped = Arc::new(AtomicU64::new(0));
        let mut teller = Teller { reports, dropped: dropped.clone(), told: None };
        let work = move || keeper.run(&heard, &pulled, |recording| teller.tell(recording));
        let thread = thread::Builder::new().name("recorder".into()).spawn(work);
        let thread = thread.map_err(failed(|| "thread of the recorder".into()))?;
        let cameras = vec![Camera::default(); config.cameras.len()];
        let running = Some(Running { events, cameras, dropped, thread });
        Ok(Self { running, trigger: Trigger(Some(pull)) })
    }

    /// What `~/record` pulls.
    pub(crate) fn trigger(&self) -> Trigger {
        self.trigger.clone()
    }

    /// The planes wanted by readers, and those that a bag holds.
    pub(crate) fn wants(&self, planes: Planes) -> Planes {
        if self.running.is_none() {
            return planes;
        }
        Planes { score: true, confidence: true, probability: true, rgb: true, obstacles: true }
    }

    /// The classes of the model from now on.
    pub(crate) fn set_classes(&mut self, classes: &ClassTable) {
        if let Some(running) = &mut self.running {
            running.send(Event::Classes(classes.clone()));
        }
    }

    /// What came of a frame.
    pub(crate) fn frame(
        &mut self,
        camera: usize,
        prediction: &Prediction,
        calibration: Option<&CameraInfo>,
    ) {
        let Some(running) = &mut self.running else { return };
        let now = prediction.obstacles.as_ref().is_some_and(|list| !list.is_empty());
        if now && !std::mem::replace(&mut running.cameras[camera].obstacles, now) {
            self.trigger.pull_quietly("obstacle");
        }
        running.cameras[camera].obstacles = now;
        if running.has_room() {
            let (prediction, calibration) = (prediction.clone(), calibration.cloned());
            running.send(Event::Frame(camera, Box::new(Frame { prediction, calibration })));
        }
    }

    /// The report on a frame.
    pub(crate) fn status(&mut self, camera: usize, status: &FrameStatus) {
        let Some(running) = &mut self.running else { return };
        let refused = status.state == FrameStatus::NO_DATA && status.reason != "disabled";
        let bad_picture = status.quality != 0;
        let last = &mut running.cameras[camera];
        let mode = std::mem::replace(&mut last.mode, status.mode.clone());
        if mode != status.mode && !mode.is_empty() && !status.mode.is_empty() {
            self.trigger.pull_quietly("mode");
        }
        for (now, before, cause) in
            [(refused, &mut last.refused, "fault"), (bad_picture, &mut last.bad_picture, "picture")]
        {
            if now && !std::mem::replace(before, now) {
                self.trigger.pull_quietly(cause);
            }
            *before = now;
        }
        running.send(Event::Status(camera, Box::new(status.clone())));
    }

    /// Finishes the bag at hand and waits for the thread.
    ///
    /// # Errors
    /// [`Error::Ros`] when it panicked.
    pub(crate) fn join(self) -> Result<()> {
        let Some(Running { events, dropped, thread, .. }) = self.running else { return Ok(()) };
        drop(events);
        let dropped = dropped.load(Ordering::Relaxed);
        if dropped > 0 {
            log::warn!("recorder: {dropped} frames and statuses found no room");
        }
        let panicked =
            |_payload| Error::Ros { what: "recorder".into(), problem: "it panicked".into() };
        thread.join().map_err(panicked)
    }
}

impl Running {
    /// Whether an event would be taken; one that is not is counted, before anything is copied for it.
    fn has_room(&self) -> bool {
        let room = !self.events.is_full();
        self.dropped.fetch_add(u64::from(!room), Ordering::Relaxed);
        room
    }

    fn send(&self, event: Event) {
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            self.events.try_send(event)
        {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Tells the diagnostics how the recorder is, whenever that changes.
struct Teller {
    reports: Sender<Report>,
    dropped: Arc<AtomicU64>,
    told: Option<Recording>,
}

impl Teller {
    fn tell(&mut self, recording: &Recording) {
        let dropped = self.dropped.load(Ordering::Relaxed);
        let now = Recording { dropped, ..recording.clone() };
        // No room: at the next tick.
        if self.told.as_ref() != Some(&now)
            && self.reports.try_send(Report::Recording(now.clone())).is_ok()
        {
            self.told = Some(now);
        }
    }
}

impl Trigger {
    /// Starts a recording, or goes on with the one at hand.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) fn pull(&self, cause: &'static str) -> Result<(), &'static str> {
        let Some(sender) = &self.0 else { return Err("record.directory is empty") };
        sender.send(cause).map_err(|_gone| "the recorder has ended")
    }

    fn pull_quietly(&self, cause: &'static str) {
        if let Err(problem) = self.pull(cause) {
            log::debug!("no recording of {cause}: {problem}");
        }
    }
}

/// How long the thread waits for events before it looks at the clock.
const TICK: Duration = Duration::from_millis(100);

impl Keeper {
    /// Keeps and writes until the node's end is gone.
    fn run(
        mut self,
        events: &Receiver<Event>,
        pulled: &Receiver<&'static str>,
        mut tell: impl FnMut(&Recording),
    ) {
        loop {
            let event = events.recv_timeout(TICK);
            let over = event.as_ref().is_err_and(|error| error.is_disconnected());
            match event {
                Ok(Event::Frame(camera, frame)) => self.frame(camera, &frame),
                Ok(Event::Status(camera, status)) => self.status(camera, &status),
                Ok(Event::Classes(classes)) => self.classes(classes),
                Err(_none) => {}
            }
            pulled.try_iter().for_each(|cause| self.start(cause));
            self.end_when_due(over);
            tell(&self.recording);
            if over {
                return;
            }
        }
    }
}
