//! What the frames of a camera say about its stream: new epochs, changes of size, refusals in a row.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::finding::{or_na, value};
use super::rate::Pace;
use crate::msg::{DiagnosticStatus as Level, FrameStatus, Stamp};

/// A camera's stream so far.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    newest: Option<Stamp>,
    size: Option<[u32; 2]>,
    epochs: u64,
    resizes: u64,
    /// The last two changes of size.
    resized: VecDeque<Instant>,
    refused_in_a_row: u32,
}

/// Reasons that one frame may have and the next one not.
const PASSING: [&str; 4] = ["stamp_old", "stamp_future", "stale", "duplicate"];
/// So many in a row are an error.
const IN_A_ROW: u32 = 3;
/// A rate below this share of the nominal one is a warning.
const SLOW: f64 = 0.8;

impl Stream {
    /// Takes note of what became of a frame.
    pub(crate) fn frame(&mut self, status: &FrameStatus, now: Instant) {
        if status.state != FrameStatus::OK {
            self.refused_in_a_row += 1;
            return;
        }
        self.refused_in_a_row = 0;
        let (stamp, size) = (status.header.stamp, [status.width, status.height]);
        // Within an epoch, stamps that are let through do not go back; zero is none.
        self.epochs += u64::from(self.newest.is_some_and(|newest| stamp < newest));
        if self.size.is_some_and(|before| before != size) {
            self.resizes += 1;
            let keep = self.resized.len().saturating_sub(1);
            self.resized.drain(..keep);
            self.resized.push_back(now);
        }
        (self.newest, self.size) = (Some(stamp), Some(size));
    }

    /// How bad a refusal is for the camera.
    pub(crate) fn severity(&self, reason: &str) -> u8 {
        let passing = PASSING.contains(&reason) && self.refused_in_a_row < IN_A_ROW;
        if passing { Level::WARN } else { Level::ERROR }
    }

    /// What is odd about a stream whose frames come and are used.
    pub(crate) fn oddity(
        &self,
        pace: Option<Pace>,
        nominal_hz: f64,
        now: Instant,
    ) -> Option<String> {
        let restless =
            self.resized.len() == 2 && now.duration_since(self.resized[0]) < Duration::from_secs(1);
        if restless {
            return Some("its size changes more than once a second".into());
        }
        let Pace { hz, .. } = pace.filter(|pace| pace.hz < SLOW * nominal_hz)?;
        Some(format!("{hz:.1} Hz, less than 80 % of nominal_rate_hz = {nominal_hz}"))
    }

    /// The stream in numbers.
    pub(crate) fn values(&self, pace: Option<Pace>) -> [(String, String); 4] {
        [
            value("input_rate_hz", &or_na(pace.map(|pace| format!("{:.1}", pace.hz)))),
            value("jitter_ms", &or_na(pace.map(|pace| format!("{:.1}", pace.jitter_ms)))),
            value("epochs", &self.epochs),
            value("resizes", &self.resizes),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(sec: i32, width: u32, reason: &str) -> FrameStatus {
        let state = if reason.is_empty() { FrameStatus::OK } else { FrameStatus::NO_DATA };
        let reason = reason.to_owned();
        let mut status = FrameStatus { width, state, reason, ..FrameStatus::default() };
        status.header.stamp.sec = sec;
        status
    }

    #[test]
    fn epochs_and_sizes_are_counted_over_frames_that_were_used() {
        let (mut stream, start) = (Stream::default(), Instant::now());
        let at = |ms: u64| start + Duration::from_millis(ms);
        stream.frame(&frame(90, 640, ""), at(0));
        stream.frame(&frame(20, 64, "stamp_old"), at(100));
        stream.frame(&frame(91, 640, ""), at(200));
        stream.frame(&frame(10, 640, ""), at(300));
        stream.frame(&frame(11, 1280, ""), at(400));
        assert_eq!(stream.oddity(None, 0.0, at(400)), None, "one change is none too many");
        stream.frame(&frame(12, 640, ""), at(1300));
        assert!(stream.oddity(None, 0.0, at(1300)).unwrap().contains("size"));
        assert_eq!(stream.oddity(None, 0.0, at(1400)), None);
        let values = stream.values(None).map(|(_, value)| value);
        assert_eq!(values, ["n/a", "n/a", "1", "2"]);
    }

    #[test]
    fn a_passing_refusal_is_an_error_when_it_does_not_pass() {
        let (mut stream, now) = (Stream::default(), Instant::now());
        let mut levels = Vec::new();
        for second in 0..3 {
            stream.frame(&frame(second, 640, "stamp_future"), now);
            levels.push(stream.severity("stamp_future"));
        }
        assert_eq!(levels, [Level::WARN, Level::WARN, Level::ERROR]);
        stream.frame(&frame(9, 640, ""), now);
        stream.frame(&frame(8, 640, "encoding"), now);
        assert_eq!(stream.severity("encoding"), Level::ERROR);
    }

    #[test]
    fn a_slow_camera_is_odd_only_where_its_rate_is_known() {
        let (stream, now) = (Stream::default(), Instant::now());
        let pace = Some(Pace { hz: 7.9, jitter_ms: 1.0 });
        assert!(stream.oddity(pace, 10.0, now).unwrap().starts_with("7.9 Hz"));
        assert_eq!(stream.oddity(pace, 9.8, now), None);
        assert_eq!(stream.oddity(pace, 0.0, now), None);
        assert_eq!(stream.oddity(None, 10.0, now), None);
    }
}
