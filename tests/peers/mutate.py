"""Random and mutated RTPS to the ports of a node (row 40 of the fault catalogue).

  mutate.py 50000 10000     so many datagrams, so many a second

It is a participant itself (Eclipse Cyclone), whose announcements it catches: they are sent with flipped bits
and cut short, beside random bytes and submessages of every kind with random bodies. All are from this
participant, as far as their random parts do not say otherwise, and go to the ports of the first two RustDDS
participants of this machine: a node has two, and Cyclone's ports are not among them.
"""

import os
import random
import socket
import struct
import sys
import time

from cyclonedds.domain import DomainParticipant

KINDS = [0x01, 0x06, 0x07, 0x08, 0x09, 0x0C, 0x0D, 0x0E, 0x0F, 0x12, 0x13, 0x15, 0x16]
# Writers and readers of participants, publications, subscriptions and liveliness, then any user's.
ENTITIES = [0x000100C2, 0x000100C7, 0x000003C2, 0x000003C7, 0x000004C2, 0x000004C7, 0x000200C2, 0x000200C7,
            0x00000103, 0x00000104, 0]
NUMBERS = [0, 1, 2, 255, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]


def caught(port):
    """A new participant and one of its announcements."""
    ears = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
        ears.setsockopt(socket.SOL_SOCKET, option, 1)
    ears.bind(("239.255.0.1", port))
    group = socket.inet_aton("239.255.0.1") + socket.inet_aton("0.0.0.0")
    ears.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
    ears.settimeout(60)
    domain = DomainParticipant(int(os.environ["ROS_DOMAIN_ID"]))
    while True:
        packet = ears.recv(1 << 16)
        if packet[8:20] == domain.guid.bytes[:12]:
            return domain, packet


def submessage(dice):
    words = [dice.choice([dice.choice(NUMBERS), dice.getrandbits(32)]) for _ in range(dice.randrange(12))]
    body = struct.pack(">II", dice.choice(ENTITIES), dice.choice(ENTITIES))
    body += struct.pack(f"<{len(words)}I", *words)
    length = dice.choice([len(body), len(body), dice.getrandbits(16)])
    return struct.pack("<BBH", dice.choice(KINDS), dice.getrandbits(8) | 1, length) + body


def mutant(dice, packet):
    kind = dice.randrange(5)
    if kind == 0:
        return dice.randbytes(dice.randrange(1500))
    if kind == 1:
        return packet[:20] + dice.randbytes(dice.randrange(200))
    if kind == 2:
        return packet[: dice.randrange(len(packet))]
    if kind == 3:
        return packet[:20] + b"".join(submessage(dice) for _ in range(dice.randrange(1, 5)))
    flipped = bytearray(packet)
    for _ in range(dice.randrange(1, 9)):
        bit = dice.randrange(8 * len(flipped))
        flipped[bit // 8] ^= 1 << bit % 8
    return bytes(flipped)


if __name__ == "__main__":
    count, rate = map(int, sys.argv[1:])
    first = 7400 + 250 * int(os.environ["ROS_DOMAIN_ID"])
    participant, packet = caught(first)
    mouth, dice, start = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), random.Random(40), time.monotonic()
    for sent in range(count):
        mouth.sendto(mutant(dice, packet), ("127.0.0.1", first + dice.randrange(10, 14)))
        if (early := start + sent / rate - time.monotonic()) > 0.002:
            time.sleep(early)
