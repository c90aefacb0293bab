"""Prints a line of JSON for each endpoint that is discovered: its topic, its type and its USER_DATA, and the
hash that PyPI `rosbags` computes for that type, null where it does not know the type."""

import json
import os
import pathlib
import sys
import time

from cyclonedds.builtin import BuiltinDataReader, BuiltinTopicDcpsPublication, BuiltinTopicDcpsSubscription
from cyclonedds.domain import DomainParticipant
from cyclonedds.qos import Policy
from rosbags.interfaces import Nodetype
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

ROOT = pathlib.Path(__file__).parents[2]
STORE = get_typestore(Stores.ROS2_JAZZY)
EXTRA = {
    "autoware_internal_debug_msgs/msg/Float64Stamped": "builtin_interfaces/Time stamp\nfloat64 data\n",
    "ood_segmentation/msg/FrameStatus": (ROOT / "msg/FrameStatus.msg").read_text(),
}
for name, text in EXTRA.items():
    STORE.register(get_types_from_msg(text, name))

OUTCOME = "bool success\nstring message\n"
SERVICES = {  # request and response
    "std_srvs/srv/SetBool": ("bool data\n", OUTCOME),
    "std_srvs/srv/Trigger": ("", OUTCOME),
    "rcl_interfaces/srv/ListParameters": ("string[] prefixes\nuint64 depth\n", "rcl_interfaces/ListParametersResult result\n"),
    "rcl_interfaces/srv/GetParameters": ("string[] names\n", "rcl_interfaces/ParameterValue[] values\n"),
    "rcl_interfaces/srv/GetParameterTypes": ("string[] names\n", "uint8[] types\n"),
    "rcl_interfaces/srv/DescribeParameters": ("string[] names\n", "rcl_interfaces/ParameterDescriptor[] descriptors\n"),
    "rcl_interfaces/srv/SetParameters": (
        "rcl_interfaces/Parameter[] parameters\n", "rcl_interfaces/SetParametersResult[] results\n"),
    "rcl_interfaces/srv/SetParametersAtomically": (
        "rcl_interfaces/Parameter[] parameters\n", "rcl_interfaces/SetParametersResult result\n"),
    "lifecycle_msgs/srv/ChangeState": ("lifecycle_msgs/Transition transition\n", "bool success\n"),
    "lifecycle_msgs/srv/GetState": ("", "lifecycle_msgs/State current_state\n"),
    "lifecycle_msgs/srv/GetAvailableStates": ("", "lifecycle_msgs/State[] available_states\n"),
    "lifecycle_msgs/srv/GetAvailableTransitions": ("", "lifecycle_msgs/TransitionDescription[] available_transitions\n"),
    "example_interfaces/srv/AddTwoInts": ("int64 a\nint64 b\n", "int64 sum\n"),
}
# `char` is uint8 in ROS 2, which rosbags does not say of this one.
STORE.fielddefs["service_msgs/msg/ServiceEventInfo"][1][2] = (
    "client_gid", (Nodetype.ARRAY, ((Nodetype.BASE, ("uint8", 0)), 16)))


def service_hash(name):
    """That of a message of request, response and event, as REP-2016 has it."""
    part = lambda end: (Nodetype.NAME, f"{name}_{end}")
    for end, text in zip(("Request", "Response"), SERVICES[name]):
        fields = next(iter(get_types_from_msg(text, "any/msg/Any").values()))[1] if text else []
        STORE.fielddefs[f"{name}_{end}"] = [], fields
    one = lambda end: (end.lower(), (Nodetype.SEQUENCE, (part(end), 1)))
    info = "info", (Nodetype.NAME, "service_msgs/msg/ServiceEventInfo")
    STORE.fielddefs[f"{name}_Event"] = [], [info, one("Request"), one("Response")]
    STORE.fielddefs[name] = [], [(f"{end.lower()}_message", part(end)) for end in ("Request", "Response", "Event")]
    return STORE.hash_rihs01(name)


# As written in the design of rmw_zenoh.
assert service_hash("example_interfaces/srv/AddTwoInts").startswith("RIHS01_e118de6bf5eeb66a2491b5bda11202e7")


def type_hash(name):
    service = name.removesuffix("_Request").removesuffix("_Response")
    if service in SERVICES:
        return service_hash(service)
    return STORE.hash_rihs01(name) if name in STORE.fielddefs else None


def ros_name(dds):
    package, _, name = dds.partition("::dds_::")
    return package.replace("::", "/") + "/" + name.removesuffix("_")


participant = DomainParticipant(int(os.environ["ROS_DOMAIN_ID"]))
readers = [
    BuiltinDataReader(participant, kind)
    for kind in (BuiltinTopicDcpsPublication, BuiltinTopicDcpsSubscription)
]
end = time.monotonic() + float(sys.argv[1])
while time.monotonic() < end:
    for endpoint in (sample for reader in readers for sample in reader.take(N=1000)):
        if endpoint.participant_key == participant.guid or not endpoint.type_name:
            continue
        name = ros_name(endpoint.type_name)
        data = endpoint.qos[Policy.Userdata]
        line = {
            "topic": endpoint.topic_name,
            "type": name,
            "user_data": bytes(data.data).decode() if data else "",
            "hash": type_hash(name),
        }
        print(json.dumps(line), flush=True)
    time.sleep(0.05)
