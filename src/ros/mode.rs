//! Less work per frame, in steps, while frames take longer than the budget; and back, with patience.

use std::fmt;
use std::time::{Duration, Instant};

use crate::window::Plan;

/// What is done with a frame, dearest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// All outputs, with these windows.
    Full(Plan),
    /// One window and no UEM: classes, and nothing known about obstacles.
    SegmentorOnly,
    /// Nothing but a status.
    NoResult,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(plan) => plan.fmt(f),
            Self::SegmentorOnly => f.write_str("segmentor_only"),
            Self::NoResult => f.write_str("no_result"),
        }
    }
}

/// The modes from the one that the parameters ask for downwards, and where we stand.
#[derive(Debug)]
pub(crate) struct Ladder {
    modes: Vec<Mode>,
    at: usize,
    budget_ms: f32,
    /// Frames over the budget for so long are too much; zero: never.
    after: Duration,
    over: Option<Instant>,
    well: Option<Instant>,
    /// Frames of half the budget for so long let us try the dearer mode.
    patience: Duration,
    raised: Option<Instant>,
}

impl Ladder {
    /// Patience begins at so many times the time after which a cheaper mode is taken, doubles when a
    /// dearer one was taken too early, up to 16 times itself, and is forgotten when it was not.
    const CAUTION: u32 = 5;

    pub(crate) fn new(plan: Plan, budget_ms: u32, after_ms: u32) -> Self {
        let plans = [Plan::Paper, Plan::Tiles, Plan::Single].into_iter();
        let full = plans.skip_while(|&cheaper| cheaper != plan).map(Mode::Full);
        let after = Duration::from_millis(after_ms.into());
        Self {
            modes: full.chain([Mode::SegmentorOnly, Mode::NoResult]).collect(),
            at: 0,
            budget_ms: budget_ms as f32,
            after,
            over: None,
            well: None,
            patience: after * Self::CAUTION,
            raised: None,
        }
    }

    pub(crate) fn mode(&self) -> Mode {
        self.modes[self.at]
    }

    /// Whether less is done than the parameters ask for.
    pub(crate) fn is_degraded(&self) -> bool {
        self.at > 0
    }

    /// Hears how long a frame took, or that none was looked at, and says whether the mode changed.
    pub(crate) fn frame(&mut self, took_ms: Option<f32>, now: Instant) -> bool {
        if self.after.is_zero() {
            return false;
        }
        let long = |since: Option<Instant>, limit| since.is_some_and(|s| now - s >= limit);
        let over = took_ms.is_some_and(|took| took > self.budget_ms);
        let well = took_ms.is_none_or(|took| took < self.budget_ms / 2.0);
        self.over = over.then(|| self.over.unwrap_or(now));
        self.well = well.then(|| self.well.unwrap_or(now));
        if long(self.over, self.after) && self.at + 1 < self.modes.len() {
            let hasty = self.raised.is_some_and(|raised| now - raised < self.patience);
            let usual = self.after * Self::CAUTION;
            self.patience = if hasty { (2 * self.patience).min(16 * usual) } else { usual };
            (self.at, self.over, self.raised) = (self.at + 1, None, None);
            return true;
        }
        if long(self.well, self.patience) && self.at > 0 {
            (self.at, self.well, self.raised) = (self.at - 1, None, Some(now));
            return true;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frames of this length every 100 ms; the seconds and modes of every change.
    fn play(
        ladder: &mut Ladder,
        from: Instant,
        seconds: std::ops::Range<u64>,
        took: impl Fn(Mode) -> Option<f32>,
    ) -> Vec<(f32, String)> {
        let mut changes = Vec::new();
        for i in seconds.start * 10..seconds.end * 10 {
            let took = took(ladder.mode());
            if ladder.frame(took, from + Duration::from_millis(100 * i)) {
                changes.push((i as f32 / 10.0, ladder.mode().to_string()));
            }
        }
        changes
    }

    #[test]
    fn every_step_down_takes_its_time_and_every_step_up_five_times_that() {
        let start = Instant::now();
        let mut ladder = Ladder::new(Plan::Tiles, 100, 1000);
        let slow = |mode| (mode != Mode::NoResult).then_some(150.0);
        let down = play(&mut ladder, start, 0..4, slow);
        let names: Vec<_> = down.iter().map(|(_, mode)| mode.as_str()).collect();
        assert_eq!(names, ["single", "segmentor_only", "no_result"]);
        assert_eq!(down[0].0, 1.0);
        let fast = |mode| (mode != Mode::NoResult).then_some(40.0);
        let up = play(&mut ladder, start, 4..30, fast);
        let names: Vec<_> = up.iter().map(|(_, mode)| mode.as_str()).collect();
        assert_eq!(names, ["segmentor_only", "single", "tiles"]);
        assert!((up[1].0 - up[0].0 - 5.1).abs() < 0.11, "{up:?}");
        assert!(!ladder.is_degraded());
    }

    #[test]
    fn between_half_the_budget_and_the_budget_nothing_changes_and_a_single_late_frame_neither() {
        let start = Instant::now();
        let mut ladder = Ladder::new(Plan::Paper, 100, 1000);
        assert_eq!(play(&mut ladder, start, 0..60, |_| Some(90.0)), []);
        assert!(!ladder.frame(Some(500.0), start + Duration::from_secs(61)));
        assert_eq!(play(&mut ladder, start, 62..70, |_| Some(90.0)), []);
        let mut off = Ladder::new(Plan::Paper, 100, 0);
        assert_eq!(play(&mut off, start, 0..60, |_| Some(900.0)), []);
    }

    #[test]
    fn a_mode_that_does_not_hold_is_tried_less_and_less_often() {
        let start = Instant::now();
        let mut ladder = Ladder::new(Plan::Tiles, 100, 1000);
        let took = |mode| Some(if mode == Mode::Full(Plan::Tiles) { 150.0 } else { 40.0 });
        let changes = play(&mut ladder, start, 0..600, took);
        let tried: Vec<_> = changes.iter().filter(|(_, mode)| mode == "tiles").collect();
        assert!((5..12).contains(&tried.len()), "{tried:?}");
    }
}
