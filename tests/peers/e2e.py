"""The reference checker of a mask: is it the one that this run of the node made of this frame?

The node says in FrameStatus what semantic/image (mask_crc32) and ood/image (ood_crc32) must match: CRC-32
over the little-endian run_id u32, sequence u64, stamp i32 and u32, height u32, width u32, and the pixels.
A reader gives every status and every mask to a Checker; a verdict comes when both of a stamp are there.
"""

import struct
import zlib
from collections import deque

OK, WRONG_CRC, REPEATED, LOST = "OK", "WRONG_CRC", "REPEATED", "LOST"
WAITING = 8  # stamps of which one half is there


def crc32(run_id, sequence, stamp, height, width, data):
    return zlib.crc32(data, zlib.crc32(struct.pack("<IQiIII", run_id, sequence, *stamp, height, width)))


class Checker:
    """Verdicts of frames, and of the last ten together."""

    def __init__(self, field="ood_crc32"):
        self.field = field
        self.statuses, self.masks = {}, {}
        self.last = None
        self.window = deque(maxlen=10)

    def status(self, status):
        """`status` has the fields of FrameStatus, and `stamp` as (sec, nanosec)."""
        return self.match(self.statuses, status["stamp"], status)

    def mask(self, stamp, height, width, data):
        return self.match(self.masks, stamp, (height, width, data))

    def match(self, half, stamp, value):
        half[stamp] = value
        if len(half) > WAITING:
            del half[next(iter(half))]
        if stamp not in self.statuses or stamp not in self.masks:
            return None
        verdict = self.judge(self.statuses.pop(stamp), *self.masks.pop(stamp))
        self.window.append(verdict)
        return verdict

    def judge(self, status, height, width, data):
        run_id, sequence = status["run_id"], status["sequence"]
        left_out = status["dropped"] + status["limited"]
        before, self.last = self.last, (run_id, sequence, left_out)
        if crc32(run_id, sequence, status["stamp"], height, width, data) != status[self.field]:
            return WRONG_CRC
        if before is None or before[0] != run_id:
            return OK
        if sequence <= before[1]:
            return REPEATED
        return OK if sequence - before[1] == 1 + left_out - before[2] else LOST

    def trusted(self):
        """Whether the masks are to be believed: at most one of the last ten verdicts was not OK."""
        return len(self.window) > 0 and sum(verdict != OK for verdict in self.window) <= 1
