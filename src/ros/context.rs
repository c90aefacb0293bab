//! One DDS participant with its ROS node, as one value: dropping it ends every thread and socket of it.
//!
//! RustDDS loses a peer for good that was silent for longer than its lease, so a participant must be
//! replaceable while the process runs; that takes about 0.2 s.

use std::net::{IpAddr, Ipv4Addr};
use std::thread::{self, JoinHandle};

use ros2_client::dds::rustdds::policy::{Durability, History, Lifespan, Reliability};
use ros2_client::dds::rustdds::{
    DomainParticipantBuilder, Duration, QosPolicies, QosPolicyBuilder, Topic, TopicKind,
};
use ros2_client::{Context, Node, NodeName, NodeOptions, Publisher, Subscription};
use serde::Serialize;

use super::args::Network;
use super::graph::Graph;
use super::raw::{SEND_BUFFER, dds_type, failed, offer_type_hashes};
use super::service::Service;
use crate::Result;
use crate::msg::{LOG, Log};

/// Calls of a service that wait, and answers that a client has not acknowledged. ROS has 10; a client that asks for
/// more at a time never hears of the others.
const CALLS: i32 = 1000;

/// A participant, its node and the thread that keeps the node in the ROS graph.
pub(crate) struct Participant {
    // Fields drop in this order: the node stops the spinner, the spinner's end frees the context.
    node: Option<Node>,
    spinner: Option<JoinHandle<()>>,
    context: Context,
    offers: Vec<(String, QosPolicies)>,
}

impl Participant {
    /// Joins the domain under a node name, with so many bytes asked of the kernel for what was not read yet.
    ///
    /// # Errors
    /// [`crate::Error::Ros`] where there is no socket, no interface or no free participant number.
    pub(crate) fn new(
        network: Network,
        (namespace, name): (&str, &str),
        receive_buffer: usize,
    ) -> Result<Self> {
        let domain = network.domain_id;
        let first = 7400 + 250 * u32::from(domain); // by the RTPS standard
        let last = first + 249;
        let what =
            || format!("joining ROS domain {domain} (UDP ports {first} to {last}) as {name}");
        offer_type_hashes();
        let mut builder = DomainParticipantBuilder::new(domain)
            .socket_receive_buffer_size(receive_buffer)
            .socket_send_buffer_size(SEND_BUFFER);
        if network.localhost_only {
            builder = builder.with_only_networks([IpAddr::V4(Ipv4Addr::LOCALHOST)]);
        }
        let participant = builder.build().map_err(failed(what))?;
        let context = Context::from_domain_participant(participant).map_err(failed(what))?;
        let name = NodeName::new(namespace, name).map_err(failed(what))?;
        let options = NodeOptions::new().enable_rosout(false).start_parameter_services(false);
        let mut node = context.new_node(name, options).map_err(failed(what))?;
        let spinner = node.spinner().map_err(failed(what))?;
        let spin = move || {
            if let Err(error) = smol::block_on(spinner.spin()) {
                log::error!("the ROS graph is no longer followed: {error}");
            }
        };
        let spinner = thread::Builder::new().name("ros spinner".into()).spawn(spin);
        let spinner = Some(spinner.map_err(failed(what))?);
        Ok(Self { node: Some(node), spinner, context, offers: Vec::new() })
    }

    fn node(&mut self, topic: &str) -> Result<&mut Node> {
        let shut_down = || failed(|| topic.to_owned())("the node was shut down");
        self.node.as_mut().ok_or_else(shut_down)
    }

    /// A topic by its absolute name and type, such as `sensor_msgs/msg/Image`.
    fn topic(&self, name: &str, type_name: &str, qos: &QosPolicies) -> Result<Topic> {
        let (name, type_name) = (dds_name(name), dds_type(type_name));
        let participant = self.context.domain_participant();
        let topic = participant.create_topic(name.clone(), type_name, qos, TopicKind::NoKey);
        topic.map_err(failed(|| format!("topic {name}")))
    }

