//! What is well and what is not: reports of the other threads in, `diagnostic_msgs` statuses out.
//!
//! Camera states are those of Autoware's camera_streampetr, plus `no_publisher` and `qos_mismatch`.

mod gpu;
mod quality;
mod recorder;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::clock::{self, Followed};
use super::finding::{Finding, ms, or_na, since, value};
use super::rate::Pace;
use super::raw::{needed, receive_buffer};
use super::recorder::Recording;
use super::stream::Stream;
use super::writers::SeveralWriters;
use crate::config::NodeConfig;
use crate::msg::{DiagnosticStatus, DiagnosticStatus as Level, FrameStatus, KeyValue};
use crate::quality::Quality;
use crate::supervisor::Watch;

/// What a camera's thread knows, sent every 100 ms.
#[derive(Clone, Debug, Default)]
pub(crate) struct Input {
    /// Absolute name of the topic that is read.
    pub(crate) topic: String,
    /// Whether reliability was asked for.
    pub(crate) reliable: bool,
    /// Known publishers of the topic.
    pub(crate) publishers: usize,
    /// Why none of them matches, with the fix.
    pub(crate) mismatch: Option<String>,
    /// Messages so far.
    pub(crate) received: u64,
    /// Those that a newer one replaced unread.
    pub(crate) dropped: u64,
    /// Those that a publisher sent and that never came, whole.
    pub(crate) lost: u64,
    /// Bytes of the largest one.
    pub(crate) largest: u64,
    /// When the last one came.
    pub(crate) newest: Option<Instant>,
    /// How regularly they come.
    pub(crate) pace: Option<Pace>,
    /// More than one publisher was heard of late.
    pub(crate) several: Option<SeveralWriters>,
    /// Messages that were left out because they are another publisher's.
    pub(crate) other_writers: u64,
    /// DDS participants after the first.
    pub(crate) rebuilds: u64,
}

/// What the kernel and the graph know, looked up every second.
#[derive(Clone, Debug, Default)]
pub(crate) struct Transport {
    /// A sentence for each output with a reader that asks for more than is offered, or that somebody
    /// else publishes too.
    pub(crate) unserved: Vec<String>,
    /// The most bytes that the kernel grants to a socket.
    pub(crate) buffer_limit: u64,
    /// Datagrams that found no room in the node's sockets.
    pub(crate) kernel_drops: u64,
    /// Log lines that found none.
    pub(crate) lost_lines: u64,
}

/// Everything known, and the levels shown.
pub(crate) struct Health {
    node: String,
    stale_after: Duration,
    budget_ms: f32,
    model: Vec<(String, String)>,
    cameras: Vec<Camera>,
    /// End and processing time in ms of the frames of the last [`WINDOW`].
    times: VecDeque<(Instant, f32)>,
    last: Option<FrameStatus>,
    late: u64,
    /// From when to when every frame was late.
    over_budget: Option<(Instant, Instant)>,
    transport: Transport,
    clock: Option<Followed>,
    process: Process,
    /// Self-tests passed, and what was wrong in the last one.
    tests: (u64, Option<String>),
    /// That of the last frame of any camera, and that of the parameters.
    mode: String,
    plan: String,
    /// A GPU is hoped for.
    auto: bool,
    dropping: Option<Instant>,
    /// With the time of the last drop; none where nothing is recorded.
    recording: Option<(Recording, Option<Instant>)>,
    /// None without NVML.
    gpu: Option<gpu::Gpu>,
    shown: BTreeMap<String, Shown>,
}

/// What the supervisor knows.
#[derive(Default)]
struct Process {
    hung: bool,
    /// Resident memory and its ceiling, MB.
    memory: [u64; 2],
    rebuilds: u64,
}

/// One camera.
#[derive(Default)]
struct Camera {
    name: String,
    nominal_hz: f64,
    input: Input,
    /// Since when there are publishers and nothing comes.
    waiting: Option<Instant>,
    stream: Stream,
    last: Option<FrameStatus>,
    quality: Option<Quality>,
    refused: BTreeMap<String, u64>,
    /// When masks went out in the last [`WINDOW`].
    published: VecDeque<Instant>,
    last_published: Option<Instant>,
    /// Received and dropped over the last [`WINDOW`].
    flow: VecDeque<(Instant, [u64; 2])>,
    odd: Option<Odd>,
}

