"""An independent DDS peer (Eclipse Cyclone) with ROS 2 names and types: plays cameras, reads outputs.

One JSON object per line on stdin is a command, one per line on stdout an answer or an event.

  {"do": "image", "topic": "/camera/image_raw", "height": 2, "width": 3, "encoding": "mono8", "step": 3,
   "file": "pixels.bin" | "fill": 7, "length": 6, "stamp": [1, 2], "frame_id": "front", "reliable": true}
  {"do": "compressed", "topic": ..., "format": "jpeg", "file": "a.jpg", "stamp": ..., "frame_id": ...}
  {"do": "play", ..., "rate": 10, "seconds": 3}  as "image" again and again, the stamp's seconds counting up
  {"do": "lie", "topic": ..., "base64": ...}     an Image message with these bytes, zeros up to 64, as its CDR
  {"do": "flood", "topic": ..., "length": 100, "seconds": 3}  Image messages as fast as it goes
  {"do": "offer", "topic": ...}                  the writer of Image messages, and nothing written
  {"do": "info", "topic": "/camera/camera_info", "height": 2, "width": 3, "k": [9 numbers],
   "p": [12 numbers], "stamp": ..., "frame_id": ...}
  {"do": "clock", "stamp": [7, 8]}               a tick of /clock
  {"do": "read", "topic": ..., "type": a key of TYPES, "reliable": false, "latched": false,
   "save": "folder"}
  {"do": "check", "mask": "/camera/ood/image", "status": "/camera/status", "tamper": "" | "flip" | "replay"}
   the masks against their statuses (e2e.py), as they come or tampered with: {"verdict": .., "stamp": ..,
   "trusted": ..}
  {"do": "guid"}                                 answers {"guid": the participant's, 32 hexadecimal digits}
  {"do": "sleep", "seconds": 0.5}
  {"do": "topics"}  the names of all topics with a reader or writer, ours included: {"topics": [..]}
With "latched" a writer keeps its last message. Publishing makes the writer and waits until `readers`
(default 1) are matched, `timeout` s (default 20).
Defaults: step = width, stamp [1, 0], frame_id "camera", best effort. Answers: {"done": ..}, or
{"error": ..}. Events: {"topic": .., "type": .., "stamp": [s, ns], "frame_id": .., ..., "length": ..,
"sha256": ..}; with "save" the bytes are in the file named by "file" beside height, width, encoding; of
a PNG these are its pixels, with "height", "width" and "channels" from the PNG.
"""

import base64
import hashlib
import json
import os
import select
import struct
import sys
import time
import zlib
from dataclasses import asdict, dataclass, fields

from cyclonedds.builtin import (
    BuiltinDataReader,
    BuiltinTopicDcpsPublication,
    BuiltinTopicDcpsSubscription,
)
from cyclonedds.domain import DomainParticipant
from cyclonedds.idl import IdlStruct
from cyclonedds.idl.types import array, float32, float64, int32, sequence, uint8, uint16, uint32, uint64
from cyclonedds.pub import DataWriter
from cyclonedds.qos import Policy, Qos
from cyclonedds.sub import DataReader
from cyclonedds.topic import Topic
from cyclonedds.util import duration

from e2e import Checker


@dataclass
class Time(IdlStruct, typename="builtin_interfaces::msg::dds_::Time_"):
    sec: int32
    nanosec: uint32


@dataclass
class Header(IdlStruct, typename="std_msgs::msg::dds_::Header_"):
    stamp: Time
    frame_id: str


@dataclass
class Clock(IdlStruct, typename="rosgraph_msgs::msg::dds_::Clock_"):
    clock: Time


@dataclass
class Image(IdlStruct, typename="sensor_msgs::msg::dds_::Image_"):
    header: Header
    height: uint32
    width: uint32
    encoding: str
    is_bigendian: uint8
    step: uint32
    data: sequence[uint8]


