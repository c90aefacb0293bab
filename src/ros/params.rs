//! The services by which a running node is asked and changed: its parameters, `~/enable`, and those of
//! its lifecycle.
//!
//! They live on a thread of their own, which holds the one true settings; every accepted change goes to
//! the loop of the node through a slot, and the next frame uses it. Answers as rclcpp gives them.

use std::thread::{self, JoinHandle};

use crossbeam_channel::Receiver;
use futures::stream::{StreamExt, select_all};
use futures::{FutureExt, select_biased};
use ros2_client::builtin_interfaces::Time;
use ros2_client::parameters::raw::{
    FloatingPointRange, IntegerRange, Parameter as Assignment, ParameterDescriptor, ParameterEvent,
    ParameterType, ParameterValue as RawValue, SetParametersResult,
};
use ros2_client::rcl_interfaces::{
    DescribeParametersRequest, DescribeParametersResponse, GetParameterTypesRequest,
    GetParameterTypesResponse, GetParametersRequest, GetParametersResponse, ListParametersRequest,
    ListParametersResponse, ListParametersResult, SetParametersAtomicallyResponse,
    SetParametersRequest, SetParametersResponse,
};
use ros2_client::{ParameterValue, Publisher};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::args::Names;
use super::context::Participant;
use super::graph::PARAMETER_EVENT;
use super::lifecycle::{
    ChangeStateResponse, Empty, Lifecycle, State, TRANSITION_EVENT, Transition,
};
use super::raw::failed;
use super::recorder::Trigger;
use super::service::{Request, Service};
use super::slot::{Slot, slot};
use crate::config::{Change, Kind, NodeConfig, Parameter, Value};
use crate::{Error, Result, msg};

/// What a running node can be told to change.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) config: NodeConfig,
    /// False after `~/enable` with `data: false`.
    pub(crate) enabled: bool,
}

/// The thread of the services.
#[derive(Debug)]
pub(crate) struct Services {
    /// The newest settings, after every change.
    pub(crate) changes: Receiver<Settings>,
    /// What the lifecycle wants done, one at a time,
    pub(crate) doing: Receiver<State>,
    /// and whether it was.
    pub(crate) done: smol::channel::Sender<bool>,
    thread: JoinHandle<()>,
}

/// What lives on the thread.
struct Server {
    node: String,
    settings: Settings,
    /// Those of `settings.config`.
    values: Vec<(Parameter, Value)>,
    record: Trigger,
    slot: Slot<Settings>,
    events: Publisher<ParameterEvent>,
    lifecycle: Lifecycle,
    doing: Slot<State>,
}

/// `std_srvs/srv/SetBool`.
#[derive(Clone, Copy, Debug, Deserialize)]
struct SetBoolRequest {
    data: bool,
}

/// And that of `std_srvs/srv/Trigger`, whose request is empty.
#[derive(Clone, Debug, Serialize)]
struct SetBoolResponse {
    success: bool,
    message: String,
}

/// A message in, a message out, both CDR with encapsulation; none where the answer has to wait.
type Answer = fn(&mut Server, &[u8]) -> Result<Option<Vec<u8>>>;

/// Name below the node's, package and type, and who answers.
const SERVICES: [(&str, &str, &str, Answer); 13] = [
    ("list_parameters", RCL, "ListParameters", |server, m| answer(m, |q| server.list(&q))),
    ("get_parameters", RCL, "GetParameters", |server, m| answer(m, |q| server.get(&q))),
    ("get_parameter_types", RCL, "GetParameterTypes", |server, m| answer(m, |q| server.types(&q))),
    ("describe_parameters", RCL, "DescribeParameters", |server, m| {
        answer(m, |q| server.describe(q))
    }),
    ("set_parameters", RCL, "SetParameters", |server, m| answer(m, |q| server.set(q))),
    ("set_parameters_atomically", RCL, "SetParametersAtomically", |server, m| {
        answer(m, |q| server.set_atomically(q))
    }),
    ("enable", "std_srvs", "SetBool", |server, m| answer(m, |q| server.enable(q))),
    ("change_state", LIFECYCLE, "ChangeState", Server::change_state),
    ("get_state", LIFECYCLE, "GetState", |server, m| {
        answer(m, |_: Empty| server.lifecycle.get_state())
    }),
    ("get_available_states", LIFECYCLE, "GetAvailableStates", |_, m| {
        answer(m, |_: Empty| Lifecycle::states())
    }),
    ("get_available_transitions", LIFECYCLE, "GetAvailableTransitions", |server, m| {
        answer(m, |_: Empty| server.lifecycle.available())
    }),
    ("get_transition_graph", LIFECYCLE, "GetAvailableTransitions", |_, m| {
        answer(m, |_: Empty| Lifecycle::graph())
    }),
    ("record", "std_srvs", "Trigger", |server, _| Ok(Some(msg::encode(&server.record())?))),
];
const RCL: &str = "rcl_interfaces";
const LIFECYCLE: &str = "lifecycle_msgs";

