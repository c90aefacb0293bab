//! Whether a frame's stamp can be true: not set, from the past, from the future, seen before.
//!
//! Stamps are compared with those before them and, where the ROS clock is known, with it. The age of
//! frames counts from the first one that was young enough: a recording played without `/clock` has old
//! stamps from its first frame to its last, a camera that lags has not.

use std::time::Duration;

use super::ingest::Payload;
use crate::config::NodeConfig;
use crate::image::Reject;
use crate::msg::Stamp;

/// What a camera's stamps have been so far.
#[derive(Debug)]
pub(crate) struct Stamps {
    camera: String,
    newest: Option<Seen>,
    /// The last of a row of frames that lay before the newest, and how many they are.
    returned: Option<(i64, u32)>,
    age: Age,
}

/// A frame that was let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    nanos: i64,
    /// Of what the message holds beside its header.
    checksum: u32,
}

/// Whether frames are refused for their age.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Age {
    Unknown,
    /// All of this epoch were too old, which was said.
    Old,
    /// One was young enough.
    Young,
}

/// What the parameters say of stamps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    allow_zero: bool,
    /// Zero: any.
    max_age: Duration,
}

/// A jump back by more than this is a new epoch: a bag that begins again, a clock that was set.
const EPOCH: i64 = 1_000_000_000;
/// So is a return by less that lasts: this many frames, each after the other.
const RETURNED: u32 = 3;
/// How far ahead of the ROS clock a stamp may lie.
const AHEAD: i64 = 500_000_000;

impl Rules {
    pub(crate) fn of(config: &NodeConfig) -> Self {
        let max_age = Duration::from_millis(config.max_age_ms.into());
        Self { allow_zero: config.allow_zero_stamp, max_age }
    }
}

impl Stamps {
    pub(crate) fn new(camera: String) -> Self {
        Self { camera, newest: None, returned: None, age: Age::Unknown }
    }

    /// Refuses a frame whose stamp cannot be true, given the ROS clock where it is known; a new epoch
    /// begins with the frame that is let through first.
    ///
    /// # Errors
    /// [`Reject::StampZero`], [`Reject::StampOld`], [`Reject::Duplicate`], [`Reject::StampFuture`],
    /// [`Reject::Stale`].
    pub(crate) fn check(
        &mut self,
        frame: &Payload,
        clock: Option<Stamp>,
        rules: Rules,
    ) -> Result<(), Reject> {
        let stamp = frame.header().stamp;
        if stamp == Stamp::default() {
            return if rules.allow_zero { Ok(()) } else { Err(Reject::StampZero) };
        }
        let seen = Seen { nanos: stamp.nanos(), checksum: frame.checksum() };
        self.order(seen)?;
        if let Some(clock) = clock {
            self.age(clock.nanos() - seen.nanos, rules.max_age)?;
        }
        (self.newest, self.returned) = (Some(seen), None);
        Ok(())
    }

    fn order(&mut self, seen: Seen) -> Result<(), Reject> {
        let Some(newest) = self.newest else { return Ok(()) };
        let back = newest.nanos - seen.nanos;
        if seen == newest {
            return Err(Reject::Duplicate);
        }
        if back <= 0 {
            return Ok(());
        }
        let row = match self.returned {
            Some((last, row)) if seen.nanos > last => row + 1,
            _ => 1,
        };
        if back <= EPOCH && row < RETURNED {
            self.returned = Some((seen.nanos, row));
            return Err(Reject::StampOld { back_ms: milliseconds(back) });
        }
        log::info!("{}: stamps jumped back by {:.3} s: a new epoch", self.camera, seconds(back));
        *self = Self::new(std::mem::take(&mut self.camera));
        Ok(())
    }

    fn age(&mut self, age: i64, max_age: Duration) -> Result<(), Reject> {
        if age < -AHEAD {
            return Err(Reject::StampFuture { ahead_ms: milliseconds(-age) });
        }
        let most = i64::try_from(max_age.as_nanos()).unwrap_or(i64::MAX);
        match self.age {
            _ if most == 0 => {}
            _ if age <= most => self.age = Age::Young,
            Age::Young => {
                let (age_ms, max_age_ms) = (milliseconds(age), milliseconds(most));
                return Err(Reject::Stale { age_ms, max_age_ms });
            }
            Age::Old => {}
            Age::Unknown => {
                self.age = Age::Old;
                let (camera, age, most) = (&self.camera, seconds(age), milliseconds(most));
                log::info!(
                    "{camera}: its frames are {age:.1} s old, and none is refused for it before one \
                     is younger than max_age_ms = {most}; of a recording, set use_sim_time and play \
                     it with --clock"
                );
            }
        }
        Ok(())
    }
}

