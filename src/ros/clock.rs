//! The ROS clock: the system's or, with `use_sim_time`, what `/clock` said last.
//!
//! `/clock` is read here and not by ros2-client, which takes it for another type.

use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use futures::stream::StreamExt;
use futures::{FutureExt, select_biased};
use ros2_client::Subscription;

use super::context::Participant;
use super::finding::{Finding, since, value};
use super::monitor::Report;
use super::raw::failed;
use super::slot::{Slot, slot};
use crate::Result;
use crate::msg::{CLOCK, DiagnosticStatus as Level, Stamp};

/// Tells the time.
#[derive(Debug)]
pub(crate) struct Clock {
    topic: String,
    reports: Sender<Report>,
    sim: Option<Sim>,
}

/// `/clock` on its way here.
#[derive(Debug)]
struct Sim {
    ticks: Receiver<Tick>,
    newest: Option<Tick>,
    /// Its drop ends the thread.
    _running: smol::channel::Sender<()>,
}

/// A message of `/clock`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tick {
    pub(crate) stamp: Stamp,
    pub(crate) received: Instant,
}

/// What is known of `/clock` while it is followed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Followed {
    /// When that began.
    pub(crate) since: Instant,
    pub(crate) newest: Option<Tick>,
}

/// A clock that says nothing for this long is none.
pub(crate) const SILENT: Duration = Duration::from_secs(5);
/// How often the diagnostics hear of it.
const REPORT: Duration = Duration::from_millis(100);

impl Clock {
    /// The system's clock, until [`Clock::follow`] is told otherwise; `topic` is `/clock`, remapped.
    pub(crate) fn new(topic: String, reports: Sender<Report>) -> Self {
        Self { topic, reports, sim: None }
    }

    /// Changes to simulated time, or back; `true` twice changes nothing.
    ///
    /// # Errors
    /// [`crate::Error::Ros`].
    pub(crate) fn follow(&mut self, sim_time: bool, participant: &mut Participant) -> Result<()> {
        if sim_time == self.sim.is_some() {
            return Ok(());
        }
        if !sim_time {
            self.sim = None;
            drop(self.reports.try_send(Report::Clock(None)));
            return Ok(());
        }
        let messages = participant.subscribe::<Stamp>(&self.topic, CLOCK, false)?;
        let (slot, ticks) = slot();
        let (running, stop) = smol::channel::bounded(1);
        let reports = self.reports.clone();
        let read = move || smol::block_on(read(&messages, slot, &stop, &reports));
        let thread = thread::Builder::new().name("clock".into()).spawn(read);
        drop(thread.map_err(failed(|| "thread of /clock".into()))?); // it ends with `running`
        log::info!("the time is that of {} from now on", self.topic);
        self.sim = Some(Sim { ticks, newest: None, _running: running });
        Ok(())
    }

    /// The time, unless it should come from a `/clock` that says nothing.
    pub(crate) fn now(&mut self) -> Option<Stamp> {
        let Some(sim) = &mut self.sim else { return Some(Stamp::now()) };
        sim.newest = sim.ticks.try_iter().last().or(sim.newest);
        let newest = sim.newest.filter(|tick| tick.received.elapsed() < SILENT)?;
        Some(newest.stamp)
    }
}

/// How the clock is; the system's always is.
pub(crate) fn finding(followed: Option<Followed>, now: Instant) -> Finding {
    let Some(Followed { since: began, newest }) = followed else {
        return Finding::new(Level::OK, "the system's", vec![value("use_sim_time", &false)]);
    };
    let heard = newest.map_or(began, |tick| tick.received);
    let (level, message) = match now.duration_since(heard) < SILENT {
        true => (Level::OK, "follows /clock"),
        false => {
            let what = "use_sim_time is true and nothing comes on /clock: ages and latencies are \
                        unknown and not checked; play with --clock, or set use_sim_time: false";
            (Level::WARN, what)
        }
    };
    let heard = newest.map(|tick| tick.received);
    let values = vec![value("use_sim_time", &true), value("since_tick_ms", &since(heard, now))];
    Finding::new(level, message, values)
}

async fn read(
    messages: &Subscription<Stamp>,
    mut slot: Slot<Tick>,
    stop: &smol::channel::Receiver<()>,
    reports: &Sender<Report>,
) {
    let mut messages = messages.async_stream().boxed_local().fuse();
    let mut timer = StreamExt::fuse(smol::Timer::interval(REPORT));
    let mut followed = Followed { since: Instant::now(), newest: None };
    loop {
        select_biased! {
            _ = stop.recv().fuse() => return,
            _ = timer.select_next_some() => {
                // No room: the next one says the same and more.
                drop(reports.try_send(Report::Clock(Some(followed))));
            }
            message = messages.select_next_some() => match message {
                Ok((stamp, _)) => {
                    let tick = Tick { stamp, received: Instant::now() };
                    followed.newest = Some(tick);
                    slot.put(|_unread| tick);
                }
                Err(error) => log::debug!("/clock: {error:?}"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_of_the_clock_is_a_warning_after_five_seconds() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let level = |followed, seconds| finding(followed, at(seconds)).level;
        assert_eq!(level(None, 99), Level::OK);
        let never = Some(Followed { since: start, newest: None });
        assert_eq!((level(never, 4), level(never, 5)), (Level::OK, Level::WARN));
        let tick = Tick { stamp: Stamp::default(), received: at(9) };
        let ticked = Some(Followed { since: start, newest: Some(tick) });
        assert_eq!((level(ticked, 13), level(ticked, 14)), (Level::OK, Level::WARN));
    }
}