fn answer<Q: DeserializeOwned, A: Serialize>(
    message: &[u8],
    reply: impl FnOnce(Q) -> A,
) -> Result<Option<Vec<u8>>> {
    Ok(Some(msg::encode(&reply(msg::decode(message)?))?))
}

impl Services {
    /// Offers the services of a node in this state under its name; they end when `stop` closes.
    ///
    /// # Errors
    /// [`Error::Ros`] when DDS refuses one.
    pub(crate) fn start(
        participant: &mut Participant,
        names: &Names,
        (config, state, record): (NodeConfig, State, Trigger),
        stop: smol::channel::Receiver<()>,
    ) -> Result<Self> {
        let mut services = Vec::new();
        for (name, package, type_name, _) in SERVICES {
            services.push(participant.serve(
                &names.topic(&format!("~/{name}"))?,
                package,
                type_name,
            )?);
        }
        let (slot, changes) = slot();
        let (doing, to_do) = self::slot();
        let (done, ended) = smol::channel::bounded(1);
        let topic = names.topic("~/transition_event")?;
        let events = participant.publish(&topic, TRANSITION_EVENT, (true, false))?;
        let server = Server {
            lifecycle: Lifecycle::new(state, events),
            doing,
            node: names.node_name(),
            values: config.values()?,
            settings: Settings { config, enabled: true },
            record,
            slot,
            events: participant
                .publish_each(&names.topic("/parameter_events")?, PARAMETER_EVENT)?,
        };
        let serve = move || smol::block_on(server.serve(&services, &ended, &stop));
        let thread = thread::Builder::new().name("services".into()).spawn(serve);
        let thread = thread.map_err(failed(|| "thread of the services".into()))?;
        Ok(Self { changes, doing: to_do, done, thread })
    }

    /// Waits for the thread's end, which follows the closing of `stop`.
    ///
    /// # Errors
    /// [`Error::Ros`] when it ended in a panic.
    pub(crate) fn join(self) -> Result<()> {
        let panicked =
            |_payload| Error::Ros { what: "services".into(), problem: "they panicked".into() };
        self.thread.join().map_err(panicked)
    }
}

impl Server {
    async fn serve(
        mut self,
        services: &[Service],
        ended: &smol::channel::Receiver<bool>,
        stop: &smol::channel::Receiver<()>,
    ) {
        let mut waiting: Option<(&Service, Request)> = None;
        let requests = services.iter().enumerate();
        let mut requests = select_all(
            requests.map(|(i, service)| service.requests().map(move |request| (i, request))),
        );
        loop {
            let (i, request) = select_biased! {
                // Before `stop`: a shutdown is answered too.
                well = ended.recv().fuse() => {
                    let success = well.unwrap_or(false);
                    self.lifecycle.end(success);
                    if let (Some((service, request)), Ok(reply)) =
                        (waiting.take(), msg::encode(&ChangeStateResponse { success }))
                    {
                        service.reply(&request, &reply);
                    }
                    continue;
                }
                _ = stop.recv().fuse() => return,
                request = requests.select_next_some() => request,
            };
            let (service, answer) = (&services[i], SERVICES[i].3);
            match answer(&mut self, &request.message) {
                Ok(Some(reply)) => service.reply(&request, &reply),
                Ok(None) => waiting = Some((service, request)),
                Err(error) => log::warn!("{}: request not understood: {error}", service.name),
            }
        }
    }

