"""A bad link between two network devices (rows 45 and 46 of the fault catalogue).

  link.py va vb     forwards every packet of one to the other

A line "LOSS DELAY JITTER TWICE" on stdin (a share, ms, ms, a share) says how badly from now on: with jitter
packets overtake each other. It answers with how many packets it was given and how many of them it lost.
"""

import fcntl
import heapq
import random
import select
import socket
import struct
import sys
import time

import array

ETH_P_ALL = 3
OUTGOING = 4
SIOCETHTOOL = 0x8946
OFFLOADS = (0x17, 0x1F, 0x24, 0x2C)  # checksums, segmentation: the kernel is to send what a wire carries


def opened(name):
    end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    end.bind((name, 0))
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 20)
    end.setblocking(False)
    return end


def no_offload(name):
    control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for offload in OFFLOADS:
        off = array.array("B", struct.pack("II", offload, 0))
        try:
            fcntl.ioctl(control, SIOCETHTOOL, struct.pack("16sP", name.encode(), off.buffer_info()[0]))
        except OSError:
            pass  # a device that cannot do it does not


class Link:
    def __init__(self, names):
        self.ends = [opened(name) for name in names]
        self.loss = self.delay = self.jitter = self.twice = 0.0
        self.waiting, self.number, self.given, self.lost = [], 0, 0, 0

    def take(self, end):
        other = self.ends[1 - self.ends.index(end)]
        while True:
            try:
                packet, source = end.recvfrom(1 << 16)
            except BlockingIOError:
                return
            if source[2] == OUTGOING:
                continue
            self.given += 1
            if random.random() < self.loss:
                self.lost += 1
                continue
            for _ in range(1 + (random.random() < self.twice)):
                self.number += 1
                due = time.monotonic() + self.delay + random.random() * self.jitter
                heapq.heappush(self.waiting, (due, self.number, other, packet))

    def give(self):
        while self.waiting and self.waiting[0][0] <= time.monotonic():
            _, _, end, packet = heapq.heappop(self.waiting)
            try:
                end.send(packet)
            except OSError:
                pass  # the device is down, or its queue is full: lost, as on a wire

    def run(self):
        print("ready", flush=True)
        while True:
            patience = max(0, self.waiting[0][0] - time.monotonic()) if self.waiting else 1
            ready, _, _ = select.select([sys.stdin, *self.ends], [], [], patience)
            if sys.stdin in ready:
                line = sys.stdin.readline()
                if not line:
                    return
                print(self.given, self.lost, flush=True)
                loss, delay, jitter, twice = map(float, line.split())
                self.loss, self.delay, self.jitter, self.twice = loss, delay / 1e3, jitter / 1e3, twice
            for end in ready:
                if end is not sys.stdin:
                    self.take(end)
            self.give()


if __name__ == "__main__":
    if sys.argv[1] == "--no-offload":
        no_offload(sys.argv[2])
    else:
        Link(sys.argv[1:]).run()
