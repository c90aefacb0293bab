//! The thread that speaks for the node: `~/heartbeat`, `/diagnostics`, latency topics, `/statistics`,
//! `/rosout`.
//!
//! It hears of the others through a channel, so that neither a frame in the network nor a camera that
//! sends nothing keeps it from speaking.

use std::collections::BTreeSet;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, never, select, tick};
use ros2_client::Publisher;

use super::args::Names;
use super::clock::Followed;
use super::context::Participant;
use super::diagnostics::{Health, Input, Transport, processing_ms};
use super::drops::Drops;
use super::graph::Graph;
use super::heartbeat::Heartbeat;
use super::raw::{failed, receive_buffer_limit};
use super::recorder::Recording;
use super::rosout::Line;
use super::statistics::{Statistics, Window};
use crate::msg::{
    DIAGNOSTIC_ARRAY, DiagnosticArray, FLOAT64_STAMPED, Float64Stamped, FrameStatus, Header, Log,
    Stamp,
};
use crate::quality::Quality;
use crate::supervisor::{Phase, Pulse, Watch};
use crate::{Error, Result};

/// What another thread tells, with the index of the camera if it is about one.
#[derive(Debug)]
pub(crate) enum Report {
    /// How a camera's input is.
    Input(usize, Input),
    /// What became of a camera's frame.
    Frame(usize, FrameStatus),
    /// What runs where; empty while there is no model.
    Model(Vec<(String, String)>),
    /// What is known of `/clock`, while it is followed.
    Clock(Option<Followed>),
    /// What came of a self-test, without a camera.
    SelfTest(Result<(), String>),
    /// What was seen of a camera's picture; nothing when it was not looked at.
    Quality(usize, Option<Quality>),
    /// A second of a camera's images, where statistics are kept.
    Statistics(usize, Window),
    /// How the evidence recorder is, where there is one.
    Recording(Recording),
}

/// Reports that wait; when there is no room one is lost, and the next of its kind replaces it.
pub(crate) const ROOM: usize = 1024;

/// The running thread.
pub(crate) struct Monitor(JoinHandle<()>);

/// What lives on it.
struct Speaker {
    node: String,
    health: Health,
    watch: Watch,
    pulse: Pulse,
    heartbeat: Heartbeat,
    diagnostics: Publisher<DiagnosticArray>,
    rosout: Publisher<Log>,
    latencies: Vec<Latency>,
    /// None where they are not asked for.
    statistics: Option<Statistics>,
    graph: Graph,
    read: BTreeSet<String>,
    unserved: Vec<String>,
    drops: Drops,
    lost_lines: u64,
    spoke: Option<Instant>,
}

/// A number of every frame as a topic.
struct Latency {
    topic: String,
    publisher: Publisher<Float64Stamped>,
    of: Measure,
}

/// Milliseconds of a frame.
type Measure = fn(&FrameStatus) -> f32;

/// RustDDS sends from a thread of its own, and forgets what it has not sent when the writer goes.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// How often levels are looked at.
const TICK: Duration = Duration::from_millis(100);
/// How often they are published when none changes.
const PERIOD: Duration = Duration::from_secs(1);

/// Autoware's names of the latency topics.
const LATENCIES: [(&str, Measure); 5] = [
    ("~/debug/processing_time_ms", processing_ms),
    ("~/debug/pipeline_latency_ms", |status| status.latency_ms),
    ("~/debug/processing_time/preprocess_ms", |status| status.preprocess_ms),
    ("~/debug/processing_time/inference_ms", |status| status.inference_ms),
    ("~/debug/processing_time/postprocess_ms", |status| status.postprocess_ms),
];

impl Monitor {
    /// Publishes on `participant`, which must live longer; ends when all senders of reports are gone.
    ///
    /// # Errors
    /// [`Error::Ros`], [`Error::Setting`] for a remapped name that ROS does not allow.
    pub(crate) fn start(
        participant: &mut Participant,
        names: &Names,
        (health, watch, run_id, statistics): (Health, Watch, u32, Option<Statistics>),
        reports: Receiver<Report>,
        log: Receiver<Line>,
    ) -> Result<Self> {
        let mut latency = |&(name, of): &(&str, _)| {
            let topic = names.topic(name)?;
            let publisher = participant.publish(&topic, FLOAT64_STAMPED, (true, false))?;
            Ok(Latency { topic, publisher, of })
        };
        let latencies = LATENCIES.iter().map(&mut latency).collect::<Result<_>>()?;
        let topic = names.topic("/diagnostics")?;
        let speaker = Speaker {
            node: names.node_name(),
            health,
            pulse: watch.pulse("monitor"),
            watch,
            heartbeat: Heartbeat::new(participant, names, run_id)?,
            diagnostics: participant.publish(&topic, DIAGNOSTIC_ARRAY, (true, false))?,
            rosout: participant.publish_log(&names.topic("/rosout")?)?,
            latencies,
            statistics,
            graph: participant.graph(),
            read: BTreeSet::new(),
            unserved: Vec::new(),
            drops: Drops::default(),
            lost_lines: 0,
            spoke: None,
        };
        let thread = thread::Builder::new().name("monitor".into());
        let thread = thread.spawn(move || speaker.run(&reports, log));
        Ok(Self(thread.map_err(failed(|| "thread of the diagnostics".into()))?))
    }

