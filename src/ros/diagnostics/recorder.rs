//! `recorder`: what becomes of the evidence.

use std::time::Instant;

use super::{Finding, Health, Level, Recording, WINDOW, or_na, value};

impl Health {
    /// How the recorder is now.
    pub(crate) fn recording(&mut self, recording: Recording, now: Instant) {
        let (before, last) = self.recording.take().unwrap_or_default();
        let last = if recording.dropped > before.dropped { Some(now) } else { last };
        self.recording = Some((recording, last));
    }

    /// None where nothing is recorded.
    pub(super) fn recorder_finding(&self, now: Instant) -> Option<Finding> {
        let (Recording { bag, bags, dropped, problem }, last_drop) = self.recording.as_ref()?;
        let dropping = last_drop.is_some_and(|last| now.duration_since(last) < WINDOW);
        let (level, message) = match problem {
            Some(problem) => (Level::WARN, format!("the last recording failed: {problem}")),
            None if dropping => {
                (Level::WARN, "frames come faster than they are recorded; some are left out".into())
            }
            None if bag.is_some() => (Level::OK, "recording".into()),
            None => (Level::OK, "ready".into()),
        };
        let values = vec![
            value("recording", &or_na(bag.as_ref())),
            value("bags", bags),
            value("dropped", dropped),
        ];
        Some(Finding::new(level, message, values))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tests::{find, health};
    use super::*;

    #[test]
    fn what_is_left_out_of_bags_is_counted_and_a_warning_for_a_while() {
        let (mut health, start) = (health("[front]"), Instant::now());
        assert!(health.recorder_finding(start).is_none(), "nothing is recorded");
        let at = |s| start + Duration::from_secs(s);
        health.recording(Recording::default(), at(0));
        assert_eq!(find(&mut health, "recorder", at(0)).0, Level::OK);
        let dropped = Recording { dropped: 3, bags: 1, ..Recording::default() };
        health.recording(dropped.clone(), at(1));
        let (level, _, values) = find(&mut health, "recorder", at(1));
        assert_eq!((level, &*values["dropped"], &*values["bags"]), (Level::WARN, "3", "1"));
        health.recording(dropped.clone(), at(11));
        assert_eq!(find(&mut health, "recorder", at(14)).0, Level::OK);
        health.recording(Recording { problem: Some("no disk".into()), ..dropped }, at(15));
        let (level, message, _) = find(&mut health, "recorder", at(15));
        assert!(level == Level::WARN && message.ends_with("no disk"), "{message}");
    }
}
