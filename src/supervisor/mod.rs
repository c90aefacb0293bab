//! The thread that watches the others, without DDS and without libtorch: nothing that hangs there
//! hangs here.
//!
//! A frame in work for far longer than its like, a thread that stopped, memory above its ceiling: the
//! process ends, to be started again. Time is counted in the supervisor's own ticks, so that a process
//! that was itself frozen, with all its threads, is not taken for one that hangs.

mod crash;
mod memory;
mod network;
mod notify;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use signal_hook::low_level::exit;

pub use crash::report_panics;
use memory::{Memory, resident_mb};
use network::{Change, Interfaces, network};
use notify::Notify;

/// What the process is at, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// Parameters and weights are read.
    Loading,
    /// The network answers the self-test.
    Testing,
    /// DDS starts.
    Joining,
    /// Frames are taken.
    Running,
    /// Everything ends.
    Stopping,
}

/// The limits that parameters set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Least time after which a frame in work, or another thread's silence, is taken for a hang; 0: never.
    pub hang: Duration,
    /// Resident memory, MB, above which the process ends; 0: none.
    pub memory_mb: u64,
}

/// The other threads' end of it; clones speak of the same process.
#[derive(Clone, Debug)]
pub struct Watch {
    shared: Arc<Shared>,
    pulses: Sender<Arc<Beat>>,
}

/// A thread's sign of life; dropped with it.
#[derive(Debug)]
pub struct Pulse(Arc<Beat>);

#[derive(Debug)]
struct Beat {
    name: String,
    beats: AtomicU64,
    gone: AtomicBool,
}

#[derive(Debug)]
struct Shared {
    phase: AtomicU8,
    /// Of the process when it stops.
    code: AtomicU8,
    hang_ms: AtomicU64,
    memory_mb: AtomicU64,
    /// Pixels of the frames in work, 0 between frames; counts up with each.
    work: AtomicU64,
    serial: AtomicU64,
    /// Pixels of the largest work so far.
    largest: AtomicU64,
    /// Picoseconds a pixel takes, the slowest of late.
    pace: AtomicU64,
    resident_mb: AtomicU64,
    rebuilds: AtomicU64,
    /// Nobody outside this computer is spoken to.
    local: AtomicBool,
    hung: AtomicBool,
}

const TICK: Duration = Duration::from_millis(100);
/// Longest for each phase before `Running`, and the exit code then. `Stopping` comes with its own.
const START: [(Duration, i32, &str); 3] = [
    (Duration::from_secs(120), 66, "the weights were not read"),
    (Duration::from_secs(120), 71, "the network did not answer"),
    (Duration::from_secs(60), 75, "DDS did not start"),
];
/// Longest for the first frame: nothing is known yet, and libraries prepare themselves.
const FIRST: Duration = Duration::from_secs(120);
/// Longest end: a frame in work is abandoned then.
const STOP: Duration = Duration::from_millis(1600);
/// A thread other than the network's is stuck when nothing was heard of it for so long.
const SILENCE: Duration = Duration::from_secs(15);
/// A frame hangs after so many times what its like take.
const PATIENCE: u64 = 10;
/// The monitor gets to publish that something hangs before the process ends.
const LAST_WORDS: Duration = Duration::from_millis(400);

