"""`make bench-transport`: raw pictures over DDS between the node and independent peers, Cyclone DDS and Fast DDS.

Four parts, each a row per peer, size, reliability and number of cameras:

  receive   the peer's cameras to the node, which is not active (autostart: false): it receives, takes the newest frame out of
            its slot and answers with its status, and no network runs. Latency: stamp to status, as the node measures it.
  send      masks to the peer's viewer from `ood_seg bench masks`: the node's DDS writer with its QoS and pacing, since a node
            that segments cannot show what its transport costs. Latency: stamp to received.
  segment   the peer's cameras to the node with the demo model and its masks back to the peer's viewer.
  between   the peer's cameras to the peer's own viewer, its receive buffers forced like the node's: what to compare
            `receive` with on a machine where other programs run.

A peer stamps a picture right before it writes it; all cameras of a peer write one after the other, which is the worst case.
CPU is that of our process between its first and its last frame, all threads, idle work included; "peer's" is the camera's or
the viewer's, from being matched to its end. The viewers' sockets are
those of their vendor's defaults; the node's are those of the package's sysctl file where this process may force that.
Prints tables and writes out/bench/transport.json.
"""

import argparse
import json
import os
import platform
import queue
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from datetime import datetime, timezone
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NODE, OOD_SEG = ROOT / "target/release/ood_segmentation_node", ROOT / "target/release/ood_seg"
WEIGHTS = ROOT / "models/demo.safetensors"
SIZES = {"1280x720": 30, "1920x1080": 30, "3840x2160": 10}  # rates in Hz
RELIABILITIES = ("best_effort", "reliable")
WANTED_BUFFER = 64 << 20  # config/60-ood_segmentation.conf
PATIENCE = 60  # s, for anything to begin