/// Since when a camera's masks say the same, everything or nothing, of pictures that differ.
#[derive(Clone, Copy)]
struct Odd {
    since: Instant,
    until: Instant,
    first: u32,
    differs: bool,
}

/// A level with its memory.
#[derive(Clone, Copy, Debug)]
struct Shown {
    level: u8,
    last_bad: Option<Instant>,
}

impl Camera {
    /// Share of the messages of the last [`WINDOW`] that a newer one replaced unread.
    fn drop_ratio(&self) -> f32 {
        let (Some((_, first)), Some((_, last))) = (self.flow.front(), self.flow.back()) else {
            return 0.0;
        };
        let [received, dropped] = [0, 1].map(|i| last[i].saturating_sub(first[i]));
        if received < FEW { 0.0 } else { dropped as f32 / received as f32 }
    }

    fn observe(&mut self, status: &FrameStatus, now: Instant) {
        let share = status.ood_fraction;
        let odd = status.state == FrameStatus::OK && (share == 0.0 || share > SATURATED);
        let first = status.mask_crc32;
        let new = Odd { since: now, until: now, first, differs: false };
        self.odd = odd.then(|| {
            let before = self.odd.unwrap_or(new);
            Odd { until: now, differs: before.differs || before.first != first, ..before }
        });
    }

    /// What is odd about this camera's masks, if it has been for long.
    fn oddity(&self) -> Option<String> {
        let Odd { since, until, differs, .. } = self.odd?;
        let share = self.last.as_ref()?.ood_fraction;
        (differs && until - since >= ODD_AFTER).then(|| {
            let (name, seconds) = (&self.name, ODD_AFTER.as_secs());
            let share = share * 100.0;
            format!("{name}: {share:.0} % of the pixels above ood_threshold for over {seconds} s")
        })
    }
}

fn dropping(ratio: f32) -> String {
    let percent = ratio * 100.0;
    format!("{percent:.0} % of the images are replaced by newer ones; max_rate_hz leaves them out")
}

/// Rates and percentiles are over this long.
const WINDOW: Duration = Duration::from_secs(10);
/// A level returns to OK when it was for this long.
const CLEAN: Duration = Duration::from_secs(2);
/// Publishers of which nothing came are an error after this long.
const MUTE: Duration = Duration::from_secs(5);
/// Frames over the budget, or an active camera without masks, are an error after this long.
const PATIENCE: Duration = Duration::from_secs(1);

/// Shares of dropped images that are a warning and an error.
const DROPPING: [f32; 2] = [0.05, 0.2];
/// Fewer messages say nothing about a share.
const FEW: u64 = 20;
/// A larger share of unknown pixels is not believed for long, and neither is none at all.
const SATURATED: f32 = 0.6;
/// How long.
const ODD_AFTER: Duration = Duration::from_secs(60);

impl Health {
    /// `node` goes before the name of each status, `model` is shown as it is.
    pub(crate) fn new(node: String, config: &NodeConfig, model: Vec<(String, String)>) -> Self {
        let camera = |name: &String| {
            let input = Input { topic: format!("{name}/image_raw"), ..Input::default() };
            let nominal_hz = config.of_camera(name).nominal_rate_hz;
            let nominal_hz = nominal_hz.unwrap_or(config.nominal_rate_hz);
            Camera { name: name.clone(), nominal_hz, input, ..Camera::default() }
        };
        Self {
            node,
            stale_after: Duration::from_millis(config.stale_after_ms.into()),
            budget_ms: config.budget_ms as f32,
            cameras: config.cameras.iter().map(camera).collect(),
            times: VecDeque::new(),
            last: None,
            late: 0,
            over_budget: None,
            transport: Transport::default(),
            clock: None,
            process: Process::default(),
            tests: (0, None),
            mode: String::new(),
            plan: config.plan.clone(),
            auto: config.model.device == "auto",
            dropping: None,
            recording: None,
            gpu: gpu::Gpu::of(&model, Instant::now()),
            shown: BTreeMap::new(),
            model,
        }
    }

    /// What the supervisor knows now.
    pub(crate) fn process(&mut self, watch: &Watch) {
        let (hung, memory, rebuilds) = (watch.hung(), watch.memory_mb(), watch.rebuilds());
        self.process = Process { hung, memory, rebuilds };
    }