impl Watch {
    /// Starts the supervisor, with the weights to be read next.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn start() -> std::io::Result<Self> {
        let shared = Arc::new(Shared::new());
        let (pulses, beats) = unbounded();
        let supervisor = Supervisor::new(shared.clone(), Notify::from_env());
        let run = move || supervisor.run(&beats);
        thread::Builder::new().name("supervisor".into()).spawn(run)?;
        Ok(Self { shared, pulses })
    }

    /// Sets what the parameters say.
    pub fn limit(&self, limits: Limits) {
        let hang = u64::try_from(limits.hang.as_millis()).unwrap_or(u64::MAX);
        self.shared.hang_ms.store(hang, Relaxed);
        self.shared.memory_mb.store(limits.memory_mb, Relaxed);
    }

    /// Says what comes next; there is no way back.
    pub fn enter(&self, phase: Phase) {
        self.shared.phase.fetch_max(phase as u8, Relaxed);
    }

    /// Whether frames are taken already, or still.
    pub fn phase(&self) -> Phase {
        self.shared.phase()
    }

    /// The process is to end with this exit code; the first one counts.
    pub fn stop(&self, code: u8) {
        if self.shared.phase.fetch_max(Phase::Stopping as u8, Relaxed) < Phase::Stopping as u8 {
            self.shared.code.store(code, Relaxed);
            drop(self.pulse("stop")); // wakes the supervisor
        }
    }

    /// A thread that will give signs of life.
    #[must_use]
    pub fn pulse(&self, name: impl Into<String>) -> Pulse {
        let (beats, gone) = (AtomicU64::new(0), AtomicBool::new(false));
        let beat = Arc::new(Beat { name: name.into(), beats, gone });
        // The supervisor lives as long as the process.
        drop(self.pulses.send(beat.clone()));
        Pulse(beat)
    }

    /// Runs work on frames of so many pixels under the eye of the supervisor, and learns from it how
    /// long such work takes.
    pub fn during<T>(&self, pixels: u64, work: impl FnOnce() -> T) -> T {
        let (shared, start) = (&self.shared, Instant::now());
        let done = self.watched(pixels, work);
        let picoseconds = start.elapsed().as_nanos().saturating_mul(1000);
        let pace = u64::try_from(picoseconds / u128::from(pixels.max(1))).unwrap_or(u64::MAX);
        let before = shared.pace.load(Relaxed);
        shared.pace.store(pace.max(before / 16 * 15).max(1), Relaxed);
        done
    }

    /// Runs other work on so many pixels under the eye of the supervisor.
    pub fn watched<T>(&self, pixels: u64, work: impl FnOnce() -> T) -> T {
        let shared = &self.shared;
        shared.serial.fetch_add(1, Relaxed);
        shared.largest.fetch_max(pixels, Relaxed);
        shared.work.store(pixels.max(1), Relaxed);
        let done = work();
        shared.work.store(0, Relaxed);
        done
    }

    /// Whether work is being done under the eye of the supervisor.
    pub fn at_work(&self) -> bool {
        self.shared.work.load(Relaxed) > 0
    }

    /// The node speaks to this computer only, whatever becomes of the network.
    pub fn stay_local(&self) {
        self.shared.local.store(true, Relaxed);
    }

    /// How often all inputs were to be joined anew, because memory grew that no frame explains or the
    /// network changed.
    pub fn rebuilds(&self) -> u64 {
        self.shared.rebuilds.load(Relaxed)
    }

    /// Whether the process is about to end because something hangs.
    pub fn hung(&self) -> bool {
        self.shared.hung.load(Relaxed)
    }

    /// Resident memory and its ceiling, MB.
    pub fn memory_mb(&self) -> [u64; 2] {
        [&self.shared.resident_mb, &self.shared.memory_mb].map(|mb| mb.load(Relaxed))
    }
}

impl Pulse {
    /// The thread is alive.
    pub fn beat(&self) {
        self.0.beats.fetch_add(1, Relaxed);
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.0.gone.store(true, Relaxed);
    }
}

impl Shared {
    fn new() -> Self {
        let number = || AtomicU64::new(0);
        Self {
            phase: AtomicU8::new(Phase::Loading as u8),
            code: AtomicU8::new(0),
            hang_ms: AtomicU64::new(2000),
            memory_mb: number(),
            work: number(),
            serial: number(),
            largest: number(),
            pace: number(),
            resident_mb: number(),
            rebuilds: number(),
            local: AtomicBool::new(false),
            hung: AtomicBool::new(false),
        }
    }

    fn phase(&self) -> Phase {
        let phases = [Phase::Loading, Phase::Testing, Phase::Joining, Phase::Running];
        let now = self.phase.load(Relaxed);
        phases.into_iter().find(|&phase| phase as u8 == now).unwrap_or(Phase::Stopping)
    }

    /// How long the work on so many pixels may take.
    fn patience(&self, pixels: u64) -> Duration {
        let pace = self.pace.load(Relaxed);
        if pace == 0 {
            return FIRST;
        }
        let usual = pace.saturating_mul(pixels) / 1000;
        let least = Duration::from_millis(self.hang_ms.load(Relaxed));
        least.max(Duration::from_nanos(usual.saturating_mul(PATIENCE)))
    }
}

/// How long a number has been what it is, in time that the supervisor itself lived through.
#[derive(Debug, Default)]
struct Timer {
    value: u64,
    since: Duration,
}

impl Timer {
    fn observe(&mut self, value: u64, lived: Duration) -> Duration {
        if value == self.value {
            self.since += lived;
        } else {
            *self = Self { value, since: Duration::ZERO };
        }
        self.since
    }
}

struct Supervisor {
    shared: Arc<Shared>,
    notify: Notify,
    threads: Vec<(Arc<Beat>, Timer)>,
    phase: Timer,
    work: Timer,
    memory: Memory,
    /// From the moment on at which DDS is joined.
    interfaces: Option<Interfaces>,
    ticks: u64,
}