@dataclass
class CompressedImage(IdlStruct, typename="sensor_msgs::msg::dds_::CompressedImage_"):
    header: Header
    format: str
    data: sequence[uint8]


@dataclass
class Lie(IdlStruct, typename="sensor_msgs::msg::dds_::Image_"):
    body: array[uint8, 64]


@dataclass
class FrameStatus(IdlStruct, typename="ood_segmentation::msg::dds_::FrameStatus_"):
    header: Header
    camera: str
    sequence: uint64
    dropped: uint64
    limited: uint64
    state: uint8
    reason: str
    text: str
    height: uint32
    width: uint32
    wait_ms: float32
    decode_ms: float32
    preprocess_ms: float32
    inference_ms: float32
    batch: uint32
    postprocess_ms: float32
    latency_ms: float32
    score: str
    ood_threshold: float32
    model_sha256: str
    age_ms: float32
    late: bool
    mode: str
    ood_fraction: float32
    run_id: uint32
    mask_crc32: uint32
    ood_crc32: uint32
    quality: uint16
    unfamiliarity: float32


@dataclass
class KeyValue(IdlStruct, typename="diagnostic_msgs::msg::dds_::KeyValue_"):
    key: str
    value: str


@dataclass
class DiagnosticStatus(IdlStruct, typename="diagnostic_msgs::msg::dds_::DiagnosticStatus_"):
    level: uint8
    name: str
    message: str
    hardware_id: str
    values: sequence[KeyValue]


@dataclass
class DiagnosticArray(IdlStruct, typename="diagnostic_msgs::msg::dds_::DiagnosticArray_"):
    header: Header
    status: sequence[DiagnosticStatus]


@dataclass
class Float64Stamped(IdlStruct, typename="autoware_internal_debug_msgs::msg::dds_::Float64Stamped_"):
    stamp: Time
    data: float64


@dataclass
class StatisticDataPoint(IdlStruct, typename="statistics_msgs::msg::dds_::StatisticDataPoint_"):
    data_type: uint8
    data: float64


@dataclass
class MetricsMessage(IdlStruct, typename="statistics_msgs::msg::dds_::MetricsMessage_"):
    measurement_source_name: str
    metrics_source: str
    unit: str
    window_start: Time
    window_stop: Time
    statistics: sequence[StatisticDataPoint]


@dataclass
class Log(IdlStruct, typename="rcl_interfaces::msg::dds_::Log_"):
    stamp: Time
    level: uint8
    name: str
    msg: str
    file: str
    function: str
    line: uint32


@dataclass
class RegionOfInterest(IdlStruct, typename="sensor_msgs::msg::dds_::RegionOfInterest_"):
    x_offset: uint32
    y_offset: uint32
    height: uint32
    width: uint32
    do_rectify: bool


@dataclass
class CameraInfo(IdlStruct, typename="sensor_msgs::msg::dds_::CameraInfo_"):
    header: Header
    height: uint32
    width: uint32
    distortion_model: str
    d: sequence[float64]
    k: array[float64, 9]
    r: array[float64, 9]
    p: array[float64, 12]
    binning_x: uint32
    binning_y: uint32
    roi: RegionOfInterest


@dataclass
class VisionClass(IdlStruct, typename="vision_msgs::msg::dds_::VisionClass_"):
    class_id: uint16
    class_name: str


@dataclass
class LabelInfo(IdlStruct, typename="vision_msgs::msg::dds_::LabelInfo_"):
    header: Header
    class_map: sequence[VisionClass]
    threshold: float32


@dataclass
class Point(IdlStruct, typename="geometry_msgs::msg::dds_::Point_"):
    x: float64
    y: float64
    z: float64


@dataclass
class Quaternion(IdlStruct, typename="geometry_msgs::msg::dds_::Quaternion_"):
    x: float64
    y: float64
    z: float64
    w: float64


@dataclass
class Pose(IdlStruct, typename="geometry_msgs::msg::dds_::Pose_"):
    position: Point
    orientation: Quaternion