    /// A subscription that holds at most one unread message.
    ///
    /// # Errors
    /// [`crate::Error::Ros`].
    pub(crate) fn subscribe<M: 'static>(
        &mut self,
        name: &str,
        type_name: &str,
        reliable: bool,
    ) -> Result<Subscription<M>> {
        let topic = self.topic(name, type_name, &newest(reliable).build())?;
        self.node(name)?.create_subscription(&topic, None).map_err(failed(|| name.to_owned()))
    }

    /// A subscription that asks for the last message from before it; only latched publishers match.
    ///
    /// # Errors
    /// [`crate::Error::Ros`].
    pub(crate) fn subscribe_latched<M: 'static>(
        &mut self,
        name: &str,
        type_name: &str,
    ) -> Result<Subscription<M>> {
        let topic = self.topic(
            name,
            type_name,
            &newest(true).durability(Durability::TransientLocal).build(),
        )?;
        self.node(name)?.create_subscription(&topic, None).map_err(failed(|| name.to_owned()))
    }

    /// A publisher of the newest message; a `latched` one is for late subscribers too.
    ///
    /// # Errors
    /// [`crate::Error::Ros`].
    pub(crate) fn publish<M: Serialize>(
        &mut self,
        name: &str,
        type_name: &str,
        (reliable, latched): (bool, bool),
    ) -> Result<Publisher<M>> {
        let durability = if latched { Durability::TransientLocal } else { Durability::Volatile };
        self.publisher(name, type_name, newest(reliable).durability(durability).build())
    }

    /// The publisher of log lines, for late subscribers too, with the QoS that ROS gives `/rosout`.
    ///
    /// # Errors
    /// [`crate::Error::Ros`].
    pub(crate) fn publish_log(&mut self, name: &str) -> Result<Publisher<Log>> {
        let qos = newest(true)
            .durability(Durability::TransientLocal)
            .history(History::KeepLast { depth: 1000 })
            .lifespan(Lifespan { duration: Duration::from_secs(10) });
        self.publisher(name, LOG, qos.build())
    }

    fn publisher<M: Serialize>(
        &mut self,
        name: &str,
        type_name: &str,
        qos: QosPolicies,
    ) -> Result<Publisher<M>> {
        let topic = self.topic(name, type_name, &qos)?;
        let publisher = self.node(name)?.create_publisher(&topic, None);
        self.offers.push((name.to_owned(), qos));
        publisher.map_err(failed(|| name.to_owned()))
    }

    /// Discovery's view of the topics published so far.
    pub(crate) fn graph(&self) -> Graph {
        Graph::new(self.context.domain_participant(), self.offers.clone())
    }

    /// A service by its absolute name and type, with the QoS that ROS gives to services but for its depth.
    ///
    /// # Errors
    /// [`crate::Error::Ros`].
    pub(crate) fn serve(&mut self, name: &str, package: &str, type_name: &str) -> Result<Service> {
        let what = || format!("service {name}");
        let qos = newest(true).history(History::KeepLast { depth: CALLS }).build();
        let participant = self.context.domain_participant().clone();
        let topic = |name: String, end: &str| {
            let type_name = dds_type(&format!("{package}/srv/{type_name}_{end}"));
            participant.create_topic(name, type_name, &qos, TopicKind::NoKey).map_err(failed(what))
        };
        let requests = topic(format!("rq{name}Request"), "Request")?;
        let requests =
            self.node(name)?.create_subscription(&requests, None).map_err(failed(what))?;
        let replies = topic(format!("rr{name}Reply"), "Response")?;
        let publisher = participant.create_publisher(&qos).map_err(failed(what))?;
        let replies = publisher.create_datawriter_no_key(&replies, None).map_err(failed(what))?;
        Ok(Service { name: name.to_owned(), requests, replies })
    }

    /// A publisher with the QoS that rclcpp gives parameter events: of many messages in a row each is sent.
    ///
    /// # Errors
    /// [`crate::Error::Ros`].
    pub(crate) fn publish_each<M: Serialize>(
        &mut self,
        name: &str,
        type_name: &str,
    ) -> Result<Publisher<M>> {
        let qos = newest(true).history(History::KeepLast { depth: 1000 }).build();
        self.publisher(name, type_name, qos)
    }

    /// As [`Graph::read_topics`].
    pub(crate) fn read_topics(&self) -> Vec<(String, bool)> {
        self.graph().read_topics()
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

/// Depth 1; a reliable writer never waits for room: what is newest now is not in a moment.
pub(super) fn newest(reliable: bool) -> QosPolicyBuilder {
    let reliability = match reliable {
        true => Reliability::Reliable { max_blocking_time: Duration::ZERO },
        false => Reliability::BestEffort,
    };
    QosPolicyBuilder::new().reliability(reliability).history(History::KeepLast { depth: 1 })
}

pub(super) fn dds_name(name: &str) -> String {
    format!("rt{name}")
}
