//! How often frames of a camera come, and how often they go on.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Lets frames through at a rate: on average at most that, and no gap shorter than half of its period.
#[derive(Debug)]
pub(crate) struct RateLimit {
    /// Zero: no limit.
    period: Duration,
    due: Option<Instant>,
}

impl RateLimit {
    /// The limit of `hz`; 0 is none.
    pub(crate) fn new(hz: f64) -> Self {
        let period = if hz > 0.0 { Duration::from_secs_f64(1.0 / hz) } else { Duration::ZERO };
        Self { period, due: None }
    }

    /// Whether a frame that came `now` goes on.
    pub(crate) fn admits(&mut self, now: Instant) -> bool {
        let due = self.due.unwrap_or(now);
        // A camera of twice the rate comes a little early every other time.
        if now + self.period / 8 < due {
            return false;
        }
        self.due = Some((due + self.period).max(now + self.period / 2));
        true
    }
}

/// When a camera's messages came, of late.
#[derive(Debug, Default)]
pub(crate) struct Arrivals(VecDeque<Instant>);

/// How regularly they came.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Pace {
    pub(crate) hz: f64,
    /// Standard deviation of the time between two messages.
    pub(crate) jitter_ms: f64,
}

impl Arrivals {
    /// What the pace is measured over.
    const WINDOW: Duration = Duration::from_secs(10);
    /// Fewer messages have none.
    const LEAST: usize = 5;

    pub(crate) fn message(&mut self, now: Instant) {
        self.0.push_back(now);
        while self.0.pop_front_if(|time| now.duration_since(*time) > Self::WINDOW).is_some() {}
    }

    /// That of the messages so far.
    #[expect(clippy::cast_precision_loss, reason = "of a few hundred")]
    pub(crate) fn pace(&self) -> Option<Pace> {
        if self.0.len() < Self::LEAST {
            return None;
        }
        let times = || self.0.iter().zip(self.0.iter().skip(1));
        let gaps: Vec<_> = times().map(|(a, b)| b.duration_since(*a).as_secs_f64()).collect();
        let n = gaps.len() as f64;
        let mean = gaps.iter().sum::<f64>() / n;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / n;
        Some(Pace { hz: 1.0 / mean.max(1e-6), jitter_ms: variance.sqrt() * 1e3 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_is_that_of_the_last_ten_seconds() {
        let (mut arrivals, start) = (Arrivals::default(), Instant::now());
        let mut at = |ms: u64| {
            arrivals.message(start + Duration::from_millis(ms));
            arrivals.pace()
        };
        assert_eq!([0, 1, 2, 3].map(&mut at), [None; 4]);
        let mut last = None;
        for i in 0..100 {
            last = at(60_000 + 100 * i + 20 * (i % 2)); // gaps of 120 and 80 ms
        }
        let Pace { hz, jitter_ms } = last.unwrap();
        assert!((hz - 10.0).abs() < 0.1 && (jitter_ms - 20.0).abs() < 0.1, "{hz} {jitter_ms}");
    }

    /// How many of the frames that come at these milliseconds go on at `hz`.
    fn admitted(hz: f64, arrivals: impl Iterator<Item = u64>) -> usize {
        let (mut limit, start) = (RateLimit::new(hz), Instant::now());
        arrivals.filter(|&ms| limit.admits(start + Duration::from_millis(ms))).count()
    }

    #[test]
    fn the_rate_is_kept_on_average_whatever_the_cameras() {
        let camera = |hz: u64| (0..10 * hz).map(move |i| i * 1000 / hz);
        for (limit, expected) in [(15.0, 150), (20.0, 200), (7.0, 70), (30.0, 300), (60.0, 300)] {
            let count = admitted(limit, camera(30));
            assert!(count.abs_diff(expected) <= 1, "{count} of 300 at {limit} Hz");
        }
        assert_eq!(admitted(0.0, camera(30)), 300);
    }

    #[test]
    fn jitter_costs_no_frames_and_silence_saves_none_up() {
        let jittered = (0..300).zip([0, 2, 1].into_iter().cycle()).map(|(i, late)| i * 33 + late);
        let count = admitted(15.15, jittered);
        assert!((149..=151).contains(&count), "{count}");
        assert_eq!(admitted(10.0, [0, 5000, 5001, 5002, 5030, 5060].into_iter()), 3);
    }
}
