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
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

ROOT = pathlib.Path(__file__).parents[2]
STORE = get_typestore(Stores.ROS2_JAZZY)
EXTRA = {
    "autoware_internal_debug_msgs/msg/Float64Stamped": "builtin_interfaces/Time stamp\nfloat64 data\n",
    "ood_segmentation/msg/FrameStatus": (ROOT / "msg/FrameStatus.msg").read_text(),
}
for name, text in EXTRA.items():
    STORE.register(get_types_from_msg(text, name))


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
            "hash": STORE.hash_rihs01(name) if name in STORE.fielddefs else None,
        }
        print(json.dumps(line), flush=True)
    time.sleep(0.05)