@dataclass
class PoseWithCovariance(IdlStruct, typename="geometry_msgs::msg::dds_::PoseWithCovariance_"):
    pose: Pose
    covariance: array[float64, 36]


@dataclass
class ObjectHypothesis(IdlStruct, typename="vision_msgs::msg::dds_::ObjectHypothesis_"):
    class_id: str
    score: float64


@dataclass
class ObjectHypothesisWithPose(IdlStruct, typename="vision_msgs::msg::dds_::ObjectHypothesisWithPose_"):
    hypothesis: ObjectHypothesis
    pose: PoseWithCovariance


@dataclass
class Point2D(IdlStruct, typename="vision_msgs::msg::dds_::Point2D_"):
    x: float64
    y: float64


@dataclass
class Pose2D(IdlStruct, typename="vision_msgs::msg::dds_::Pose2D_"):
    position: Point2D
    theta: float64


@dataclass
class BoundingBox2D(IdlStruct, typename="vision_msgs::msg::dds_::BoundingBox2D_"):
    center: Pose2D
    size_x: float64
    size_y: float64


@dataclass
class Detection2D(IdlStruct, typename="vision_msgs::msg::dds_::Detection2D_"):
    header: Header
    results: sequence[ObjectHypothesisWithPose]
    bbox: BoundingBox2D
    id: str


@dataclass
class Detection2DArray(IdlStruct, typename="vision_msgs::msg::dds_::Detection2DArray_"):
    header: Header
    detections: sequence[Detection2D]


@dataclass
class ColorRGBA(IdlStruct, typename="std_msgs::msg::dds_::ColorRGBA_"):
    r: float32
    g: float32
    b: float32
    a: float32


@dataclass
class Duration(IdlStruct, typename="builtin_interfaces::msg::dds_::Duration_"):
    sec: int32
    nanosec: uint32


@dataclass
class ImageMarker(IdlStruct, typename="visualization_msgs::msg::dds_::ImageMarker_"):
    header: Header
    ns: str
    id: int32
    kind: int32
    action: int32
    position: Point
    scale: float32
    outline_color: ColorRGBA
    filled: uint8
    fill_color: ColorRGBA
    lifetime: Duration
    points: sequence[Point]
    outline_colors: sequence[ColorRGBA]


TYPES = {
    "image": Image,
    "compressed": CompressedImage,
    "status": FrameStatus,
    "diagnostics": DiagnosticArray,
    "heartbeat": DiagnosticStatus,
    "float64": Float64Stamped,
    "metrics": MetricsMessage,
    "log": Log,
    "info": CameraInfo,
    "labels": LabelInfo,
    "detections": Detection2DArray,
    "marker": ImageMarker,
}


def say(**line):
    print(json.dumps(line, default=vars), flush=True)


PNG = b"\x89PNG\r\n\x1a\n"


