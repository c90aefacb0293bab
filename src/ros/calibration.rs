//! The calibration that belongs to a frame.

use std::collections::VecDeque;

use crossbeam_channel::Receiver;

use super::ingest::CALIBRATIONS;
use crate::msg::{CameraInfo, Stamp};

/// The newest calibrations of a camera.
#[derive(Debug)]
pub(crate) struct Calibrations {
    unread: Receiver<CameraInfo>,
    newest: VecDeque<CameraInfo>,
}

impl Calibrations {
    /// None yet; more come through `unread`.
    pub(crate) fn new(unread: Receiver<CameraInfo>) -> Self {
        Self { unread, newest: VecDeque::new() }
    }

    /// The one with the stamp of the frame.
    pub(crate) fn exact(&mut self, stamp: Stamp) -> Option<CameraInfo> {
        for info in self.unread.try_iter() {
            self.newest.truncate(CALIBRATIONS - 1);
            self.newest.push_front(info);
        }
        self.newest.iter().find(|info| info.header.stamp == stamp).cloned()
    }

    /// The one with the stamp of the frame, else the last that came: calibrations rarely change.
    pub(crate) fn best(&mut self, stamp: Stamp) -> Option<CameraInfo> {
        self.exact(stamp).or_else(|| self.newest.front().cloned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frames_own_calibration_wins_over_a_newer_one_and_that_over_none() {
        let (sender, unread) = crossbeam_channel::unbounded();
        let mut calibrations = Calibrations::new(unread);
        let stamp = |sec| Stamp { sec, nanosec: 5 };
        assert_eq!(calibrations.best(stamp(1)), None);
        for sec in 1..=20 {
            let mut info = CameraInfo { width: 10 + sec as u32, ..CameraInfo::default() };
            info.header.stamp = stamp(sec);
            sender.send(info).unwrap();
        }
        let mut width = |sec| calibrations.best(stamp(sec)).unwrap().width;
        assert_eq!((width(18), width(5), width(4), width(99)), (28, 15, 30, 30), "16 are held");
        assert_eq!(calibrations.exact(stamp(99)), None);
    }
}