    /// What came of a self-test; a node that failed one ends.
    pub(crate) fn self_test(&mut self, result: Result<(), String>) {
        match result {
            Ok(()) => self.tests.0 += 1,
            Err(problem) => self.tests.1 = Some(problem),
        }
    }

    pub(crate) fn input(&mut self, camera: usize, input: Input, now: Instant) {
        let camera = &mut self.cameras[camera];
        let waits = input.publishers > 0 && input.newest.is_none();
        camera.waiting = waits.then(|| camera.waiting.unwrap_or(now));
        camera.flow.push_back((now, [input.received, input.dropped]));
        camera.input = input;
    }

    /// What runs where; empty while there is no model.
    pub(crate) fn model(&mut self, model: Vec<(String, String)>) {
        self.gpu = gpu::Gpu::of(&model, Instant::now());
        self.model = model;
    }

    /// What is known of `/clock`; `None` where it is not followed.
    pub(crate) fn clock(&mut self, clock: Option<Followed>) {
        self.clock = clock;
    }

    /// Whether the time is that of `/clock`.
    pub(crate) fn follows_clock(&self) -> bool {
        self.clock.is_some()
    }

    pub(crate) fn transport(&mut self, transport: Transport, now: Instant) {
        if transport.kernel_drops > self.transport.kernel_drops {
            self.dropping = Some(now);
        }
        self.transport = transport;
    }

    /// What became of a camera's frame; `now` is its end.
    pub(crate) fn frame(&mut self, camera: usize, status: FrameStatus, now: Instant) {
        let camera = &mut self.cameras[camera];
        camera.observe(&status, now);
        camera.stream.frame(&status, now);
        if status.state == FrameStatus::OK {
            camera.published.push_back(now);
            camera.last_published = Some(now);
            let took = processing_ms(&status);
            self.times.push_back((now, took));
            self.last = Some(status.clone());
            if took > self.budget_ms {
                self.late += 1;
                let over = Duration::from_secs_f32((took - self.budget_ms) / 1e3);
                let since = self.over_budget.map(|(since, _)| since);
                let since = since.or(now.checked_sub(over)).unwrap_or(now);
                self.over_budget = Some((since, now));
            } else {
                self.over_budget = None;
            }
        } else {
            *camera.refused.entry(status.reason.clone()).or_default() += 1;
        }
        self.mode.clone_from(&status.mode);
        camera.last = Some(status);
    }

    /// A status for everything, and whether a level is another than at the last call.
    pub(crate) fn statuses(&mut self, now: Instant) -> (Vec<DiagnosticStatus>, bool) {
        self.forget(now);
        let input = |c: &Camera| (format!("input/{}", c.name), self.camera(c, now));
        let mut findings: Vec<_> = self.cameras.iter().map(input).collect();
        let quality = |c: &Camera| (format!("image_quality/{}", c.name), c.image_quality());
        findings.extend(self.cameras.iter().map(quality));
        findings.push(("inference".into(), self.inference()));
        findings.push(("output".into(), self.output(now)));
        findings.push(("model".into(), self.model_finding()));
        findings.push(("process".into(), self.process_finding()));
        findings.push(("dds".into(), self.dds(now)));
        findings.push(("clock".into(), clock::finding(self.clock, now)));
        let gpu = self.gpu.as_mut().map(|gpu| gpu.finding(now));
        self.gpu.take_if(|_| matches!(gpu, Some(None)));
        findings.extend(gpu.flatten().map(|finding| ("gpu".into(), finding)));
        findings.extend(self.recorder_finding(now).map(|finding| ("recorder".into(), finding)));
        let mut changed = false;
        let mut status = |(name, finding): (String, Finding)| {
            let first = Shown { level: u8::MAX, last_bad: None };
            let shown = self.shown.entry(name.clone()).or_insert(first);
            changed |= shown.settle(finding.level, now);
            DiagnosticStatus {
                level: shown.level,
                name: format!("{}: {name}", self.node),
                message: finding.message,
                hardware_id: self.node.clone(),
                values: finding
                    .values
                    .into_iter()
                    .map(|(key, value)| KeyValue { key, value })
                    .collect(),
            }
        };
        let statuses = findings.into_iter().map(&mut status).collect();
        (statuses, changed)
    }