    /// Waits for the thread's end.
    ///
    /// # Errors
    /// [`Error::Ros`] when it panicked.
    pub(crate) fn join(self) -> Result<()> {
        let panicked =
            |_payload| Error::Ros { what: "diagnostics".into(), problem: "it panicked".into() };
        self.0.join().map_err(panicked)
    }
}

impl Speaker {
    fn run(mut self, reports: &Receiver<Report>, mut log: Receiver<Line>) {
        let tick = tick(TICK);
        loop {
            select! {
                recv(reports) -> report => match report {
                    Ok(report) => self.hear(report),
                    Err(_all_gone) => break,
                },
                recv(log) -> line => match line {
                    Ok(line) => self.say(line),
                    Err(_gone) => log = never(),
                },
                recv(tick) -> _ => self.tick(Instant::now()),
            }
        }
        self.tick(Instant::now());
        log.try_iter().for_each(|line| self.say(line));
        thread::sleep(LAST_WORDS);
    }

    fn hear(&mut self, report: Report) {
        match report {
            Report::Input(camera, input) => self.health.input(camera, input, Instant::now()),
            Report::Model(model) => self.health.model(model),
            Report::Clock(clock) => self.health.clock(clock),
            Report::Statistics(camera, window) => {
                let sim_time = self.health.follows_clock();
                if let Some(statistics) = &self.statistics
                    && self.read.contains(statistics.topic())
                {
                    statistics.publish(camera, &window, sim_time);
                }
            }
            Report::SelfTest(result) => self.health.self_test(result),
            Report::Quality(camera, quality) => self.health.quality(camera, quality),
            Report::Recording(recording) => self.health.recording(recording, Instant::now()),
            Report::Frame(camera, status) => {
                for Latency { topic, publisher, of } in &self.latencies {
                    let data = f64::from(of(&status));
                    if self.read.contains(topic) && data.is_finite() {
                        let stamp = status.header.stamp;
                        warn(topic, publisher.publish(Float64Stamped { stamp, data }));
                    }
                }
                self.health.frame(camera, status, Instant::now());
            }
        }
    }

    fn say(&mut self, line: Line) {
        self.lost_lines = line.lost;
        // In silence: a word about it would be the next line to fail.
        if self.rosout.publish(line.log).is_err() {
            self.lost_lines += 1;
        }
    }

    fn tick(&mut self, now: Instant) {
        self.pulse.beat();
        self.health.process(&self.watch);
        self.read = self.graph.read_topics().into_iter().map(|(topic, _)| topic).collect();
        let due = self.spoke.is_none_or(|spoke| now.duration_since(spoke) >= PERIOD);
        if due {
            let transport = self.transport();
            self.health.transport(transport, now);
        }
        let (status, changed) = self.health.statuses(now);
        self.heartbeat.beat(&status, self.watch.phase() == Phase::Stopping);
        if due || changed {
            self.spoke = Some(now);
            let header = Header { stamp: Stamp::now(), frame_id: String::new() };
            warn("/diagnostics", self.diagnostics.publish(DiagnosticArray { header, status }));
        }
    }

    /// What the kernel and discovery know now; a reader that gets nothing and another
    /// publisher of an output are logged once.
    fn transport(&mut self) -> Transport {
        let mut unserved = self.graph.unserved();
        unserved.extend(self.graph.conflicts());
        if self.graph.namesake(&self.node).is_some() {
            unserved.push(format!(
                "duplicate_node: there is another {}; stop or rename one",
                self.node
            ));
        }
        let new = unserved.iter().filter(|sentence| !self.unserved.contains(sentence));
        new.for_each(|sentence| log::warn!("{sentence}"));
        self.unserved.clone_from(&unserved);
        Transport {
            unserved,
            buffer_limit: receive_buffer_limit().map_or(u64::MAX, |bytes| bytes as u64),
            kernel_drops: self.drops.count(),
            lost_lines: self.lost_lines,
        }
    }
}

/// Says why a message was not written, unless the next one makes up for it.
pub(super) fn warn<M>(topic: &str, written: Result<(), ros2_client::WriteError<M>>) {
    match written {
        // A reader that stopped acknowledging; the next message is the one that counts.
        Ok(()) | Err(ros2_client::WriteError::WouldBlock { .. }) => {}
        Err(error) => log::warn!("{topic}: {error}"),
    }
}
