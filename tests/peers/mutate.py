"""Random and mutated RTPS to the ports of a node (row 40 of the fault catalogue).

  mutate.py 50000 10000 40     so many datagrams, so many a second, from this seed

It is a participant itself (Eclipse Cyclone), whose announcements it catches: they are sent with flipped bits
and cut short, beside random bytes, submessages of every kind with random bodies, and whole ones (DATA with
announcements of participants and endpoints, DATA_FRAG, HEARTBEAT, GAP, ACKNACK, NACK_FRAG, INFO_*) in which a
number, a length or a name here and there is not what it should be. Most are from this participant, some from
one that is not there; all go to the ports of the first two RustDDS participants of this machine: a node has
two, and Cyclone's ports are not among them.
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
PAIRS = [(0x000100C2, 0x000100C7), (0x000003C2, 0x000003C7), (0x000004C2, 0x000004C7), (0x000200C2, 0x000200C7),
         (0x00000103, 0), (0x00000103, 0x00000104)]
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


def number(dice):
    """A sequence number: small, or anything."""
    high, low = (0, dice.randrange(1, 9)) if dice.randrange(4) else (dice.choice(NUMBERS), dice.getrandbits(32))
    return struct.pack("<II", high, low)


def count(dice, usual):
    return struct.pack("<I", usual if dice.randrange(4) else dice.choice(NUMBERS))


def text(dice):
    word = dice.choice([b"rt/fuzz", b"std_msgs::msg::dds_::String_", b"x" * dice.randrange(300), b"\xff\0\xfe"])
    return count(dice, len(word) + 1) + word + b"\0"


def announcement(dice, prefix):
    """What DATA says of a participant, a writer or a reader: parameters, most of them in order."""
    guid = prefix + struct.pack(">I", dice.choice(ENTITIES))
    locator = struct.pack("<iI", dice.choice([1, 1, 2, -1]), dice.randrange(1 << 16)) + dice.randbytes(16)
    parameters = [
        (0x50, guid), (0x5A, guid), (0x70, guid), (0x05, text(dice)), (0x07, text(dice)),  # names
        (0x15, b"\2\1\0\0"), (0x16, dice.randbytes(4)), (0x02, number(dice)),  # version, vendor, lease
        (0x1A, count(dice, 2) + number(dice)), (0x1D, count(dice, 1)), (0x2F, locator), (0x31, locator),
        (0x58, count(dice, 0x3F)), (0x2C, count(dice, 8) + dice.randbytes(8)), (dice.getrandbits(16), dice.randbytes(8)),
    ]
    body = bytes([0, dice.choice([3, 3, 3, 2, dice.getrandbits(8)]), 0, 0])
    for pid, value in dice.sample(parameters, dice.randrange(len(parameters) + 1)):
        value += bytes(-len(value) % 4)
        length = len(value) if dice.randrange(8) else dice.getrandbits(16)
        body += struct.pack("<HH", pid, length) + value
    return body + (b"\1\0\0\0" if dice.randrange(8) else b"")


def whole(dice, prefix):
    """A submessage as it should be, but for what dice say."""
    writer, reader = dice.choice(PAIRS)
    ends = struct.pack(">II", reader, writer)
    bits = dice.choice([0, 1, 32, 256, dice.getrandbits(32)])
    bitmap = number(dice) + struct.pack("<I", bits) + dice.randbytes(4 * (min(bits, 256) + 31 >> 5))
    payload = announcement(dice, prefix)
    fragment = count(dice, 1) + struct.pack("<HH", dice.choice([1, 1, 0, 65535]), dice.choice([1024, 1, 0, 65535]))
    kind, flags, body = dice.choice([
        (0x15, 0x05, struct.pack("<HH", 0, dice.choice([16, 16, 16, 0, 65535])) + ends + number(dice) + payload),
        (0x16, 0x01, struct.pack("<HH", 0, 28) + ends + number(dice) + fragment + count(dice, 2000) + payload),
        (0x07, 0x01, ends + number(dice) + number(dice) + count(dice, 1)),
        (0x08, 0x01, ends + number(dice) + bitmap),
        (0x06, 0x01, ends + bitmap + count(dice, 1)),
        (0x12, 0x01, ends + number(dice) + bitmap[4:] + count(dice, 1)),
        (0x13, 0x01, ends + number(dice) + count(dice, 1) + count(dice, 1)),
        (0x09, 0x01, dice.randbytes(8)),
        (0x0C, 0x01, dice.randbytes(4) + b"\2\4" + dice.randbytes(2) + dice.choice([prefix, dice.randbytes(12)])),
        (0x0E, 0x01, dice.choice([bytes(12), dice.randbytes(12)])),
        (0x0F, 0x01, count(dice, 1) + struct.pack("<iI", 1, 7411) + dice.randbytes(16)),
    ])
    length = len(body) if dice.randrange(10) else dice.choice([0, len(body) - 4, dice.getrandbits(16)])
    return struct.pack("<BBH", kind, flags if dice.randrange(8) else dice.getrandbits(8), length & 0xFFFF) + body


def mutant(dice, packet):
    kind = dice.randrange(9)
    if kind == 0:
        return dice.randbytes(dice.randrange(1500))
    if kind == 1:
        return packet[:20] + dice.randbytes(dice.randrange(200))
    if kind == 2:
        return packet[: dice.randrange(len(packet))]
    if kind == 3:
        return packet[:20] + b"".join(submessage(dice) for _ in range(dice.randrange(1, 5)))
    if kind < 8:
        prefix = packet[8:20] if dice.randrange(4) else packet[8:18] + dice.randbytes(2)
        return packet[:8] + prefix + b"".join(whole(dice, prefix) for _ in range(dice.randrange(1, 5)))
    flipped = bytearray(packet)
    for _ in range(dice.randrange(1, 9)):
        bit = dice.randrange(8 * len(flipped))
        flipped[bit // 8] ^= 1 << bit % 8
    return bytes(flipped)


if __name__ == "__main__":
    total, rate, seed = map(int, sys.argv[1:])
    first = 7400 + 250 * int(os.environ["ROS_DOMAIN_ID"])
    participant, packet = caught(first)
    mouth, dice, start = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), random.Random(seed), time.monotonic()
    for sent in range(total):
        mouth.sendto(mutant(dice, packet), ("127.0.0.1", first + dice.randrange(10, 14)))
        if (early := start + sent / rate - time.monotonic()) > 0.002:
            time.sleep(early)