    fn forget(&mut self, now: Instant) {
        let recent = |time: Instant| now.duration_since(time) <= WINDOW;
        while self.times.pop_front_if(|(time, _)| !recent(*time)).is_some() {}
        for camera in &mut self.cameras {
            while camera.published.pop_front_if(|time| !recent(*time)).is_some() {}
            while camera.flow.pop_front_if(|(time, _)| !recent(*time)).is_some() {}
        }
    }

    /// State of a camera, most specific cause first.
    fn state(&self, camera: &Camera, now: Instant) -> (&'static str, u8, String) {
        let input = &camera.input;
        let refused = camera.last.as_ref().filter(|status| status.state != FrameStatus::OK);
        let age = input.newest.map(|newest| now.duration_since(newest));
        let waited = camera.waiting.is_some_and(|since| now.duration_since(since) >= MUTE);
        let mute = if waited { Level::ERROR } else { Level::WARN };
        let odd = || camera.stream.oddity(input.pace, camera.nominal_hz, now);
        match (refused, &input.mismatch, age) {
            (Some(status), ..) => {
                let level = camera.stream.severity(&status.reason);
                ("rejected", level, format!("{}: {}", status.reason, status.text))
            }
            _ if input.publishers == 0 => {
                ("no_publisher", Level::WARN, format!("nobody publishes {}", input.topic))
            }
            (_, Some(mismatch), _) => ("qos_mismatch", mute, mismatch.clone()),
            (.., None) if waited => {
                let what = "it has a publisher, and no data comes: check reliability, durability, \
                            socket buffers and network";
                ("waiting_image", mute, format!("{}: {what}", input.topic))
            }
            (.., None) => ("waiting_image", mute, format!("nothing came yet on {}", input.topic)),
            (.., Some(age)) if age > self.stale_after => {
                ("stale", Level::ERROR, format!("the newest image came {} ms ago", age.as_millis()))
            }
            _ => match (camera.drop_ratio(), &input.several, odd()) {
                (ratio, ..) if ratio > DROPPING[1] => ("dropping", Level::ERROR, dropping(ratio)),
                (ratio, ..) if ratio > DROPPING[0] => ("dropping", Level::WARN, dropping(ratio)),
                (_, Some(several), _) => ("active", Level::WARN, several.to_string()),
                (.., Some(odd)) => ("active", Level::WARN, odd),
                _ => ("active", Level::OK, "active".into()),
            },
        }
    }

    fn camera(&self, camera: &Camera, now: Instant) -> Finding {
        let (state, level, message) = self.state(camera, now);
        let input = &camera.input;
        let size = camera.last.as_ref().filter(|last| last.height > 0);
        let mut values = vec![
            value("state", &state),
            value("topic", &input.topic),
            value("reliability", &if input.reliable { "reliable" } else { "best_effort" }),
            value("publishers", &input.publishers),
            value("image_age_ms", &since(input.newest, now)),
            value("size", &or_na(size.map(|last| format!("{}x{}", last.width, last.height)))),
            value("received", &input.received),
            value("dropped", &input.dropped),
            value("drop_ratio", &format!("{:.2}", camera.drop_ratio())),
            value("lost_in_transport", &input.lost),
            value("other_writers", &input.other_writers),
        ];
        values.extend(camera.stream.values(input.pace));
        let refused = camera.refused.iter();
        values.extend(refused.map(|(reason, count)| value(&format!("rejected/{reason}"), &count)));
        Finding::new(level, message, values)
    }

