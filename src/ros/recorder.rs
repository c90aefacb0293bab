//! Evidence: the seconds around something remarkable, as a bag.
//!
//! The node hands on what it published and goes on at once; a thread of its own compresses it into a ring
//! in memory and, once triggered, writes ring and what follows. Whatever it cannot keep up with is dropped
//! and counted; a disk that is full ends a recording and nothing else.

mod keeper;

use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded, unbounded};

use super::args::Names;
use super::raw::failed;
use crate::config::NodeConfig;
use crate::msg::{FrameStatus, Header};
use crate::obstacle::{self, Obstacle};
use crate::pipeline::{Planes, Prediction};
use crate::{Error, Result};
use keeper::Keeper;

/// Frames that wait for the thread, which is a second's worth of one camera.
const ROOM: usize = 8;

/// The node's end; nothing behind it when `record.directory` is empty.
pub(crate) struct Recorder {
    running: Option<Running>,
    trigger: Trigger,
}

struct Running {
    events: Sender<Event>,
    cameras: Vec<Camera>,
    dropped: u64,
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
}

/// A frame's picture and what came of it.
struct Frame {
    header: Header,
    height: usize,
    width: usize,
    rgb: Option<Vec<u8>>,
    classes: Vec<u8>,
    ood_mask: Vec<u8>,
    probability: Option<Vec<u8>>,
    obstacles: Vec<Obstacle>,
}

impl Recorder {
    /// Starts the thread, if bags are wanted.
    ///
    /// # Errors
    /// [`Error::Io`] for a directory that cannot be made, [`Error::Setting`] for a name that ROS does not
    /// allow, [`Error::Ros`] when no thread can be had.
    pub(crate) fn start(names: &Names, config: &NodeConfig) -> Result<Self> {
        let record = &config.record;
        if record.directory.as_os_str().is_empty() {
            return Ok(Self { running: None, trigger: Trigger(None) });
        }
        std::fs::create_dir_all(&record.directory).map_err(Error::io(&record.directory))?;
        let (events, heard) = bounded(ROOM);
        let (pull, pulled) = unbounded();
        let keeper = Keeper::new(names, config)?;
        let work = move || keeper.run(&heard, &pulled);
        let thread = thread::Builder::new().name("recorder".into()).spawn(work);
        let thread = thread.map_err(failed(|| "thread of the recorder".into()))?;
        let cameras = vec![Camera::default(); config.cameras.len()];
        let running = Some(Running { events, cameras, dropped: 0, thread });
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
        Planes { rgb: true, probability: true, obstacles: true, ..planes }
    }

    /// What came of a frame.
    pub(crate) fn frame(&mut self, camera: usize, prediction: &Prediction) {
        let Some(running) = &mut self.running else { return };
        let obstacles = prediction.obstacles.clone().unwrap_or_default();
        let now = !obstacles.is_empty();
        if now && !std::mem::replace(&mut running.cameras[camera].obstacles, now) {
            self.trigger.pull_quietly("obstacle");
        }
        running.cameras[camera].obstacles = now;
        running.send(Event::Frame(
            camera,
            Box::new(Frame {
                header: prediction.header.clone(),
                height: prediction.height,
                width: prediction.width,
                rgb: prediction.rgb.clone(),
                classes: prediction.classes.clone(),
                ood_mask: prediction.ood_mask.clone(),
                probability: prediction.probability.clone(),
                obstacles,
            }),
        ));
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
        if dropped > 0 {
            log::warn!("recorder: {dropped} frames and statuses found no room");
        }
        let panicked =
            |_payload| Error::Ros { what: "recorder".into(), problem: "it panicked".into() };
        thread.join().map_err(panicked)
    }
}

impl Running {
    fn send(&mut self, event: Event) {
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            self.events.try_send(event)
        {
            self.dropped += 1;
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
    fn run(mut self, events: &Receiver<Event>, pulled: &Receiver<&'static str>) {
        loop {
            let event = events.recv_timeout(TICK);
            let over = event.as_ref().is_err_and(|error| error.is_disconnected());
            match event {
                Ok(Event::Frame(camera, frame)) => self.frame(camera, &frame),
                Ok(Event::Status(camera, status)) => self.status(camera, &status),
                Err(_none) => {}
            }
            pulled.try_iter().for_each(|cause| self.start(cause));
            self.end_when_due(over);
            if over {
                return;
            }
        }
    }

    fn frame(&mut self, camera: usize, frame: &Frame) {
        let Frame { header, height, width, .. } = frame;
        let size = (*height, *width);
        if let Some(rgb) = &frame.rgb {
            self.jpeg(camera, header, size, rgb);
        }
        self.png(camera, keeper::SEMANTIC, header, (size, &frame.classes));
        self.png(camera, keeper::OOD, header, (size, &frame.ood_mask));
        if let Some(probability) = &frame.probability {
            self.png(camera, keeper::PROBABILITY, header, (size, probability));
        }
        let detections = obstacle::detections(&frame.obstacles, header);
        self.keep(camera, keeper::DETECTIONS, &detections);
    }

    fn status(&mut self, camera: usize, status: &FrameStatus) {
        self.keep(camera, keeper::STATUS, status);
    }
}