    /// Hands what is asked for to the main thread, whose answer is the client's.
    fn change_state(&mut self, message: &[u8]) -> Result<Option<Vec<u8>>> {
        let asked: Transition = msg::decode(message)?;
        let Some(doing) = self.lifecycle.begin(&asked) else {
            return Ok(Some(msg::encode(&ChangeStateResponse { success: false })?));
        };
        self.doing.put(|_unread| doing);
        Ok(None)
    }

    /// Names under the prefixes, `depth` levels deep; all where there is no prefix or depth.
    fn list(&self, request: &ListParametersRequest) -> ListParametersResponse {
        let shallow =
            |name: &str| request.depth == 0 || (name.matches('.').count() as u64) < request.depth;
        let asked = |name: &str, prefix: &String| {
            let below = name.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('.'));
            name == prefix || below.is_some_and(shallow)
        };
        let wanted = |name: &&str| match request.prefixes.as_slice() {
            [] => shallow(name),
            prefixes => prefixes.iter().any(|prefix| asked(name, prefix)),
        };
        let names: Vec<_> = self.values.iter().map(|(row, _)| &*row.name).filter(wanted).collect();
        let mut prefixes: Vec<_> =
            names.iter().filter_map(|name| Some(name.rsplit_once('.')?.0.to_owned())).collect();
        prefixes.dedup();
        let names = names.into_iter().map(str::to_owned).collect();
        ListParametersResponse { result: ListParametersResult { names, prefixes } }
    }

    /// The value of a parameter, not set where there is none of this name.
    fn value(&self, name: &str) -> RawValue {
        let found = self.values.iter().find(|(row, _)| row.name == name);
        found.map_or(ParameterValue::NotSet, |(_, value)| to_ros(value.clone())).into()
    }

    fn get(&self, request: &GetParametersRequest) -> GetParametersResponse {
        let values = request.names.iter().map(|name| self.value(name)).collect();
        GetParametersResponse { values }
    }

    fn types(&self, request: &GetParameterTypesRequest) -> GetParameterTypesResponse {
        let values = request.names.iter().map(|name| self.value(name).ptype).collect();
        GetParameterTypesResponse { values }
    }

    fn describe(&self, request: DescribeParametersRequest) -> DescribeParametersResponse {
        let cameras = &self.settings.config.cameras;
        let values = request.names.into_iter().map(|name| descriptor(name, cameras)).collect();
        DescribeParametersResponse { values }
    }

    /// Each on its own.
    fn set(&mut self, request: SetParametersRequest) -> SetParametersResponse {
        let each = request.parameter.into_iter();
        let results = each.map(|assignment| result(self.apply(vec![assignment]))).collect();
        SetParametersResponse { results }
    }

    /// All or none.
    fn set_atomically(&mut self, request: SetParametersRequest) -> SetParametersAtomicallyResponse {
        SetParametersAtomicallyResponse { result: result(self.apply(request.parameter)) }
    }

    fn apply(&mut self, assignments: Vec<Assignment>) -> Result<()> {
        let names: Vec<_> = assignments.iter().map(|assignment| assignment.name.clone()).collect();
        let changes = assignments
            .into_iter()
            .map(|assignment| from_ros(assignment, &self.settings.config.cameras))
            .collect::<Result<_>>()?;
        let config = self.settings.config.changed(changes)?;
        self.values = config.values()?;
        self.settings.config = config;
        self.hand_over();
        for (row, value) in &self.values {
            if names.iter().any(|name| *name == row.name) {
                log::info!("{} is {value} from now on", row.name);
            }
        }
        self.report(names);
        Ok(())
    }

    /// Tells `/parameter_events`.
    fn report(&self, names: Vec<String>) {
        let assignment = |name: String| Assignment { value: self.value(&name), name };
        let event = ParameterEvent {
            stamp: Time::now(),
            node: self.node.clone(),
            new_parameters: Vec::new(),
            changed_parameters: names.into_iter().map(assignment).collect(),
            deleted_parameters: Vec::new(),
        };
        if let Err(error) = self.events.publish(event) {
            log::warn!("/parameter_events: {error}");
        }
    }

    fn enable(&mut self, request: SetBoolRequest) -> SetBoolResponse {
        let enabled = request.data;
        self.settings.enabled = enabled;
        self.hand_over();
        let message = if enabled { "enabled" } else { "disabled: frames are read, not segmented" };
        log::info!("{message}");
        SetBoolResponse { success: true, message: message.into() }
    }

    fn record(&self) -> SetBoolResponse {
        let (success, message) = match self.record.pull("service") {
            Ok(()) => (true, "recording".to_owned()),
            Err(problem) => (false, problem.to_owned()),
        };
        SetBoolResponse { success, message }
    }

    fn hand_over(&mut self) {
        let settings = self.settings.clone();
        self.slot.put(|_unread| settings);
    }
}