    fn inference(&self) -> Finding {
        let mut times: Vec<f32> = self.times.iter().map(|(_, took)| *took).collect();
        times.sort_by(f32::total_cmp);
        let failed = self.cameras.iter().filter_map(|camera| camera.last.as_ref());
        let mut failed = failed.filter(|last| ["inference", "not_finite"].contains(&&*last.reason));
        let last = self.last.as_ref();
        let (level, message) = match (failed.next(), self.over_budget, last) {
            (Some(failed), ..) => (Level::ERROR, format!("{}: {}", failed.camera, failed.text)),
            (_, Some((since, until)), _) => {
                let level = if until - since >= PATIENCE { Level::ERROR } else { Level::WARN };
                (level, format!("frames take longer than budget_ms = {}", self.budget_ms))
            }
            _ if self.mode().is_some_and(|mode| mode != self.plan) => {
                let mode = self.mode().unwrap_or_default();
                (Level::WARN, format!("degraded to {mode}: {} took too long", self.plan))
            }
            (.., Some(_)) => (Level::OK, "within the budget".into()),
            (.., None) => (Level::OK, "no frame yet".into()),
        };
        let of_last = |part: fn(&FrameStatus) -> f32| ms(last.map(part));
        let values = vec![
            value("processing_ms", &of_last(processing_ms)),
            value("decode_ms", &of_last(|last| last.decode_ms)),
            value("preprocess_ms", &of_last(|last| last.preprocess_ms)),
            value("inference_ms", &of_last(|last| last.inference_ms)),
            value("postprocess_ms", &of_last(|last| last.postprocess_ms)),
            value("processing_p50_ms", &ms(percentile(&times, 50))),
            value("processing_p95_ms", &ms(percentile(&times, 95))),
            value("processing_p99_ms", &ms(percentile(&times, 99))),
            value("frames_in_window", &times.len()),
            value("window_s", &WINDOW.as_secs()),
            value("budget_ms", &self.budget_ms),
            value("late_frames", &self.late),
            value("mode", &or_na(self.mode())),
            value("ood_threshold", &or_na(last.map(|last| last.ood_threshold))),
        ];
        Finding::new(level, message, values)
    }

    /// The mode of the last frame of any camera.
    fn mode(&self) -> Option<&str> {
        Some(self.mode.as_str()).filter(|mode| !mode.is_empty())
    }

    fn output(&self, now: Instant) -> Finding {
        let silent = |camera: &&Camera| {
            let active = ["active", "dropping"].contains(&self.state(camera, now).0);
            active && camera.last_published.is_some_and(|last| now - last > PATIENCE)
        };
        let silent: Vec<_> = self.cameras.iter().filter(silent).map(|c| c.name.clone()).collect();
        let (level, message) = match (&silent[..], &self.transport.unserved[..]) {
            ([], []) => (Level::OK, "all subscribers are served".into()),
            ([], unserved) => (Level::WARN, unserved.join("; ")),
            (silent, _) => {
                let after = PATIENCE.as_secs();
                let names = silent.join(", ");
                (Level::ERROR, format!("images come, but no masks for over {after} s: {names}"))
            }
        };
        let mut values = Vec::new();
        for camera in &self.cameras {
            let mut add = |key, text| values.push((format!("{}/{key}", camera.name), text));
            let latency = camera.last.as_ref().filter(|last| last.state == FrameStatus::OK);
            let latency = latency.map(|last| last.latency_ms).filter(|age| age.is_finite());
            let rate = camera.published.len() as f64 / WINDOW.as_secs_f64();
            add("rate_hz", or_na(camera.last_published.map(|_| format!("{rate:.1}"))));
            add("latency_ms", ms(latency));
            add("since_publication_ms", since(camera.last_published, now));
        }
        Finding::new(level, message, values)
    }

    fn model_finding(&self) -> Finding {
        let is_cpu = |(key, value): &(String, String)| key == "device" && value == "Cpu";
        let (level, message) = match &self.tests.1 {
            Some(problem) => (Level::ERROR, problem.clone()),
            None if self.model.is_empty() => (Level::OK, "not loaded: unconfigured".into()),
            None if self.auto && self.model.iter().any(is_cpu) => {
                let wish = "no GPU: running on the CPU; model.device: cpu says that it is meant";
                (Level::ERROR, wish.into())
            }
            None => match self.cameras.iter().find_map(Camera::oddity) {
                Some(oddity) => (Level::WARN, oddity),
                None => (Level::OK, "loaded".into()),
            },
        };
        let mut values = self.model.clone();
        values.push(value("self_tests_passed", &self.tests.0));
        Finding::new(level, message, values)
    }

