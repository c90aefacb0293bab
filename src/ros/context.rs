//! One DDS participant with its ROS node, as one value: dropping it ends every thread and socket of it.
//!
//! RustDDS loses a peer for good that was silent for longer than its lease, so a participant must be
//! replaceable while the process runs; that takes about 0.2 s.

use std::net::{IpAddr, Ipv4Addr};
use std::thread::{self, JoinHandle};

use ros2_client::dds::rustdds::policy::{self, ResourceLimits};
use ros2_client::dds::rustdds::{
    DomainParticipantBuilder, Duration, QosPolicies, QosPolicyBuilder, Topic, TopicKind, discovery,
};
use ros2_client::{Context, MessageTypeName, Node, NodeName, NodeOptions, Publisher, Subscription};
use serde::Serialize;

use super::args::Network;
use crate::{Error, Result};

/// Receive buffer asked of the kernel, bytes; it grants at most `net.core.rmem_max`.
pub(crate) const RECEIVE_BUFFER: usize = 64 << 20;
const SEND_BUFFER: usize = 16 << 20;

/// A participant, its node and the thread that keeps the node in the ROS graph.
pub(crate) struct Participant {
    // Fields drop in this order: the node stops the spinner, the spinner's end frees the context.
    node: Option<Node>,
    spinner: Option<JoinHandle<()>>,
    context: Context,
}

/// Type of a topic's messages, as (package, name).
pub(crate) type Type = (&'static str, &'static str);

impl Participant {
    /// Joins the domain under a node name.
    ///
    /// # Errors
    /// [`Error::Ros`] where there is no socket, no interface or no free participant number.
    pub(crate) fn new(network: Network, namespace: &str, name: &str) -> Result<Self> {
        let failed = |problem: String| Error::Ros {
            what: format!("joining ROS domain {} as {name}", network.domain_id),
            problem,
        };
        let mut builder = DomainParticipantBuilder::new(network.domain_id)
            .socket_receive_buffer_size(RECEIVE_BUFFER)
            .socket_send_buffer_size(SEND_BUFFER);
        if network.localhost_only {
            builder = builder.with_only_networks([IpAddr::V4(Ipv4Addr::LOCALHOST)]);
        }
        let participant = builder.build().map_err(|error| failed(error.to_string()))?;
        let context = Context::from_domain_participant(participant);
        let context = context.map_err(|error| failed(error.to_string()))?;
        let name = NodeName::new(namespace, name).map_err(|error| failed(error.to_string()))?;
        let options = NodeOptions::new().enable_rosout(false).start_parameter_services(false);
        let node = context.new_node(name, options).map_err(|error| failed(error.to_string()))?;
        let mut participant = Self { node: Some(node), spinner: None, context };
        let spinner = participant.node()?.spinner().map_err(|error| failed(error.to_string()))?;
        let spin = move || {
            if let Err(error) = smol::block_on(spinner.spin()) {
                log::error!("the ROS graph is no longer followed: {error}");
            }
        };
        let thread = thread::Builder::new().name("ros spinner".into()).spawn(spin);
        participant.spinner = Some(thread.map_err(|error| failed(error.to_string()))?);
        Ok(participant)
    }

    fn node(&mut self) -> Result<&mut Node> {
        self.node.as_mut().ok_or_else(|| Error::Ros {
            what: "using a ROS node".into(),
            problem: "it was shut down".into(),
        })
    }

    /// A topic under its absolute ROS name.
    fn topic(&self, name: &str, (package, kind): Type, qos: &QosPolicies) -> Result<Topic> {
        let kind = MessageTypeName::new(package, kind).dds_msg_type();
        let participant = self.context.domain_participant();
        let topic = participant.create_topic(dds_name(name), kind, qos, TopicKind::NoKey);
        topic.map_err(|error| endpoint(name, &error))
    }

    /// A subscription that holds at most one unread message.
    pub(crate) fn subscribe<M: 'static>(
        &mut self,
        name: &str,
        kind: Type,
        reliable: bool,
    ) -> Result<Subscription<M>> {
        let topic = self.topic(name, kind, &newest(reliable, false))?;
        // No second QoS: the profile of ros2-client cannot carry the bound on samples.
        self.node()?.create_subscription(&topic, None).map_err(|error| endpoint(name, &error))
    }

    /// A publisher of the newest message; `latched` ones are kept for late subscribers.
    pub(crate) fn publish<M: Serialize>(
        &mut self,
        name: &str,
        kind: Type,
        (reliable, latched): (bool, bool),
    ) -> Result<Publisher<M>> {
        let topic = self.topic(name, kind, &newest(reliable, latched))?;
        self.node()?.create_publisher(&topic, None).map_err(|error| endpoint(name, &error))
    }

    /// What every discovered writer of the topic offers: `None` without writers, else whether all are
    /// reliable. Writers of another type do not count.
    pub(crate) fn offered(&self, name: &str, (package, kind): Type) -> Option<bool> {
        let kind = MessageTypeName::new(package, kind).dds_msg_type();
        let writers = self.context.domain_participant().discovered_writers();
        let writers = writers.iter().map(|writer| &writer.publication_topic_data);
        let of_topic = writers.filter(|w| w.topic_name == dds_name(name) && w.type_name == kind);
        let best_effort = |w: &discovery::PublicationBuiltinTopicData| {
            w.reliability == Some(policy::Reliability::BestEffort)
        };
        of_topic.map(|writer| !best_effort(writer)).reduce(|a, b| a && b)
    }

    /// Absolute names of the topics that somebody reads, each with whether a reader asks for reliability.
    pub(crate) fn read_topics(&self) -> Vec<(String, bool)> {
        let readers = self.context.domain_participant().discovered_readers();
        let readers = readers.iter().map(|reader| &reader.subscription_topic_data);
        let topic = |reader: &discovery::SubscriptionBuiltinTopicData| {
            let name = reader.topic_name.strip_prefix("rt")?.to_owned();
            let reliability = reader.qos().reliability();
            Some((name, matches!(reliability, Some(policy::Reliability::Reliable { .. }))))
        };
        readers.filter_map(topic).collect()
    }
}

impl Drop for Participant {
    fn drop(&mut self) {
        drop(self.node.take());
        if let Some(Err(_)) = self.spinner.take().map(JoinHandle::join) {
            log::error!("the thread of the ROS graph panicked");
        }
    }
}

/// Depth 1 in both senses: history, and samples in RustDDS's cache, whose default of 64 is what a slow
/// reader would get to see first, oldest first.
fn newest(reliable: bool, latched: bool) -> QosPolicies {
    let reliability = match reliable {
        // Never wait for room: what is newest now is not in a moment.
        true => policy::Reliability::Reliable { max_blocking_time: Duration::ZERO },
        false => policy::Reliability::BestEffort,
    };
    let durability =
        if latched { policy::Durability::TransientLocal } else { policy::Durability::Volatile };
    QosPolicyBuilder::new()
        .reliability(reliability)
        .durability(durability)
        .history(policy::History::KeepLast { depth: 1 })
        .resource_limits(ResourceLimits {
            max_samples: 1,
            max_instances: 1,
            max_samples_per_instance: 1,
        })
        .build()
}

fn dds_name(name: &str) -> String {
    format!("rt{name}")
}

fn endpoint(name: &str, error: &dyn std::fmt::Display) -> Error {
    Error::Ros { what: format!("topic {name}"), problem: error.to_string() }
}
