"""A camera or a viewer on Cyclone DDS (its C library, from PyPI) that passes serialised messages on as they are.

  cyclone.py send DOMAIN best_effort|reliable RATE SECONDS MESSAGE TOPIC...
  cyclone.py view DOMAIN best_effort|reliable TOPIC...

MESSAGE is a file with an Image as CDR: it goes to every topic RATE times a second, all topics one after the other, its stamp
replaced by the time of sending. A camera prints {"sent": ..} and waits; a viewer prints {"matched": ..} once every topic
has a writer, then {"at": topic, "ms": from stamp to here} for every message. Both end with their standard input and then
say {"cpu_s": ..}, what they used since they were matched.
"""

import json
import select
import struct
import sys
import time
from pathlib import Path

from cyclonedds._clayer import ddspy_take, ddspy_write
from cyclonedds.core import InstanceState, SampleState, ViewState
from cyclonedds.domain import DomainParticipant
from cyclonedds.pub import DataWriter
from cyclonedds.qos import Policy, Qos
from cyclonedds.sub import DataReader
from cyclonedds.topic import Topic
from cyclonedds.util import duration

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests/peers"))
from peer import Image  # noqa: E402

ANY = SampleState.Any | ViewState.Any | InstanceState.Any


def say(**line):
    print(json.dumps(line), flush=True)


def ended(seconds):
    """Whether the standard input ends within so many seconds."""
    return bool(select.select([0], [], [], seconds)[0])


def qos(reliable, depth):
    return Qos(
        Policy.Reliability.Reliable(duration(seconds=1)) if reliable else Policy.Reliability.BestEffort,
        Policy.Durability.Volatile,
        Policy.History.KeepLast(depth),
        Policy.DataRepresentation(use_cdrv0_representation=True),
    )


def take(reader):
    """Messages as CDR with their encapsulation header, copied by the C library and by nobody else."""
    return [data for data, info in ddspy_take(reader._ref, ANY, 64) if info.valid_data]


def send(participant, reliable, rate, seconds, message, topics):
    wanted = qos(reliable, 5)
    writers = [DataWriter(participant, Topic(participant, "rt" + t, Image, qos=wanted), qos=wanted) for t in topics]
    while not all(writer.get_matched_subscriptions() for writer in writers):
        if ended(0.01):
            sys.exit(1)
    time.sleep(1)  # the other side knows of the match, too
    cpu = time.process_time()
    message, start, count = bytearray(message), time.monotonic(), round(rate * seconds)
    message += bytes(-len(message) % 4)
    for i in range(count):
        time.sleep(max(0, start + i / rate - time.monotonic()))
        for writer in writers:
            struct.pack_into("<iI", message, 4, *divmod(time.time_ns(), 10**9))
            if (code := ddspy_write(writer._ref, bytes(message))) < 0:
                raise OSError(f"Cyclone refuses to write: {code}")
    say(sent=count, seconds=time.monotonic() - start)
    while not ended(1):
        pass
    return cpu


def view(participant, reliable, topics):
    wanted = qos(reliable, 16)
    readers = [DataReader(participant, Topic(participant, "rt" + t, Image, qos=wanted), qos=wanted) for t in topics]
    cpu, matched = 0.0, False
    while not ended(0.001):
        if not matched and all(reader.get_matched_publications() for reader in readers):
            matched = True
            cpu = time.process_time()
            say(matched=len(readers))
        for at, reader in enumerate(readers):
            for data in take(reader):
                sec, nanosec = struct.unpack_from("<iI", data, 4)
                say(at=at, ms=(time.time_ns() - sec * 10**9 - nanosec) / 1e6)
    return cpu


if __name__ == "__main__":
    role, domain, reliability, *rest = sys.argv[1:]
    participant, reliable = DomainParticipant(int(domain)), reliability == "reliable"
    if role == "send":
        rate, seconds, file, *topics = rest
        cpu = send(participant, reliable, float(rate), float(seconds), Path(file).read_bytes(), topics)
    else:
        cpu = view(participant, reliable, rest)
    say(cpu_s=time.process_time() - cpu)