/// What the table says; of an unknown name only that it is not set.
fn descriptor(name: String, cameras: &[String]) -> ParameterDescriptor {
    let mut descriptor = ParameterDescriptor {
        name,
        r#type: ParameterType::NOT_SET,
        description: String::new(),
        additional_constraints: String::new(),
        read_only: false,
        dynamic_typing: false,
        floating_point_range: Vec::new(),
        integer_range: Vec::new(),
    };
    let Ok(row) = Parameter::named(&descriptor.name, cameras) else { return descriptor };
    descriptor.description = row.description.into();
    descriptor.read_only = row.change == Change::ReadOnly;
    descriptor.r#type = match row.kind {
        Kind::Bool => ParameterType::BOOL,
        Kind::QuarterTurn => {
            let range = IntegerRange { from_value: 0, to_value: 270, step: 90 };
            descriptor.integer_range.push(range);
            ParameterType::INTEGER
        }
        Kind::Integer { least: from_value, most: to_value } => {
            descriptor.integer_range.push(IntegerRange { from_value, to_value, step: 1 });
            ParameterType::INTEGER
        }
        // No range here: a client that keeps to one cannot say NaN.
        Kind::Calibrated { .. } => {
            descriptor.additional_constraints = row.allowed();
            ParameterType::DOUBLE
        }
        Kind::Double { least: from_value, most: to_value } => {
            let range = FloatingPointRange { from_value, to_value, step: 0.0 }; // any step
            descriptor.floating_point_range.push(range);
            ParameterType::DOUBLE
        }
        Kind::Choice(_) => {
            descriptor.additional_constraints = format!("one of {}", row.allowed());
            ParameterType::STRING
        }
        Kind::Text => ParameterType::STRING,
        Kind::Texts => ParameterType::STRING_ARRAY,
    };
    descriptor
}

fn result(applied: Result<()>) -> SetParametersResult {
    let reason = applied.err().map(|error| error.to_string());
    SetParametersResult { successful: reason.is_none(), reason: reason.unwrap_or_default() }
}

fn to_ros(value: Value) -> ParameterValue {
    match value {
        Value::Bool(value) => ParameterValue::Boolean(value),
        Value::Integer(value) => ParameterValue::Integer(value),
        Value::Double(value) => ParameterValue::Double(value),
        Value::Text(value) => ParameterValue::String(value),
        Value::Texts(value) => ParameterValue::StringArray(value),
    }
}

/// Refuses types that no parameter has.
fn from_ros(assignment: Assignment, cameras: &[String]) -> Result<(String, Value)> {
    let value = match assignment.value.into() {
        ParameterValue::Boolean(value) => Value::Bool(value),
        ParameterValue::Integer(value) => Value::Integer(value),
        ParameterValue::Double(value) => Value::Double(value),
        ParameterValue::String(value) => Value::Text(value),
        ParameterValue::StringArray(value) => Value::Texts(value),
        other => {
            let row = Parameter::named(&assignment.name, cameras)?;
            return Err(row.refuse(&format!("{other:?}")));
        }
    };
    Ok((assignment.name, value))
}