    fn process_finding(&self) -> Finding {
        let Process { hung, memory: [resident, ceiling], rebuilds } = self.process;
        let (level, message) = match hung {
            true => (Level::ERROR, "something hangs: this process ends, to be started again"),
            false if ceiling > 0 && resident > ceiling / 10 * 9 => {
                (Level::WARN, "memory is near memory_limit_mb")
            }
            false => (Level::OK, "alive"),
        };
        let limit = (ceiling > 0).then_some(ceiling);
        let values = vec![
            value("resident_mb", &resident),
            value("memory_limit_mb", &or_na(limit)),
            value("rebuilds_for_memory_or_network", &rebuilds),
        ];
        Finding::new(level, message, values)
    }

    fn dds(&self, now: Instant) -> Finding {
        let Transport { buffer_limit, kernel_drops, lost_lines, .. } = self.transport;
        let largest = self.cameras.iter().map(|camera| camera.input.largest).max();
        let largest = largest.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or_default();
        let asked = receive_buffer(largest) as u64;
        let wanted = if largest > 0 { needed(largest) as u64 } else { asked };
        let granted = buffer_limit.min(asked);
        let total = |count: fn(&Input) -> u64| self.cameras.iter().map(|c| count(&c.input)).sum();
        let (rebuilds, dropped): (u64, u64) = (total(|i| i.rebuilds), total(|i| i.dropped));
        let mut values = vec![
            value("rebuilds", &rebuilds),
            value("receive_buffer_bytes", &granted),
            value("receive_buffer_asked_bytes", &asked),
            value("receive_buffer_needed_bytes", &wanted),
            value("udp_receive_buffer_errors", &kernel_drops),
            value("log_lines_lost", &lost_lines),
            value("drops/replaced_by_newer", &dropped),
        ];
        let mut refused = BTreeMap::<&String, u64>::new();
        for (reason, count) in self.cameras.iter().flat_map(|camera| &camera.refused) {
            *refused.entry(reason).or_default() += count;
        }
        let refused = refused.into_iter();
        values.extend(refused.map(|(reason, count)| value(&format!("drops/{reason}"), &count)));
        let dropping = self.dropping.is_some_and(|last| now.duration_since(last) < WINDOW);
        let (level, message) = match dropping {
            false => (Level::OK, "no datagram is lost for want of room".into()),
            true if granted < wanted => {
                let remedy = format!("sudo sysctl -w net.core.rmem_max={asked}");
                (Level::WARN, format!("the node's sockets lose datagrams: {remedy}"))
            }
            true => (Level::WARN, "the node's sockets are full and lose datagrams".into()),
        };
        Finding::new(level, message, values)
    }
}

impl Shown {
    /// Worse, or less bad, at once; back to OK after a clean while. True when the level changed.
    fn settle(&mut self, level: u8, now: Instant) -> bool {
        let before = self.level;
        if level > Level::OK {
            (self.level, self.last_bad) = (level, Some(now));
        } else if self.last_bad.is_none_or(|last| now.duration_since(last) >= CLEAN) {
            self.level = Level::OK;
        }
        self.level != before
    }
}

/// Decoding, preprocessing, network and postprocessing of a frame.
pub(crate) fn processing_ms(status: &FrameStatus) -> f32 {
    status.decode_ms + status.preprocess_ms + status.inference_ms + status.postprocess_ms
}

