"""A DDS peer (Eclipse Cyclone) that calls a node's services in the layout of rmw_cyclonedds.

  params.py /node '[["get_parameters", {"names": ["batch"]}], ["frame"], ["events"]]'

Steps are done in order; one JSON list on stdout holds what each brought: the reply of a service, the
status of a picture shown to /camera, the number of answers to a flood of calls, the changes told on
/parameter_events since the first call, the steps told on ~/transition_event. A parameter's value is [type,
value], such as ["double", 0.5] (NaN comes back as ".nan"), a transition [number, label].
"""

import json
import os
import random
import sys
import time
from dataclasses import asdict, dataclass

from cyclonedds.domain import DomainParticipant
from cyclonedds.idl import IdlStruct, make_idl_struct
from cyclonedds.idl.types import float64, int64, sequence, uint8, uint64
from cyclonedds.pub import DataWriter
from cyclonedds.qos import Policy, Qos
from cyclonedds.sub import DataReader
from cyclonedds.topic import Topic
from cyclonedds.util import duration

from peer import FrameStatus, Header, Image, Time

PATIENCE = 60  # seconds for any step
KINDS = ["not_set", "bool", "integer", "double", "string", "byte_array", "bool_array", "integer_array",
         "double_array", "string_array"]


@dataclass
class ParameterValue(IdlStruct, typename="rcl_interfaces::msg::dds_::ParameterValue_"):
    type: uint8
    bool_value: bool = False
    integer_value: int64 = 0
    double_value: float64 = 0.0
    string_value: str = ""
    byte_array_value: sequence[uint8] = ()
    bool_array_value: sequence[bool] = ()
    integer_array_value: sequence[int64] = ()
    double_array_value: sequence[float64] = ()
    string_array_value: sequence[str] = ()


@dataclass
class Parameter(IdlStruct, typename="rcl_interfaces::msg::dds_::Parameter_"):
    name: str
    value: ParameterValue


@dataclass
class ParameterEvent(IdlStruct, typename="rcl_interfaces::msg::dds_::ParameterEvent_"):
    stamp: Time
    node: str
    new_parameters: sequence[Parameter]
    changed_parameters: sequence[Parameter]
    deleted_parameters: sequence[Parameter]


@dataclass
class Result(IdlStruct, typename="rcl_interfaces::msg::dds_::SetParametersResult_"):
    successful: bool
    reason: str


@dataclass
class Listed(IdlStruct, typename="rcl_interfaces::msg::dds_::ListParametersResult_"):
    names: sequence[str]
    prefixes: sequence[str]


@dataclass
class FloatingPointRange(IdlStruct, typename="rcl_interfaces::msg::dds_::FloatingPointRange_"):
    from_value: float64
    to_value: float64
    step: float64


@dataclass
class IntegerRange(IdlStruct, typename="rcl_interfaces::msg::dds_::IntegerRange_"):
    from_value: int64
    to_value: int64
    step: uint64


@dataclass
class Descriptor(IdlStruct, typename="rcl_interfaces::msg::dds_::ParameterDescriptor_"):
    name: str
    type: uint8
    description: str
    additional_constraints: str
    read_only: bool
    dynamic_typing: bool
    floating_point_range: sequence[FloatingPointRange]
    integer_range: sequence[IntegerRange]


@dataclass
class State(IdlStruct, typename="lifecycle_msgs::msg::dds_::State_"):
    id: uint8
    label: str


@dataclass
class Transition(IdlStruct, typename="lifecycle_msgs::msg::dds_::Transition_"):
    id: uint8
    label: str


@dataclass
class Step(IdlStruct, typename="lifecycle_msgs::msg::dds_::TransitionDescription_"):
    transition: Transition
    start_state: State
    goal_state: State


@dataclass
class TransitionEvent(IdlStruct, typename="lifecycle_msgs::msg::dds_::TransitionEvent_"):
    timestamp: uint64
    transition: Transition
    start_state: State
    goal_state: State


