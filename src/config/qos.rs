//! What is asked of the cameras' publishers and offered to readers of pictures: for all topics, and for one by
//! `qos_overrides.<topic>.<subscription or publisher>.<policy>`, as rclcpp spells it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::NodeConfig;
use super::parameters::{Change, Kind, Parameter, Value};
use crate::{Error, Result};

/// Which of a camera's two topics is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// The one that has a publisher, raw first.
    Auto,
    /// `image_raw`, `sensor_msgs/Image`.
    Raw,
    /// `image_raw/compressed`, `sensor_msgs/CompressedImage`.
    Compressed,
}

/// Reliability asked of a camera.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reliability {
    /// Reliable when every publisher offers it, else best effort.
    Auto,
    /// Lost fragments are asked for again; a best-effort publisher does not match.
    Reliable,
    /// Matches every publisher.
    BestEffort,
}

/// Reliability offered to readers of masks and scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MaskReliability {
    /// The newest picture once; nothing is held for a slow reader.
    BestEffort,
    /// Unacknowledged pictures are held, up to 256 of them.
    Reliable,
}

/// Values by topic, `subscription` or `publisher`, and policy.
pub type QosOverrides = BTreeMap<String, BTreeMap<String, BTreeMap<String, Value>>>;

/// What the names of overrides begin with.
const PREFIX: &str = "qos_overrides.";

const NEWEST: &str = "the node reads the newest image alone, whatever waits behind it";
const VOLATILE: &str = "the node reads what is sent while it runs";
const ASKED: &str =
    "goes before `reliability`; best_available: its auto; system_default: as if not set";
const OFFERED: &str = "goes before `mask_reliability`; system_default: as if not set";

/// The policies: of which end, values, and what there is to know.
#[rustfmt::skip] // a table
const POLICIES: [(&str, &str, Kind, &str); 5] = [
    ("subscription", "reliability",
        Kind::Choice(&["best_effort", "reliable", "best_available", "system_default"]), ASKED),
    ("subscription", "history", Kind::Choice(&["keep_last", "system_default"]), NEWEST),
    ("subscription", "depth", Kind::Integer { least: 1, most: 1 }, NEWEST),
    ("subscription", "durability", Kind::Choice(&["volatile", "system_default"]), VOLATILE),
    ("publisher", "reliability",
        Kind::Choice(&["best_effort", "reliable", "system_default"]), OFFERED),
];

impl Parameter {
    /// The overrides that a topic, an absolute name, may have of its QoS, which are set at start only.
    pub fn of_topic(topic: &str) -> impl Iterator<Item = Self> {
        POLICIES.into_iter().map(move |(end, policy, kind, description)| Self {
            name: format!("{PREFIX}{topic}.{end}.{policy}").into(),
            kind,
            change: Change::ReadOnly,
            description,
        })
    }
}

/// The absolute topic that the name of an override is about, or means to be.
pub(super) fn topic_of(name: &str) -> Option<String> {
    let topic = name.strip_prefix(PREFIX)?.split('.').next()?;
    Some(format!("/{}", topic.trim_start_matches('/')))
}

impl NodeConfig {
    /// What the publishers of a camera's topic, an absolute name, are asked for.
    pub fn reliability_of(&self, topic: &str) -> Reliability {
        match self.qos_override(topic, "subscription") {
            Some("best_effort") => Reliability::BestEffort,
            Some("reliable") => Reliability::Reliable,
            Some("best_available") => Reliability::Auto,
            _ => self.reliability,
        }
    }

    /// What the readers of a topic of pictures, an absolute name, are offered.
    pub fn mask_reliability_of(&self, topic: &str) -> MaskReliability {
        match self.qos_override(topic, "publisher") {
            Some("best_effort") => MaskReliability::BestEffort,
            Some("reliable") => MaskReliability::Reliable,
            _ => self.mask_reliability,
        }
    }

    /// Refuses overrides of other topics than those of images that are read and of pictures that are published,
    /// absolute names.
    ///
    /// # Errors
    /// [`Error::Setting`] with the most similar name.
    pub fn check_overrides(&self, read: &[String], published: &[String]) -> Result<()> {
        let ends = self.qos_overrides.iter();
        let ends = ends.flat_map(|(topic, ends)| ends.keys().map(move |end| (topic, end)));
        for (topic, end) in ends {
            let (known, what) = match end.as_str() {
                "subscription" => (read, "an image topic that this node reads"),
                _ => (published, "a picture topic that this node publishes"),
            };
            if !known.contains(topic) {
                let near = |known: &String| strsim::jaro_winkler(known, topic);
                let nearest = known.iter().max_by(|a, b| near(a).total_cmp(&near(b)));
                let nearest = nearest.map_or("", String::as_str);
                let allowed = format!("{what}, after remapping; did you mean `{nearest}`?");
                return Err(Error::setting(format!("{PREFIX}{topic}.{end}"), topic, allowed));
            }
        }
        Ok(())
    }