fn milliseconds(nanos: i64) -> i64 {
    nanos / 1_000_000
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn seconds(nanos: i64) -> f64 {
    nanos as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Image;

    const RULES: Rules = Rules { allow_zero: false, max_age: Duration::from_millis(500) };

    fn stamp(ms: i64) -> Stamp {
        let (sec, ms) = (ms.div_euclid(1000), ms.rem_euclid(1000));
        Stamp { sec: sec.try_into().unwrap(), nanosec: u32::try_from(ms).unwrap() * 1_000_000 }
    }

    fn frame(ms: i64, pixel: u8) -> Payload {
        let mut image = Image::packed(Default::default(), (1, 2), "mono8", vec![pixel; 2]);
        image.header.stamp = stamp(ms);
        Payload::Raw(image)
    }

    /// What becomes of frames with these stamps, each shown at the ROS time beside it.
    fn outcomes(frames: &[(i64, Option<i64>)], rules: Rules) -> Vec<&'static str> {
        let mut stamps = Stamps::new("front".into());
        let mut outcome = |(i, &(ms, clock)): (usize, &(i64, Option<i64>))| {
            let frame = frame(ms, u8::try_from(i).unwrap());
            stamps.check(&frame, clock.map(stamp), rules).map_or_else(|r| r.name(), |()| "")
        };
        frames.iter().enumerate().map(&mut outcome).collect()
    }

    fn without_clock(stamps: &[i64]) -> Vec<&'static str> {
        outcomes(&stamps.iter().map(|&ms| (ms, None)).collect::<Vec<_>>(), RULES)
    }

    #[test]
    fn one_stamp_from_the_past_costs_one_frame() {
        assert_eq!(without_clock(&[5000, 4100, 5100, 5100]), ["", "stamp_old", "", ""]);
    }

    #[test]
    fn a_jump_back_of_more_than_a_second_begins_a_new_epoch_at_once() {
        assert_eq!(without_clock(&[9000, 7999, 8100, 8000]), ["", "", "", "stamp_old"]);
    }

    #[test]
    fn a_bag_shorter_than_a_second_that_begins_again_is_seen_at_its_third_frame() {
        let stamps = [100, 200, 300, 100, 200, 300, 400];
        assert_eq!(without_clock(&stamps), ["", "", "", "stamp_old", "stamp_old", "", ""]);
        // Out of order is not again: each of these lies before the one before it.
        assert_eq!(without_clock(&[900, 800, 700, 600, 500])[1..], ["stamp_old"; 4]);
    }

    #[test]
    fn the_same_picture_with_the_same_stamp_is_one_and_another_picture_is_not() {
        let mut stamps = Stamps::new("front".into());
        let mut check = |frame| stamps.check(&frame, None, RULES).map_err(|reject| reject.name());
        assert_eq!(check(frame(100, 7)), Ok(()));
        assert_eq!(check(frame(100, 7)), Err("duplicate"));
        assert_eq!(check(frame(100, 8)), Ok(()));
        assert_eq!(check(frame(101, 8)), Ok(()));
    }

    #[test]
    fn zero_is_no_stamp_unless_it_is_allowed() {
        assert_eq!(without_clock(&[0, 100, 0]), ["stamp_zero", "", "stamp_zero"]);
        let rules = Rules { allow_zero: true, ..RULES };
        assert_eq!(outcomes(&[(0, Some(9000)), (0, None), (0, None)], rules), [""; 3]);
    }

    #[test]
    fn a_stamp_from_the_future_does_not_make_the_next_one_old() {
        let clock = Some(60_000);
        let frames = [(59_990, clock), (60_501, clock), (60_500, clock), (60_020, Some(60_021))];
        assert_eq!(outcomes(&frames, RULES)[..3], ["", "stamp_future", ""]);
        assert_eq!(outcomes(&[frames[0], frames[1], frames[3]], RULES), ["", "stamp_future", ""]);
    }

    #[test]
    fn a_camera_that_was_on_time_is_refused_when_it_lags_and_a_recording_is_not() {
        let live = [(1000, Some(1100)), (1200, Some(1701)), (1800, Some(1900))];
        assert_eq!(outcomes(&live, RULES), ["", "stale", ""]);
        let recording = [(1000, Some(90_000)), (1100, Some(90_100)), (1200, Some(90_900))];
        assert_eq!(outcomes(&recording, RULES), [""; 3]);
        let any = Rules { max_age: Duration::ZERO, ..RULES };
        assert_eq!(outcomes(&live, any), [""; 3]);
        // A live camera, then a recording in its place.
        let both =
            [live[0], (100_000, Some(100_010)), (5000, Some(100_100)), (5100, Some(100_200))];
        assert_eq!(outcomes(&both, RULES), [""; 4]);
    }

    #[test]
    fn a_step_of_the_systems_clock_is_over_within_a_second_at_ten_frames_a_second() {
        let at = |i: i64, step: i64| (10_000 + 100 * i + step, Some(10_010 + 100 * i + step));
        for step in [-3_600_000, -5000, -700, 700, 5000, 3_600_000] {
            let frames: Vec<_> =
                (0..5).map(|i| at(i, 0)).chain((5..15).map(|i| at(i, step))).collect();
            let refused = outcomes(&frames, RULES).iter().filter(|name| !name.is_empty()).count();
            assert!(refused < 10, "{refused} of the ten after a step of {step} ms");
            assert_eq!(outcomes(&frames, RULES)[14], "", "a step of {step} ms");
        }
    }
}