/// Why the process must end, and its exit code.
type End = (i32, String);

impl Supervisor {
    fn new(shared: Arc<Shared>, notify: Notify) -> Self {
        Self {
            shared,
            notify,
            threads: Vec::new(),
            phase: Timer::default(),
            work: Timer::default(),
            memory: Memory::default(),
            interfaces: None,
            ticks: 0,
        }
    }

    fn run(mut self, beats: &Receiver<Arc<Beat>>) {
        let mut last = Instant::now();
        loop {
            match beats.recv_timeout(TICK.saturating_sub(last.elapsed())) {
                Ok(beat) => {
                    self.threads.push((beat, Timer::default()));
                    self.notify.phase(self.shared.phase());
                }
                Err(RecvTimeoutError::Timeout) => {
                    let passed = last.elapsed();
                    last = Instant::now();
                    if let Some(end) = self.tick(passed) {
                        self.end(&end);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn tick(&mut self, passed: Duration) -> Option<End> {
        self.ticks += 1;
        let phase = self.shared.phase();
        let lived = passed.min(2 * TICK);
        // Who asked for the end waits on a clock of his own.
        let counted = if phase == Phase::Stopping { passed } else { lived };
        let since = self.phase.observe(phase as u64, counted);
        self.notify.phase(phase);
        if phase >= Phase::Joining && self.interfaces.is_none() {
            self.interfaces = Some(Interfaces::new(network()));
        }
        if phase == Phase::Stopping {
            let code = self.shared.code.load(Relaxed);
            return (since >= STOP).then(|| (code.into(), "the end took too long".into()));
        }
        if let Some((limit, code, what)) = START.get(phase as usize) {
            let late = since >= *limit;
            return late.then(|| (*code, format!("{what} within {} s", limit.as_secs())));
        }
        if let Some(end) = self.hang(lived).or_else(|| self.silence(lived)) {
            self.shared.hung.store(true, Relaxed);
            return Some(end);
        }
        self.notify.alive();
        match self.ticks % 10 {
            0 => self.memory(),
            2 | 7 => self.network(),
            _ => None,
        }
    }

    /// A frame that takes far longer than its like.
    fn hang(&mut self, lived: Duration) -> Option<End> {
        let pixels = self.shared.work.load(Relaxed);
        let serial = self.shared.serial.load(Relaxed);
        let since = self.work.observe(serial, lived);
        let patience = self.shared.patience(pixels);
        let watched = pixels > 0 && self.shared.hang_ms.load(Relaxed) > 0;
        let hangs = watched && since >= patience;
        hangs.then(|| {
            (71, format!("a frame has been in work for {since:.1?}, limit {patience:.1?}"))
        })
    }

    /// A thread that ought to have said something.
    fn silence(&mut self, lived: Duration) -> Option<End> {
        self.threads.retain(|(beat, _)| !beat.gone.load(Relaxed));
        let watched = self.shared.hang_ms.load(Relaxed) > 0;
        let mut silent = None;
        for (beat, timer) in &mut self.threads {
            let since = timer.observe(beat.beats.load(Relaxed), lived);
            if watched && since >= SILENCE {
                let name = &beat.name;
                silent = Some((70, format!("thread `{name}` has done nothing for {since:.0?}")));
            }
        }
        silent
    }

    /// Memory above its ceiling, or growth that calls for new DDS participants.
    fn memory(&mut self) -> Option<End> {
        let resident = resident_mb()?;
        self.shared.resident_mb.store(resident, Relaxed);
        let ceiling = self.shared.memory_mb.load(Relaxed);
        if ceiling > 0 && resident > ceiling {
            return Some((70, format!("{resident} MB resident, memory_limit_mb is {ceiling}")));
        }
        let growth = self.memory.growth(resident, ceiling, self.shared.largest.load(Relaxed))?;
        log::warn!("memory grew by {growth} MB that no frame explains: joining DDS anew");
        self.shared.rebuilds.fetch_add(1, Relaxed);
        None
    }

    /// Addresses that came, or that are all others than those under which the node is known.
    fn network(&mut self) -> Option<End> {
        if self.shared.local.load(Relaxed) {
            return None;
        }
        match self.interfaces.as_mut().map_or(Change::None, |known| known.change(network())) {
            Change::None => None,
            Change::New => {
                log::info!("the network changed: joining DDS anew");
                self.shared.rebuilds.fetch_add(1, Relaxed);
                None
            }
            Change::Moved(addresses) => Some((
                75,
                format!("the addresses are {addresses} now, and nobody knows the node by them"),
            )),
        }
    }

    fn end(&self, (code, why): &End) {
        if self.shared.phase() == Phase::Stopping {
            log::warn!("{why}: the frame in work is abandoned");
        } else {
            log::error!("{why}: ending with exit code {code}, to be started again");
            self.notify.failing(why);
            thread::sleep(LAST_WORDS);
        }
        exit(*code);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn supervisor() -> (Watch, Supervisor, Receiver<Arc<Beat>>) {
        let shared = Arc::new(Shared::new());
        let (pulses, beats) = unbounded();
        let supervisor = Supervisor::new(shared.clone(), Notify::default());
        (Watch { shared, pulses }, supervisor, beats)
    }

    /// The first end within so many ticks, and in which.
    fn ends(supervisor: &mut Supervisor, ticks: u64) -> Option<(u64, End)> {
        (1..=ticks).find_map(|n| Some((n, supervisor.tick(TICK)?)))
    }

    #[test]
    fn each_phase_of_the_start_has_its_limit_and_its_exit_code() {
        let (watch, mut supervisor, _beats) = supervisor();
        assert_eq!(ends(&mut supervisor, 1190), None);
        let (_, (code, why)) = ends(&mut supervisor, 20).unwrap();
        assert!(code == 66 && why.contains("weights"), "{code} {why}");
        watch.enter(Phase::Joining);
        assert_eq!(ends(&mut supervisor, 590), None);
        assert_eq!(ends(&mut supervisor, 20).unwrap().1.0, 75);
        watch.enter(Phase::Testing);
        assert_eq!(watch.phase(), Phase::Joining, "there is no way back");
        watch.enter(Phase::Running);
        assert_eq!(ends(&mut supervisor, 3000), None);
        watch.stop(71);
        watch.stop(0);
        let (ticks, (code, _)) = ends(&mut supervisor, 30).unwrap();
        assert_eq!((ticks, code), (17, 71));
    }

    #[test]
    fn a_frame_hangs_after_ten_times_what_its_like_take_and_not_before_the_least() {
        let (watch, mut supervisor, _beats) = supervisor();
        watch.enter(Phase::Running);
        let begin = |pixels| {
            watch.shared.serial.fetch_add(1, Relaxed);
            watch.shared.work.store(pixels, Relaxed);
        };
        begin(1000);
        assert_eq!(ends(&mut supervisor, 1190), None, "the first one");
        watch.shared.pace.store(1, Relaxed);
        begin(1000);
        let (ticks, (code, _)) = ends(&mut supervisor, 100).unwrap();
        assert_eq!((ticks, code, watch.hung()), (21, 71, true));
        watch.shared.pace.store(500_000_000_000, Relaxed); // half a second a pixel
        begin(4);
        let (ticks, _) = ends(&mut supervisor, 1000).unwrap();
        assert_eq!(ticks, 201, "2 s are usual, 20 s are not");
        begin(4);
        assert_eq!(ends(&mut supervisor, 150), None);
        begin(4);
        assert_eq!(ends(&mut supervisor, 150), None, "another frame");
        watch.limit(Limits { hang: Duration::ZERO, memory_mb: 0 });
        assert_eq!(ends(&mut supervisor, 9000), None, "switched off");
    }

    #[test]
    fn the_pace_is_that_of_the_slowest_and_forgets() {
        let (watch, ..) = supervisor();
        watch.during(1, || thread::sleep(Duration::from_millis(20)));
        let slow = watch.shared.patience(1000);
        assert!(slow >= Duration::from_secs(200), "{slow:?}");
        (0..200).for_each(|_| watch.during(1_000_000, || ()));
        assert!(watch.shared.patience(1000) < slow / 2);
    }

    #[test]
    fn a_silent_thread_ends_the_process_unless_it_ended_itself() {
        let (watch, mut supervisor, beats) = supervisor();
        watch.enter(Phase::Running);
        let (stuck, gone) = (watch.pulse("stuck"), watch.pulse("gone"));
        supervisor.threads.extend(beats.try_iter().map(|beat| (beat, Timer::default())));
        drop(gone);
        for _ in 0..5 {
            assert_eq!(ends(&mut supervisor, 140), None);
            stuck.beat();
        }
        let (_, (code, why)) = ends(&mut supervisor, 160).unwrap();
        assert!(code == 70 && why.contains("stuck"), "{code} {why}");
    }
}
