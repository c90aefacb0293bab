//! `~/heartbeat`: ten times a second one word on how the node is, whether or not frames come.
//!
//! Reliable and latched, so that a reader that misses it for half a second may take the node for dead.

use ros2_client::Publisher;

use super::args::Names;
use super::context::Participant;
use super::monitor::warn;
use crate::Result;
use crate::msg::{DIAGNOSTIC_STATUS, DiagnosticStatus, DiagnosticStatus as Level, KeyValue};

/// The publisher and how often it spoke.
pub(crate) struct Heartbeat {
    topic: String,
    node: String,
    publisher: Publisher<DiagnosticStatus>,
    run_id: u32,
    beats: u64,
}

/// How the node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Every camera gets masks, and nothing is the matter.
    Ready,
    /// Some camera gets masks.
    Degraded,
    /// No camera gets masks that can be trusted.
    Fault,
    /// The node ends.
    Stopping,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Ready => "READY",
            Self::Degraded => "DEGRADED",
            Self::Fault => "FAULT",
            Self::Stopping => "STOPPING",
        }
    }

    fn level(self) -> u8 {
        match self {
            Self::Ready => Level::OK,
            Self::Degraded | Self::Stopping => Level::WARN,
            Self::Fault => Level::ERROR,
        }
    }
}

impl Heartbeat {
    /// Offers the topic.
    ///
    /// # Errors
    /// [`crate::Error::Ros`], [`crate::Error::Setting`] for a remapped name that ROS does not allow.
    pub(crate) fn new(participant: &mut Participant, names: &Names, run_id: u32) -> Result<Self> {
        let topic = names.topic("~/heartbeat")?;
        let publisher = participant.publish(&topic, DIAGNOSTIC_STATUS, (true, true))?;
        Ok(Self { topic, node: names.node().to_owned(), publisher, run_id, beats: 0 })
    }

    /// Says how the node is, given what is said of its parts.
    pub(crate) fn beat(&mut self, parts: &[DiagnosticStatus], stopping: bool) {
        self.beats += 1;
        let (state, message) = judge(parts, stopping);
        let pair = |key: &str, value: String| KeyValue { key: key.into(), value };
        let message = DiagnosticStatus {
            level: state.level(),
            name: format!("{}: heartbeat", self.node),
            message,
            hardware_id: self.node.clone(),
            values: vec![
                pair("state", state.name().into()),
                pair("beats", self.beats.to_string()),
                pair("run_id", self.run_id.to_string()),
            ],
        };
        warn(&self.topic, self.publisher.publish(message));
    }
}

/// The state of the whole and, unless all is well, the part that is worst.
fn judge(parts: &[DiagnosticStatus], stopping: bool) -> (State, String) {
    if stopping {
        return (State::Stopping, "the node ends".into());
    }
    let worst = parts.iter().rev().max_by_key(|part| part.level); // of several the first
    let Some(worst) = worst.filter(|worst| worst.level > Level::OK) else {
        return (State::Ready, "every camera gets masks".into());
    };
    let is = |part: &DiagnosticStatus, name: &str| part.name.ends_with(&format!(": {name}"));
    let broken = |part: &&DiagnosticStatus| {
        part.level >= Level::ERROR && ["output", "process"].iter().any(|name| is(part, name))
    };
    let gets_masks = |part: &DiagnosticStatus| {
        let mut states = part.values.iter().filter(|pair| pair.key == "state");
        part.name.contains(": input/") && states.any(|pair| MASKS.contains(&&*pair.value))
    };
    let fault = parts.iter().find(broken);
    let state = match fault.is_none() && parts.iter().any(gets_masks) {
        true => State::Degraded,
        false => State::Fault,
    };
    let told = fault.unwrap_or(worst);
    (state, format!("{}: {}", told.name, told.message))
}

/// States of an input in which its frames are segmented.
const MASKS: [&str; 2] = ["active", "dropping"];

#[cfg(test)]
mod tests {
    use super::*;

    fn part(name: &str, level: u8, state: &str) -> DiagnosticStatus {
        let values = vec![KeyValue { key: "state".into(), value: state.into() }];
        let (name, message) = (format!("seg: {name}"), format!("{name} is so"));
        DiagnosticStatus { level, name, message, values, ..DiagnosticStatus::default() }
    }

    #[test]
    fn the_whole_is_as_well_as_its_cameras_and_its_worst_part_is_named() {
        let good = part("input/a", Level::OK, "active");
        let lost = part("input/b", Level::ERROR, "stale");
        let late = part("model", Level::WARN, "");
        let hung = part("process", Level::ERROR, "");
        let state = |parts: &[&DiagnosticStatus]| {
            let parts: Vec<_> = parts.iter().map(|part| (*part).clone()).collect();
            let (state, message) = judge(&parts, false);
            (state.name(), message)
        };
        assert_eq!(state(&[&good]).0, "READY");
        assert_eq!(state(&[&good, &late]), ("DEGRADED", "seg: model: model is so".into()));
        assert_eq!(
            state(&[&good, &late, &lost]),
            ("DEGRADED", "seg: input/b: input/b is so".into())
        );
        assert_eq!(state(&[&lost]).0, "FAULT");
        assert_eq!(state(&[&good, &lost, &hung]), ("FAULT", "seg: process: process is so".into()));
        assert_eq!(judge(&[good], true).0, State::Stopping);
    }
}
