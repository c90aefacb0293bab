//! How often frames of a camera go on.

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

#[cfg(test)]
mod tests {
    use super::*;

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