    /// A topic's own reliability. Its other policies have one value each that is allowed.
    fn qos_override(&self, topic: &str, end: &str) -> Option<&str> {
        match self.qos_overrides.get(topic)?.get(end)?.get("reliability")? {
            Value::Text(word) => Some(word),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Override;
    use super::*;

    fn load(values: &[(&str, &str)]) -> Result<NodeConfig> {
        let given =
            |&(key, yaml): &(&str, &str)| Override::Value { key: key.into(), yaml: yaml.into() };
        let given: Vec<_> =
            [("model.weights", "a.safetensors")].iter().chain(values).map(given).collect();
        NodeConfig::load("/ood_segmentation", &given)
    }

    #[test]
    fn a_topic_has_its_own_reliability_and_the_others_that_of_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.yaml");
        let text = "/**:\n  ros__parameters:\n    reliability: reliable\n    qos_overrides:\n      \
            /front/image_raw: {subscription: {reliability: best_effort, depth: 1}}\n      \
            /front/ood/image:\n        publisher: {reliability: reliable}\n";
        std::fs::write(&path, text).unwrap();
        let rear = Override::Value {
            key: "qos_overrides./rear/image_raw.subscription.reliability".into(),
            yaml: "best_available".into(),
        };
        let weights = Override::Value { key: "model.weights".into(), yaml: "a".into() };
        let config = NodeConfig::load("/seg", &[Override::File(path), rear, weights]).unwrap();
        assert_eq!(config.reliability_of("/front/image_raw"), Reliability::BestEffort);
        assert_eq!(config.reliability_of("/rear/image_raw"), Reliability::Auto);
        assert_eq!(config.reliability_of("/front/image_raw/compressed"), Reliability::Reliable);
        assert_eq!(config.mask_reliability_of("/front/ood/image"), MaskReliability::Reliable);
        assert_eq!(config.mask_reliability_of("/rear/ood/image"), MaskReliability::BestEffort);
        // Listed, read-only, and enough to start the same node.
        let listed: Vec<_> = config.values().unwrap().into_iter().collect();
        let listed: Vec<_> =
            listed.iter().filter(|(row, _)| row.name.starts_with(PREFIX)).collect();
        assert_eq!(listed.len(), 4);
        assert!(listed.iter().all(|(row, _)| row.change == Change::ReadOnly));
        let same =
            [("reliability".into(), "reliable".into()), ("model.weights".into(), "a".into())];
        let same =
            same.into_iter().chain(listed.iter().map(|(p, v)| (p.name.to_string(), v.to_string())));
        let same: Vec<_> = same.map(|(key, yaml)| Override::Value { key, yaml }).collect();
        assert_eq!(NodeConfig::load("/seg", &same).unwrap(), config);
    }

    #[test]
    fn system_default_is_no_override_and_what_the_node_does_anyway_is_accepted() {
        let subscription = "qos_overrides./camera/image_raw.subscription";
        let of = |policy: &str, yaml: &str| {
            load(&[(&format!("{subscription}.{policy}"), yaml)]).unwrap()
        };
        let default = of("reliability", "system_default");
        assert_eq!(default.reliability_of("/camera/image_raw"), Reliability::Auto);
        for (policy, yaml) in [("history", "keep_last"), ("depth", "1"), ("durability", "volatile")]
        {
            assert_eq!(of(policy, yaml).reliability_of("/camera/image_raw"), Reliability::Auto);
        }
    }

    #[test]
    fn what_no_override_can_mean_is_refused_with_the_remedy() {
        let raw = "qos_overrides./camera/image_raw";
        let cases = [
            (".subscription.reliability", "sometimes", "best_effort, reliable, best_available"),
            (".subscription.reliability", "1", "best_effort, reliable, best_available"),
            (
                ".subscription.history",
                "keep_all",
                "keep_last, system_default: the node reads the newest",
            ),
            (".subscription.depth", "5", "1 to 1: the node reads the newest image alone"),
            (
                ".subscription.durability",
                "transient_local",
                "volatile, system_default: the node reads",
            ),
            (
                ".subscription.reliabilty",
                "reliable",
                "did you mean `qos_overrides./camera/image_raw.subscription.reliability`",
            ),
            (
                ".subscription.deadline",
                "1",
                "did you mean `qos_overrides./camera/image_raw.subscription.",
            ),
            (".publisher.depth", "1", "did you mean `qos_overrides./camera/image_raw."),
            ("", "reliable", "did you mean `qos_overrides./camera/image_raw."),
        ];
        for (end, yaml, expected) in cases {
            let error = load(&[(&format!("{raw}{end}"), yaml)]).unwrap_err().chain();
            assert!(error.contains(expected), "{end}: {yaml}: {error}");
        }
        let relative = ("qos_overrides.camera/image_raw.subscription.reliability", "reliable");
        let error = load(&[relative]).unwrap_err().chain();
        assert!(
            error.contains(
                "did you mean `qos_overrides./camera/image_raw.subscription.reliability`"
            ),
            "{error}"
        );
        let foreign = load(&[(&format!("{raw}.subscription.depth"), "1")]).unwrap();
        let error = foreign.check_overrides(&["/front/image_raw".into()], &[]).unwrap_err().chain();
        assert!(error.contains("did you mean `/front/image_raw`"), "{error}");
        foreign.check_overrides(&["/camera/image_raw".into()], &[]).unwrap();
        let config = load(&[]).unwrap();
        let change = vec![(format!("{raw}.subscription.depth"), Value::Integer(1))];
        assert!(config.changed(change).unwrap_err().to_string().contains("read-only"));
    }
}