NOTHING, LIFECYCLE, STEPS = {"structure_needs_at_least_one_member": uint8}, "lifecycle_msgs", "GetAvailableTransitions"
NAMES, RCL = {"names": sequence[str]}, "rcl_interfaces"
SERVICES = {
    "list_parameters": (RCL, "ListParameters", {"prefixes": sequence[str], "depth": uint64}, {"result": Listed}),
    "get_parameters": (RCL, "GetParameters", NAMES, {"values": sequence[ParameterValue]}),
    "get_parameter_types": (RCL, "GetParameterTypes", NAMES, {"types": sequence[uint8]}),
    "describe_parameters": (RCL, "DescribeParameters", NAMES, {"descriptors": sequence[Descriptor]}),
    "set_parameters": (RCL, "SetParameters", {"parameters": sequence[Parameter]}, {"results": sequence[Result]}),
    "set_parameters_atomically": (
        RCL, "SetParametersAtomically", {"parameters": sequence[Parameter]}, {"result": Result}),
    "change_state": (LIFECYCLE, "ChangeState", {"transition": Transition}, {"success": bool}),
    "get_state": (LIFECYCLE, "GetState", NOTHING, {"current_state": State}),
    "get_available_states": (LIFECYCLE, "GetAvailableStates", NOTHING, {"available_states": sequence[State]}),
    "get_available_transitions": (LIFECYCLE, STEPS, NOTHING, {"available_transitions": sequence[Step]}),
    "get_transition_graph": (LIFECYCLE, STEPS, NOTHING, {"available_transitions": sequence[Step]}),
    "enable": ("std_srvs", "SetBool", {"data": bool}, {"success": bool, "message": str}),
    "record": ("std_srvs", "Trigger", {"empty": uint8}, {"success": bool, "message": str}),
}


def to_dds(field, value):
    if field == "transition":
        return Transition(*value)
    if field != "parameters":
        return value
    kind = lambda name: {"type": KINDS.index(name)}
    return [Parameter(n, ParameterValue(**kind(t), **{f"{t}_value": v})) for n, (t, v) in value]


def to_json(value):
    if isinstance(value, ParameterValue):
        kind = KINDS[value.type]
        found = getattr(value, f"{kind}_value", None)
        found = ".nan" if found != found else found  # JSON has no NaN, a dump writes it so
        return [kind, list(found) if kind.endswith("array") else found]
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    return asdict(value) if isinstance(value, IdlStruct) else value


