"""Reads a bag with PyPI `rosbags` and `mcap` and prints what is in it, one JSON document.

Usage: read_bag.py BAG, a folder or one .mcap file
"""

import hashlib
import json
import sys
from pathlib import Path

from mcap.reader import make_reader
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

bag = Path(sys.argv[1])
store = get_typestore(Stores.ROS2_JAZZY)
messages, topics = [], {}
with Reader(bag) as reader:
    for connection in reader.connections:
        if connection.msgtype not in store.types:  # vision_msgs: as the bag itself says
            store.register(get_types_from_msg(connection.msgdef.data, connection.msgtype))
        qos = connection.ext.offered_qos_profiles[0]
        topics[connection.topic] = [
            connection.msgtype,
            connection.msgcount,
            connection.digest == store.hash_rihs01(connection.msgtype),
            qos.reliability.name,
            qos.durability.name,
        ]
    for connection, time, data in reader.messages():
        message = store.deserialize_cdr(data, connection.msgtype)
        stamp = message.header.stamp
        digest = hashlib.sha256(data).hexdigest()
        messages.append([connection.topic, time, [stamp.sec, stamp.nanosec], digest])

with open(next(bag.glob("*.mcap")) if bag.is_dir() else bag, "rb") as file:
    reader = make_reader(file, validate_crcs=True)
    again = [
        [channel.topic, message.log_time, hashlib.sha256(message.data).hexdigest()]
        for _, channel, message in reader.iter_messages()
    ]
    profile = reader.get_header().profile
    schemas = {s.name: (s.encoding, s.data.decode()) for s in reader.get_summary().schemas.values()}
expected = {
    name: ("ros2msg", store.generate_msgdef(name, ros_version=2)[0]) for name in schemas
}
for name in schemas:
    if schemas[name] != expected[name]:
        sys.exit(f"{name}: {schemas[name]}, rosbags writes {expected[name]}")
print(
    json.dumps(
        {
            "topics": topics,
            "messages": messages,
            "mcap_agrees": again == [[t, time, digest] for t, time, _, digest in messages],
            "profile": profile,
        }
    )
)
