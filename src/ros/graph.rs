//! What discovery knows of the endpoints at the other end of our topics.

use ros2_client::dds::rustdds::policy::{Durability, Reliability};
use ros2_client::dds::rustdds::qos::QosPolicyId;
use ros2_client::dds::rustdds::{DomainParticipant, QosPolicies, RTPSEntity};

use super::context::{dds_name, newest};
use super::raw::dds_type;
use crate::msg::{DIAGNOSTIC_ARRAY, LOG, METRICS_MESSAGE};

/// Discovery as one participant sees it.
pub(crate) struct Graph {
    participant: DomainParticipant,
    /// Absolute names of our outputs with what they offer.
    offers: Vec<(String, QosPolicies)>,
}

/// Type of `/parameter_events`.
pub(crate) const PARAMETER_EVENT: &str = "rcl_interfaces/msg/ParameterEvent";

/// The publishers of one topic, of the type that is read; others do not count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Publishers {
    /// How many are known.
    pub(crate) count: usize,
    /// Whether all of them are reliable.
    pub(crate) reliable: bool,
    /// Whether all of them keep what they sent for late subscribers.
    pub(crate) latched: bool,
    /// Why none of them matches a best-effort and a reliable subscription, with the fix.
    pub(crate) mismatch: [Option<String>; 2],
}

impl Graph {
    pub(crate) fn new(participant: DomainParticipant, offers: Vec<(String, QosPolicies)>) -> Self {
        Self { participant, offers }
    }

    /// Who publishes the topic, such as `/camera/image_raw` of type `sensor_msgs/msg/Image`.
    pub(crate) fn publishers(&self, topic: &str, type_name: &str) -> Publishers {
        let (name, type_name) = (dds_name(topic), dds_type(type_name));
        let writers = self.participant.discovered_writers();
        let writers = writers.iter().map(|writer| &writer.publication_topic_data);
        let of_topic = writers.filter(|w| w.topic_name == name && w.type_name == type_name);
        let offers: Vec<_> = of_topic.map(|writer| writer.qos()).collect();
        let mismatch = [false, true].map(|reliable| {
            let asked = newest(reliable).build();
            let failures: Option<Vec<_>> =
                offers.iter().map(|offer| offer.compliance_failure_wrt(&asked)).collect();
            failures?.first().map(|policy| input_mismatch(topic, policy))
        });
        Publishers {
            count: offers.len(),
            reliable: offers.iter().all(|o| o.reliability() != Some(Reliability::BestEffort)),
            latched: offers.iter().all(|o| o.durability() >= Some(Durability::TransientLocal)),
            mismatch,
        }
    }

    /// Absolute names of the topics that somebody reads, each with whether a reader asks for reliability.
    pub(crate) fn read_topics(&self) -> Vec<(String, bool)> {
        let readers = self.readers().into_iter();
        let reliable =
            |qos: &QosPolicies| matches!(qos.reliability(), Some(Reliability::Reliable { .. }));
        readers.map(|(name, qos)| (name, reliable(&qos))).collect()
    }

    /// A sentence with the fix for each of our outputs that has a reader asking for more than it offers.
    pub(crate) fn unserved(&self) -> Vec<String> {
        let readers = self.readers();
        let sentence = |(topic, offer): &(String, QosPolicies)| {
            let mut asked = readers.iter().filter(|(name, _)| name == topic);
            let policy = asked.find_map(|(_, asked)| offer.compliance_failure_wrt(asked))?;
            Some(output_mismatch(topic, &policy))
        };
        self.offers.iter().filter_map(sentence).collect()
    }

    /// A sentence for each of our outputs that somebody else publishes too, but for those that any
    /// node has.
    pub(crate) fn conflicts(&self) -> Vec<String> {
        let shared = [DIAGNOSTIC_ARRAY, LOG, METRICS_MESSAGE, PARAMETER_EVENT].map(dds_type);
        let own = self.participant.guid().prefix; // ours are discovered, too
        let writers = self.participant.discovered_writers();
        let others = writers.iter().filter(|w| w.writer_proxy.remote_writer_guid.prefix != own);
        let others = others.map(|writer| &writer.publication_topic_data);
        let others: Vec<_> = others.filter(|w| !shared.contains(&w.type_name)).collect();
        let taken = |topic: &&String| {
            let name = dds_name(topic);
            others.iter().any(|writer| writer.topic_name == name)
        };
        let topics = self.offers.iter().map(|(topic, _)| topic).filter(taken);
        let sentence = |topic| {
            format!(
                "output_conflict: {topic} has another publisher too; stop it or remap one of them"
            )
        };
        topics.map(sentence).collect()
    }

    /// Whether somebody else serves the parameters of a node of this name, as every node does; if so, whether
    /// a GUID of theirs is smaller than ours.
    pub(crate) fn namesake(&self, node: &str) -> Option<bool> {
        let topic = format!("rq{node}/get_parametersRequest");
        let own = self.participant.guid().prefix;
        let readers = self.participant.discovered_readers().into_iter();
        let of_topic = readers.filter(|r| r.subscription_topic_data.topic_name == topic);
        let prefixes = of_topic.map(|reader| reader.reader_proxy.remote_reader_guid.prefix);
        Some(prefixes.filter(|prefix| *prefix != own).min()? < own)
    }

    fn readers(&self) -> Vec<(String, QosPolicies)> {
        let readers = self.participant.discovered_readers();
        let readers = readers.iter().map(|reader| &reader.subscription_topic_data);
        let topic = |name: &str| Some(name.strip_prefix("rt")?.to_owned());
        readers.filter_map(|reader| Some((topic(&reader.topic_name)?, reader.qos()))).collect()
    }
}

fn input_mismatch(topic: &str, policy: &QosPolicyId) -> String {
    match policy {
        QosPolicyId::Reliability => format!(
            "{topic}: reliability: the publisher offers best effort, this node asks for reliable; \
             set parameter `reliability: auto` or `best_effort` (a qos_overrides of this topic goes first), \
             or make the publisher reliable"
        ),
        QosPolicyId::Representation => format!(
            "{topic}: data representation: the publisher writes XCDR2, this node reads XCDR1; \
             make the publisher write XCDR1, as ROS 2 does"
        ),
        other => format!(
            "{topic}: {other:?}: the publisher offers less than the default that this node asks for; \
             leave this policy of the publisher at its default"
        ),
    }
}

fn output_mismatch(topic: &str, policy: &QosPolicyId) -> String {
    match policy {
        QosPolicyId::Reliability => format!(
            "{topic}: reliability: a subscriber asks for reliable, this node offers best effort; \
             set parameter `mask_reliability: reliable` (a qos_overrides of this topic goes first), \
             or subscribe best effort"
        ),
        QosPolicyId::Durability => format!(
            "{topic}: durability: a subscriber asks for transient local, this node offers volatile; \
             subscribe volatile"
        ),
        other => format!(
            "{topic}: {other:?}: a subscriber asks for more than the default that this node offers; \
             leave this policy of the subscriber at its default"
        ),
    }
}