def until(what, found):
    """What `found` returns once it is true."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if value := found():
            return value
        time.sleep(0.01)
    raise TimeoutError(what)


class Caller:
    def __init__(self, node):
        self.node = node
        self.participant = DomainParticipant(int(os.environ["ROS_DOMAIN_ID"]))
        self.guid = random.getrandbits(63)
        self.sequence = 1 << 33  # both halves of the number matter
        self.second = 0
        self.clients = {}
        self.told = self.reader("rt/parameter_events", ParameterEvent)
        self.moves = self.reader(f"rt{node}/transition_event", TransitionEvent)
        self.statuses = self.reader("rt/camera/status", FrameStatus)
        self.camera = self.writer("rt/camera/image_raw", Image)

    def qos(self):
        return Qos(
            Policy.Reliability.Reliable(duration(seconds=1)),
            Policy.Durability.Volatile,
            Policy.History.KeepLast(100),
            Policy.DataRepresentation(use_cdrv0_representation=True),
        )

    def reader(self, name, kind):
        return DataReader(self.participant, Topic(self.participant, name, kind, qos=self.qos()), qos=self.qos())

    def writer(self, name, kind):
        return DataWriter(self.participant, Topic(self.participant, name, kind, qos=self.qos()), qos=self.qos())

    def client(self, name):
        package, kind, request, reply = SERVICES[name]
        header = {"guid": uint64, "sequence_number": int64}
        make = lambda end, fields: make_idl_struct(
            kind + end, f"{package}::srv::dds_::{kind}_{end}_", header | fields)
        request, response = make("Request", request), make("Response", reply)
        writer = self.writer(f"rq{self.node}/{name}Request", request)
        reader = self.reader(f"rr{self.node}/{name}Reply", response)
        until(f"server of {name}", writer.get_matched_subscriptions)
        until(f"server of {name}", reader.get_matched_publications)
        return request, writer, reader, reply

    def call(self, name, fields=None):
        if name not in self.clients:
            self.clients[name] = self.client(name)
        request, writer, reader, reply = self.clients[name]
        fields = {field: to_dds(field, value) for field, value in (fields or dict.fromkeys(NOTHING, 0)).items()}
        for _ in range(PATIENCE // 3):  # the server may not yet have found the reader
            self.sequence += 1
            writer.write(request(guid=self.guid, sequence_number=self.sequence, **fields))
            end = time.monotonic() + 3
            while time.monotonic() < end:
                for sample in reader.take(N=10):
                    if (sample.guid, sample.sequence_number) == (self.guid, self.sequence):
                        return {field: to_json(getattr(sample, field)) for field in reply}
                time.sleep(0.01)
        raise TimeoutError(f"no reply of {name}")

    def flood(self, fields):
        """Many calls of one service, always as many under way, 10 if not told; how many a second were answered."""
        name, calls = fields["name"], fields["calls"]
        self.call(name, fields["fields"])  # both sides know each other
        request, writer, reader, _ = self.clients[name]
        asked = {field: to_dds(field, value) for field, value in fields["fields"].items()}
        start, first, answered = time.monotonic(), self.sequence, set()
        while len(answered) < calls:
            while self.sequence - first < min(calls, len(answered) + fields.get("under_way", 10)):
                self.sequence += 1
                writer.write(request(guid=self.guid, sequence_number=self.sequence, **asked))
            mine = [sample.sequence_number for sample in reader.take(N=100) if sample.guid == self.guid]
            answered.update(number for number in mine if number > first)
            if time.monotonic() - start > PATIENCE:
                raise TimeoutError(f"{len(answered)} of {calls} calls of {name} were answered")
            time.sleep(0.001)
        return {"answered": len(answered), "a_second": round(calls / (time.monotonic() - start))}

    def frame(self):
        until("node that reads the camera", self.camera.get_matched_subscriptions)
        until("node that tells the status", self.statuses.get_matched_publications)
        self.statuses.take(N=100)
        for _ in range(PATIENCE // 2):
            self.second += 1
            stamp = Time(self.second, 5)
            self.camera.write(Image(Header(stamp, "front"), 42, 70, "mono8", 0, 70, bytes(42 * 70)))
            end = time.monotonic() + 2
            while time.monotonic() < end:
                for status in self.statuses.take(N=100):
                    if status.header.stamp.sec == self.second:
                        said = asdict(status) | {"latency_ms": None}
                        # JSON has no NaN: a threshold that is not known is none.
                        return {key: None if value != value else value for key, value in said.items()}
                time.sleep(0.01)
        raise TimeoutError("no status")

    def events(self):
        first = [until("event", lambda: self.told.take(N=1))]
        time.sleep(0.5)
        return [{"node": e.node, "changed": [[p.name, to_json(p.value)] for p in e.changed_parameters]}
                for events in [*first, self.told.take(N=100)] for e in events]

    def transitions(self):
        return [[e.start_state.label, e.transition.label, e.goal_state.label] for e in self.moves.take(N=100)]

    def step(self, name, *fields):
        return self.call(name, *fields) if name in SERVICES else getattr(self, name)(*fields)


if __name__ == "__main__":
    caller = Caller(sys.argv[1])
    print(json.dumps([caller.step(*step) for step in json.loads(sys.argv[2])]))