class Child:
    """A process whose standard output is JSON lines, and whose standard input ends it."""

    def __init__(self, command, domain, preload=None):
        env = os.environ | {"ROS_DOMAIN_ID": str(domain)} | ({"LD_PRELOAD": str(preload)} if preload else {})
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(list(map(str, command)), stdin=pipe, stdout=pipe, text=True, env=env)
        self.lines = queue.Queue()
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            self.lines.put(json.loads(line))

    def wait(self, key, patience=PATIENCE):
        """The next line that has this key; those before it are dropped."""
        end = time.monotonic() + patience
        while time.monotonic() < end and (not self.lines.empty() or self.runs()):
            try:
                if key in (line := self.lines.get(timeout=0.2)):
                    return line
            except queue.Empty:
                pass
        sys.exit(f"{self.process.args} did not say {key}")

    def runs(self):
        if self.process.poll() is not None:
            sys.exit(f"{self.process.args} ended with {self.process.returncode}")
        return True

    def rest(self):
        """What was said since, up to its end."""
        self.process.stdin.close()
        self.process.wait(PATIENCE)
        time.sleep(0.1)  # for the thread that reads
        return list(self.lines.queue)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(PATIENCE)

    def cpu_s(self):
        """Seconds that all threads ran so far."""
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/schedstat")
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9

    def mib(self, key):
        return int(re.search(rf"{key}:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text())[1]) / 1024


class Statuses:
    """The node's answers to the frames of its cameras."""

    def __init__(self, domain, cameras):
        from cyclonedds.domain import DomainParticipant
        from cyclonedds.sub import DataReader
        from cyclonedds.topic import Topic

        from cyclone import qos, take
        from peer import FrameStatus

        self.take, wanted = take, qos(True, 1000)
        self.participant = DomainParticipant(domain)
        topic = lambda i: Topic(self.participant, f"rt/c{i}/status", FrameStatus, qos=wanted)
        self.readers = [DataReader(self.participant, topic(i), qos=wanted) for i in range(cameras)]
        self.received, self.dropped, self.latencies = [0] * cameras, [0] * cameras, []

    def poll(self):
        """Whether there were new ones."""
        before = len(self.latencies)
        for i, reader in enumerate(self.readers):
            for status in map(parse, self.take(reader)):
                self.received[i], self.dropped[i] = status["sequence"], status["dropped"]
                self.latencies.append(status["latency_ms"])
        return len(self.latencies) > before


def parse(status):
    """What is needed of a FrameStatus in CDR."""
    body, at = memoryview(status)[4:], 0

    def read(kind):
        nonlocal at
        at += -at % struct.calcsize(kind)
        (value,) = struct.unpack_from("<" + kind, body, at)
        at += struct.calcsize(kind)
        return value

    def skip_text():
        nonlocal at
        length = read("I")
        at += length

    read("i"), read("I"), skip_text(), skip_text()  # header, camera
    sequence, dropped, _limited, _state = read("Q"), read("Q"), read("Q"), read("B")
    skip_text(), skip_text()  # reason, text
    numbers = [read(kind) for kind in "IIffffIff"]
    return {"sequence": sequence, "dropped": dropped, "latency_ms": numbers[-1]}


def message(folder, size):
    """A file with an rgb8 Image as CDR; its stamp is put in when it is sent."""
    width, height = map(int, size.split("x"))
    head = struct.pack("<4xiI I7sx II I5sB2x II", 0, 0, 7, b"camera\0", height, width, 5, b"rgb8\0", 0, 3 * width, 3 * width * height)
    path = folder / f"{size}.cdr"
    path.write_bytes(b"\0\1" + head[2:] + bytes(i * 7 % 251 for i in range(3 * width)) * height)
    return path


def kernel_drops():
    names, numbers = (line.split() for line in Path("/proc/net/snmp").read_text().splitlines() if line.startswith("Udp:"))
    return int(numbers[names.index("RcvbufErrors")])


def percentiles(values):
    values = sorted(values)
    return {f"p{q}": round(values[min(len(values) - 1, len(values) * q // 100)], 2) if values else None for q in (50, 99)}


def receive(bench, peer, domain, size, reliability, cameras):
    names, rate = [f"c{i}" for i in range(cameras)], SIZES[size]
    settings = [f"model.weights:={WEIGHTS}", "autostart:=false", "transport:=raw", f"reliability:={reliability}", f"cameras:=[{', '.join(names)}]"]
    settings = [part for setting in settings for part in ("-p", setting)]
    drops = kernel_drops()
    with Child([NODE, "--ros-args", "--log-level", "error", *settings], domain, bench.preload) as node:
        statuses = Statuses(domain, cameras)
        camera = [*peer, "send", domain, reliability, rate, bench.seconds, message(bench.out, size), *(f"/{n}/image_raw" for n in names)]
        with Child(camera, domain) as camera:
            first = last = None
            before, quiet, heard = node.mib("VmRSS"), 1 + 2 / rate, time.monotonic()
            while node.runs() and camera.lines.empty() or time.monotonic() - heard < quiet:
                if statuses.poll():
                    heard = time.monotonic()
                    last = node.cpu_s(), len(statuses.latencies)
                    first = first or last
                time.sleep(0.005)
            sent = cameras * camera.wait("sent")["sent"]
            said = camera.rest()
        frames = last[1] - first[1] if last else 0
        return {
            "sent": sent,
            "lost": sent - sum(statuses.received),
            "replaced": sum(statuses.dropped),
            "latency_ms": percentiles(statuses.latencies),
            "cpu_ms": (last[0] - first[0]) / frames * 1e3 if frames else None,
            "peer_cpu_ms": said[-1]["cpu_s"] / sent * 1e3,
            "mib": {"before": before, "peak": node.mib("VmHWM")},
            "kernel_drops": kernel_drops() - drops,
        }


def send(bench, peer, domain, size, reliability, cameras):
    topics, drops = [f"/c{i}/ood/image" for i in range(cameras)], kernel_drops()
    width, height = size.split("x")
    count = SIZES[size] * bench.seconds
    masks = [OOD_SEG, "bench", "masks", "--width", width, "--height", height, "--rate", SIZES[size], "--count", count]
    masks += ["--reliable"] * (reliability == "reliable") + topics
    with Child([*peer, "view", domain, reliability, *topics], domain) as viewer, Child(masks, domain) as ours:
        done = ours.wait("sent", PATIENCE + 2 * bench.seconds)
        said = viewer.rest()
    latencies, sent = [line["ms"] for line in said if "ms" in line], done["sent"]
    return {
        "sent": sent,
        "lost": sent - len(latencies),
        "latency_ms": percentiles(latencies),
        "cpu_ms": done["cpu_s"] / sent * 1e3,
        "peer_cpu_ms": said[-1]["cpu_s"] / sent * 1e3,
        "mib": done["mib"],
        "kernel_drops": kernel_drops() - drops,
    }


def segment(bench, peer, domain, size, reliability, cameras):
    names = [f"c{i}" for i in range(cameras)]
    settings = [f"cameras:=[{', '.join(names)}]", f"model.weights:={WEIGHTS}", "plan:=single", "max_age_ms:=0", f"mask_reliability:={reliability}"]
    settings = [part for setting in settings for part in ("-p", setting)]
    with Child([NODE, "--ros-args", "--log-level", "error", *settings], domain, bench.preload) as node:
        with Child([*peer, "view", domain, reliability, *(f"/{n}/ood/image" for n in names)], domain) as viewer:
            viewer.wait("matched")
            camera = [*peer, "send", domain, reliability, bench.rate, 20, message(bench.out, size), *(f"/{n}/image_raw" for n in names)]
            with Child(camera, domain) as camera:
                sent = cameras * camera.wait("sent", PATIENCE + 20)["sent"]
                time.sleep(2)
            latencies = [line["ms"] for line in viewer.rest() if "ms" in line]
        return {
            "sent": sent,
            "lost": sent - len(latencies),
            "latency_ms": percentiles(latencies),
            "mib": {"before": None, "peak": node.mib("VmHWM")},
        }


def between(bench, peer, domain, size, reliability, cameras):
    topics = [f"/c{i}/image_raw" for i in range(cameras)]
    asks = "<General/><Internal><SocketReceiveBufferSize min='16MB'/></Internal>"  # Cyclone; Fast DDS takes the kernel's
    os.environ["CYCLONEDDS_URI"] = f"<CycloneDDS><Domain>{asks}</Domain></CycloneDDS>"
    drops, rate = kernel_drops(), SIZES[size]
    with Child([*peer, "view", domain, reliability, *topics], domain, bench.preload) as viewer:
        with Child([*peer, "send", domain, reliability, rate, bench.seconds, message(bench.out, size), *topics], domain, bench.preload) as camera:
            sent = cameras * camera.wait("sent")["sent"]
            time.sleep(1)
            theirs = camera.rest()[-1]["cpu_s"]
        peak = viewer.mib("VmHWM")
        said = viewer.rest()
    del os.environ["CYCLONEDDS_URI"]
    latencies = [line["ms"] for line in said if "ms" in line]
    return {
        "sent": sent,
        "lost": sent - len(latencies),
        "latency_ms": percentiles(latencies),
        "cpu_ms": said[-1]["cpu_s"] / max(1, len(latencies)) * 1e3,
        "peer_cpu_ms": theirs / sent * 1e3,
        "mib": {"before": None, "peak": peak},
        "kernel_drops": kernel_drops() - drops,
    }


def table(rows):
    lines = ["| peer, pictures, QoS | lost of sent | ms p50 / p99 | CPU ms per picture | peer's | peak MiB | load |", "|---" * 7 + "|"]
    show = lambda value, digits: "-" if value is None else f"{value:.{digits}f}"
    for r in rows:
        latency = " / ".join(show(r["latency_ms"][q], 1) for q in ("p50", "p99"))
        cpu, theirs = (show(r.get(key), 2) for key in ("cpu_ms", "peer_cpu_ms"))
        lines.append(f"| {r['name']} | {r['lost']} of {r['sent']} | {latency} | {cpu} | {theirs} | {r['mib']['peak']:.0f} | {r['load']:.1f} |")
    return "\n".join(lines)


def peers(out):
    """How each peer is started, and those that are not there."""
    found, fast = {"Cyclone": [sys.executable, ROOT / "benches/peers/cyclone.py"]}, out / "fast_dds"
    source = ROOT / "tests/peers/fast_dds.cpp"
    built = subprocess.run(["c++", "-O2", "-std=c++17", "-o", fast, source, "-lfastrtps", "-lfastcdr"], capture_output=True)
    if built.returncode == 0:
        found["Fast DDS"] = [fast]
    else:
        print("SKIP Fast DDS: apt install g++ libfastrtps-dev libfastcdr-dev")
    return found


def buffers(out):
    """What the node's sockets get, in words, and what has to be preloaded for it."""
    limit = int(Path("/proc/sys/net/core/rmem_max").read_text())
    if limit >= WANTED_BUFFER:
        return f"net.core.rmem_max {limit}", None
    try:
        socket.socket(type=socket.SOCK_DGRAM).setsockopt(socket.SOL_SOCKET, 33, WANTED_BUFFER)  # SO_RCVBUFFORCE
        library = out / "rcvbuf.so"
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, ROOT / "benches/peers/rcvbuf.c", "-ldl"], check=True)
    except (OSError, subprocess.CalledProcessError):
        return f"net.core.rmem_max {limit}: less than the {WANTED_BUFFER} that the package sets, so large pictures will be lost", None
    return f"net.core.rmem_max {limit}, the node's sockets forced to {WANTED_BUFFER} as with the package's sysctl file", library


def cases(part):
    if part == "segment":
        return [("960x540", reliability, cameras) for reliability in RELIABILITIES for cameras in (1, 2, 4)]
    if part == "between":
        return [("1920x1080", reliability, 1) for reliability in RELIABILITIES]
    one = [(size, reliability, 1) for size in SIZES for reliability in RELIABILITIES]
    return one + [("1920x1080", reliability, cameras) for cameras in (2, 4) for reliability in RELIABILITIES]


def arguments():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--out", type=Path, default=Path("out/bench"))
    args.add_argument("--seconds", type=int, default=5, help="of every row of receive and send")
    args.add_argument("--rate", type=float, default=1.0, help="of each camera in segment, Hz")
    args.add_argument("--parts", default="between,receive,send,segment")
    args.add_argument("--only", default="", help="rows with this in their name")
    return args.parse_args()


def main():
    bench = arguments()
    bench.out.mkdir(parents=True, exist_ok=True)
    sys.path[:0] = [str(ROOT / "benches/peers"), str(ROOT / "tests/peers")]
    sockets, bench.preload = buffers(bench.out)
    cpus = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    report = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": f"{os.cpu_count()} x {cpus[1] if cpus else platform.machine()}, Linux {platform.release()}",
        "sockets": sockets,
    }
    print(*report.values(), sep="\n", flush=True)
    domain = 0
    for part in bench.parts.split(","):
        measure, report[part] = {"between": between, "receive": receive, "send": send, "segment": segment}[part], []
        for name, peer in peers(bench.out).items():
            for size, reliability, cameras in cases(part):
                rate = bench.rate if part == "segment" else SIZES[size]
                name_of = f"{name}, {cameras} x {size} {rate:g} Hz, {reliability.replace('_', ' ')}"
                if bench.only not in name_of:
                    continue
                domain, load = domain % 200 + 1, os.getloadavg()[0]
                row = {"name": name_of, "load": load} | measure(bench, peer, domain, size, reliability, cameras)
                report[part].append(row)
                print(f"  {part}: {json.dumps(row)}", flush=True)
        print(f"\n{part}\n\n{table(report[part])}\n", flush=True)
    (bench.out / "transport.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