/// The smallest of the sorted numbers that `percent` of them do not exceed.
fn percentile(sorted: &[f32], percent: usize) -> Option<f32> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.max(1) - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Override;

    pub(super) fn health(cameras: &str) -> Health {
        let value = |key: &str, yaml: &str| Override::Value { key: key.into(), yaml: yaml.into() };
        let overrides = [value("model.weights", "a.safetensors"), value("cameras", cameras)];
        let config = NodeConfig::load("/seg", &overrides).unwrap();
        Health::new("seg".into(), &config, vec![("device".into(), "Cpu".into())])
    }

    pub(super) fn find(
        health: &mut Health,
        name: &str,
        now: Instant,
    ) -> (u8, String, BTreeMap<String, String>) {
        let statuses = health.statuses(now).0;
        let status = statuses.into_iter().find(|status| status.name == format!("seg: {name}"));
        let status = status.unwrap();
        let values = status.values.into_iter().map(|pair| (pair.key, pair.value)).collect();
        (status.level, status.message, values)
    }

    fn frame(inference_ms: f32) -> FrameStatus {
        FrameStatus { inference_ms, decode_ms: 10.0, latency_ms: 250.0, ..FrameStatus::default() }
    }

    #[test]
    fn a_camera_goes_through_its_states_most_specific_cause_first() {
        let (mut health, start) = (health("[front]"), Instant::now());
        let at = |ms: u64| start + Duration::from_millis(ms);
        let expect = |health: &mut Health, ms, state: &str, level| {
            let (shown, message, values) = find(health, "input/front", at(ms));
            assert_eq!((values["state"].as_str(), shown), (state, level), "at {ms} ms: {message}");
            message
        };
        expect(&mut health, 0, "no_publisher", Level::WARN);
        let topic = "/front/image_raw".to_owned();
        let input = Input { topic, publishers: 1, ..Input::default() };
        let mismatch = Some("set reliability: auto".to_owned());
        health.input(0, Input { mismatch, ..input.clone() }, at(100));
        let message = expect(&mut health, 100, "qos_mismatch", Level::WARN);
        assert_eq!(message, "set reliability: auto");
        health.input(0, input.clone(), at(200));
        expect(&mut health, 200, "waiting_image", Level::WARN);
        health.input(0, Input { newest: Some(at(300)), ..input.clone() }, at(300));
        expect(&mut health, 600, "active", Level::WARN); // not yet clean for long enough
        health.input(0, Input { newest: Some(at(2200)), ..input.clone() }, at(2200));
        expect(&mut health, 2300, "active", Level::OK);
        expect(&mut health, 2501, "stale", Level::ERROR);
        let (reason, text) = ("encoding".to_owned(), "rgb42 is not known".to_owned());
        let refused = FrameStatus { state: FrameStatus::NO_DATA, reason, text, ..frame(0.0) };
        health.frame(0, refused, at(2600));
        let message = expect(&mut health, 2600, "rejected", Level::ERROR);
        assert_eq!(message, "encoding: rgb42 is not known");
        assert_eq!(find(&mut health, "dds", at(2600)).2["drops/encoding"], "1");
        health.frame(0, frame(5.0), at(2700));
        health.input(0, Input { publishers: 0, newest: Some(at(2700)), ..input }, at(2700));
        expect(&mut health, 2800, "no_publisher", Level::WARN);
    }

    #[test]
    fn a_change_of_level_is_told_once() {
        let (mut health, now) = (health("[front]"), Instant::now());
        assert!(health.statuses(now).1);
        assert!(!health.statuses(now).1);
        let kernel_drops = 3;
        health.transport(Transport { kernel_drops, ..Transport::default() }, now);
        assert!(health.statuses(now).1);
        assert_eq!(find(&mut health, "dds", now).0, Level::WARN);
    }

    #[test]
    fn the_remedy_for_full_sockets_depends_on_the_frames_that_came() {
        let (mut health, now) = (health("[front]"), Instant::now());
        let mut message = |largest: u64, buffer_limit: u64| {
            health.input(0, Input { largest, ..Input::default() }, now);
            let kernel_drops = buffer_limit; // more each time
            health.transport(Transport { kernel_drops, buffer_limit, ..Transport::default() }, now);
            find(&mut health, "dds", now).1
        };
        assert!(message(1920 * 1080 * 3, 4 << 20).ends_with("net.core.rmem_max=67108864"));
        assert!(message(1920 * 1080 * 3, 16 << 20).contains("full"), "two and a half frames fit");
        assert!(message(8192 * 4096 * 3, 64 << 20).ends_with("net.core.rmem_max=251658240"));
    }

    #[test]
    fn frames_over_the_budget_are_late_and_an_error_when_it_lasts() {
        let (mut health, start) = (health("[front]"), Instant::now());
        let at = |ms: u64| start + Duration::from_millis(ms);
        let (level, _, values) = find(&mut health, "inference", at(0));
        assert_eq!((level, values["processing_p99_ms"].as_str()), (Level::OK, "n/a"));
        health.frame(0, frame(189.0), at(1000));
        assert_eq!(find(&mut health, "inference", at(1000)).0, Level::OK);
        health.frame(0, frame(290.0), at(2000)); // over the budget of 200 ms for 100 ms
        assert_eq!(find(&mut health, "inference", at(2000)).0, Level::WARN);
        health.frame(0, frame(290.0), at(2900));
        let (level, _, values) = find(&mut health, "inference", at(2900));
        assert_eq!((level, values["late_frames"].as_str()), (Level::ERROR, "2"));
        assert_eq!(
            (&*values["processing_p50_ms"], &*values["processing_p95_ms"]),
            ("300.0", "300.0")
        );
        health.frame(0, frame(1.0), at(3000));
        let (level, _, values) = find(&mut health, "inference", at(4900));
        assert_eq!((level, values["processing_p50_ms"].as_str()), (Level::OK, "199.0"));
    }

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let times: Vec<f32> = (1..=200_u8).map(f32::from).collect();
        let ranks = [50, 95, 99].map(|percent| percentile(&times, percent));
        assert_eq!(ranks, [Some(100.0), Some(190.0), Some(198.0)]);
        assert_eq!(percentile(&[7.0], 50), Some(7.0));
        assert_eq!(percentile(&[], 50), None);
    }

    #[test]
    fn masks_that_stop_under_a_live_camera_are_an_error_and_unserved_readers_a_warning() {
        let (mut health, start) = (health("[front, rear]"), Instant::now());
        let at = |ms: u64| start + Duration::from_millis(ms);
        let unserved = vec!["set mask_reliability: reliable".to_owned()];
        health.transport(Transport { unserved, ..Transport::default() }, at(0));
        let (level, message, values) = find(&mut health, "output", at(0));
        assert_eq!((level, &*message), (Level::WARN, "set mask_reliability: reliable"));
        assert_eq!(values["rear/rate_hz"], "n/a");
        (0..30).for_each(|i| health.frame(1, frame(5.0), at(100 * i)));
        let (publishers, newest) = (1, Some(at(4000)));
        health.input(1, Input { publishers, newest, ..Input::default() }, at(4000));
        let (level, message, values) = find(&mut health, "output", at(4000));
        assert_eq!((level, values["rear/rate_hz"].as_str()), (Level::ERROR, "3.0"), "{message}");
        assert_eq!(
            (&*values["rear/since_publication_ms"], &*values["rear/latency_ms"]),
            ("1100", "250.0")
        );
        assert!(message.ends_with(": rear"), "{message}");
    }

    #[test]
    fn a_share_of_dropped_images_is_a_warning_and_then_an_error() {
        let (mut health, start) = (health("[front]"), Instant::now());
        let mut play = |share: u64, from: u64| {
            for i in from..from + 100 {
                let (now, received) = (start + Duration::from_millis(100 * i), 10 * i);
                let dropped = received * share / 100;
                let (publishers, newest) = (1, Some(now));
                let input = Input { publishers, newest, received, dropped, ..Input::default() };
                health.input(0, input, now);
            }
            find(&mut health, "input/front", start + Duration::from_millis(100 * (from + 99)))
        };
        assert_eq!(play(4, 0).0, Level::OK);
        let (level, message, values) = play(10, 1000);
        assert_eq!((level, &*values["drop_ratio"], &*values["state"]), (1, "0.10", "dropping"));
        assert!(message.contains("max_rate_hz"), "{message}");
        assert_eq!(play(60, 2000).0, Level::ERROR);
    }

    #[test]
    fn masks_that_are_full_or_empty_for_a_minute_are_odd_unless_the_picture_stands_still() {
        let (mut health, start) = (health("[front]"), Instant::now());
        health.auto = false;
        let mut play = |share: f32, from: u32, moves: bool| {
            for i in from..from + 66 {
                let mask_crc32 = if moves { i } else { 7 };
                let now = start + Duration::from_secs(i.into());
                health.frame(0, FrameStatus { ood_fraction: share, mask_crc32, ..frame(5.0) }, now);
            }
            find(&mut health, "model", start + Duration::from_secs((from + 66).into()))
        };
        assert_eq!(play(0.01, 0, true).0, Level::OK);
        assert_eq!(play(0.0, 100, false).0, Level::OK);
        assert_eq!(play(0.3, 200, true).0, Level::OK);
        let (level, message, _) = play(0.0, 300, true);
        assert!(level == Level::WARN && message.contains("front: 0 %"), "{message}");
        assert_eq!(play(0.59, 400, true).0, Level::OK);
        assert_eq!(play(0.61, 500, true).0, Level::WARN);
    }
}