def png(file):
    """Height, width, channels and pixels of an 8-bit grey or RGB PNG that is not interlaced."""
    at, packed = len(PNG), b""
    while at < len(file):
        length, kind = struct.unpack_from(">I4s", file, at)
        chunk = file[at + 8 : at + 8 + length]
        (checksum,) = struct.unpack_from(">I", file, at + 8 + length)
        if checksum != zlib.crc32(kind + chunk):
            raise ValueError(f"PNG: the checksum of {kind} is wrong")
        if kind == b"IHDR":
            width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", chunk)
            if depth != 8 or interlaced:
                raise ValueError(f"PNG: depth {depth}, interlaced {interlaced}")
        elif kind == b"IDAT":
            packed += chunk
        at += 12 + length
    channels = {0: 1, 2: 3}[colour]
    rows, step = zlib.decompress(packed), channels * width
    pixels, above = bytearray(), bytes(step)
    for start in range(0, height * (step + 1), step + 1):
        row = bytearray(rows[start + 1 : start + 1 + step])
        for i in range(step):
            a, b = (row[i - channels] if i >= channels else 0), above[i]
            c = above[i - channels] if i >= channels else 0
            paeth = min((abs(b - c), 0, a), (abs(a - c), 1, b), (abs(a + b - 2 * c), 2, c))[2]
            row[i] = (row[i] + [0, a, b, (a + b) // 2, paeth][rows[start]]) & 255
        pixels, above = pixels + row, row
    return height, width, channels, bytes(pixels)


class Peer:
    def __init__(self):
        self.participant = DomainParticipant(int(os.environ.get("ROS_DOMAIN_ID", "0")))
        self.writers = {}
        self.readers = []
        self.saved = 0

    def qos(self, reliable=False, latched=False):
        return Qos(
            Policy.Reliability.Reliable(duration(seconds=1)) if reliable else Policy.Reliability.BestEffort,
            Policy.Durability.TransientLocal if latched else Policy.Durability.Volatile,
            Policy.History.KeepLast(1 if not reliable else 100),
            Policy.DataRepresentation(use_cdrv0_representation=True),
        )

    def topic(self, name, kind, qos):
        return Topic(self.participant, "rt" + name, kind, qos=qos)

    def writer(self, command, kind):
        name = command["topic"]
        if (name, kind) not in self.writers:
            qos = self.qos(command.get("reliable", False), command.get("latched", False))
            writer = DataWriter(self.participant, self.topic(name, kind, qos), qos=qos)
            self.writers[name, kind] = writer
        return self.writers[name, kind]

    def offer(self, command):
        self.writer(command, Image)

    def write(self, command, message):
        name, writer = command["topic"], self.writer(command, type(message))
        end = time.monotonic() + command.get("timeout", 20)
        while len(writer.get_matched_subscriptions()) < command.get("readers", 1):
            if time.monotonic() > end:
                raise TimeoutError(f"nobody reads {name}")
            time.sleep(0.01)
        writer.write(message)

    def header(self, command):
        return Header(Time(*command.get("stamp", [1, 0])), command.get("frame_id", "camera"))

    def data(self, command):
        if "file" in command:
            with open(command["file"], "rb") as file:
                return file.read()
        if "base64" in command:
            return base64.b64decode(command["base64"])
        return bytes([command.get("fill", 0)]) * command["length"]

    def image(self, c):
        step = c.get("step", c["width"])
        data = self.data({"length": step * c["height"], **c})
        big = c.get("is_bigendian", 0)
        message = Image(self.header(c), c["height"], c["width"], c["encoding"], big, step, data)
        self.write(c, message)

    def compressed(self, c):
        self.write(c, CompressedImage(self.header(c), c.get("format", "jpeg"), self.data(c)))

    def info(self, c):
        eye = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
        whole = RegionOfInterest(0, 0, 0, 0, False)
        k, p = c["k"], c.get("p", [0.0] * 12)
        model, d = "plumb_bob", [0.1, 0.0, 0.0, 0.0, 0.0]
        message = CameraInfo(self.header(c), c["height"], c["width"], model, d, k, eye, p, 0, 0, whole)
        self.write(c, message)

    def lie(self, c):
        self.write(c, Lie(list(self.data(c).ljust(64, b"\0"))))

    def clock(self, c):
        self.write({"topic": "/clock", "reliable": True, **c}, Clock(Time(*c["stamp"])))

    def play(self, c):
        seconds, nanoseconds = c.get("stamp", [1, 0])
        for i in range(int(c["rate"] * c["seconds"])):
            now = divmod(time.time_ns(), 10**9)
            self.image({**c, "stamp": list(now) if c.get("now") else [seconds + i, nanoseconds]})
            self.sleep({"seconds": 1 / c["rate"]})

    def flood(self, c):
        """As fast as it goes."""
        message = Image(self.header(c), 1, c["length"], "mono8", 0, c["length"], bytes(c["length"]))
        self.write(c, message)  # once somebody reads
        writer, end = self.writer(c, Image), time.monotonic() + c["seconds"]
        while time.monotonic() < end:
            writer.write(message)

    def read(self, c):
        qos = self.qos(c.get("reliable", False), c.get("latched", False))
        reader = DataReader(self.participant, self.topic(c["topic"], TYPES[c["type"]], qos), qos=qos)
        self.readers.append((reader, c))

    def topics(self, _):
        kinds = (BuiltinTopicDcpsPublication, BuiltinTopicDcpsSubscription)
        readers = [BuiltinDataReader(self.participant, kind) for kind in kinds]
        names = {sample.topic_name for reader in readers for sample in reader.take(N=1000)}
        say(topics=sorted(name.removeprefix("rt") for name in names if name.startswith("rt/")))

    def check(self, c):
        checker = Checker()
        for kind, reliable in [("mask", False), ("status", True)]:
            read = {"topic": c[kind], "type": {"mask": "image"}.get(kind, kind), "reliable": reliable}
            self.read(read | {"checker": checker, "tamper": c.get("tamper", "")})

    def verdict(self, command, message):
        checker, tamper = command["checker"], command["tamper"]
        stamp = (message.header.stamp.sec, message.header.stamp.nanosec)
        if command["type"] == "status":
            parts = checker.status, (asdict(message) | {"stamp": stamp},)
        else:
            data = bytearray(message.data)
            if tamper == "flip":
                data[len(data) // 2] ^= 1
            parts = checker.mask, (stamp, message.height, message.width, bytes(data))
        command["last"] = parts
        verdict = parts[0](*parts[1])
        if verdict and tamper == "replay":
            for _, other in self.readers:
                if other.get("checker") is checker:
                    verdict = other["last"][0](*other["last"][1])
        if verdict:
            say(verdict=verdict, stamp=list(stamp), trusted=checker.trusted())
    def guid(self, _):
        say(guid=self.participant.guid.hex)

    def sleep(self, c):
        end = time.monotonic() + c["seconds"]
        self.poll()
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.002))
            self.poll()

    def poll(self):
        for reader, command in self.readers:
            for message in reader.take(N=64):
                if isinstance(message, IdlStruct):
                    (self.verdict if "checker" in command else self.event)(command, message)

    def event(self, command, message):
        header = getattr(message, "header", None) or Header(getattr(message, "stamp", Time(0, 0)), "")
        line = {"topic": command["topic"], "type": command["type"]}
        line |= {"stamp": [header.stamp.sec, header.stamp.nanosec], "frame_id": header.frame_id}
        for field in fields(message):
            value = getattr(message, field.name)
            if command["type"] in ("image", "compressed") and field.name == "data":
                data = bytes(value)
                line |= {"length": len(data), "sha256": hashlib.sha256(data).hexdigest()}
                if "save" in command:
                    if data.startswith(PNG):
                        line["height"], line["width"], line["channels"], data = png(data)
                    self.saved += 1
                    line["file"] = os.path.join(command["save"], f"{self.saved:06}.bin")
                    with open(line["file"], "wb") as file:
                        file.write(data)
            elif field.name == "status":
                line["status"] = [asdict(status) for status in value]
            elif field.name == "statistics":
                numbers = [(point.data_type, point.data) for point in value]
                line["statistics"] = [[kind, None if data != data else data] for kind, data in numbers]
            elif field.name not in ("header", "stamp"):
                line[field.name] = None if value != value else value  # JSON has no NaN
        say(**line)

    def run(self):
        pending = b""
        os.set_blocking(0, False)
        while True:
            self.poll()
            if not select.select([0], [], [], 0.003)[0]:
                continue
            chunk = os.read(0, 1 << 16)
            if not chunk:
                return
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                command = json.loads(line)
                try:
                    getattr(self, command["do"])(command)
                    say(done=command["do"], topic=command.get("topic"))
                except Exception as error:
                    say(error=f"{command}: {error!r}")


if __name__ == "__main__":
    Peer().run()
