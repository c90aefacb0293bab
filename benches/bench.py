"""`make bench`: the network, whole frames and the node beside their peers, in one run on one machine.

Every measurement is a fresh process, the variants alternate, and what counts is the ratio of their medians: CPU seconds
on a CPU, where other programs may be at work, wall seconds on a GPU. Absolute times hold on the machine that is named
only. Writes out/bench/bench.json and prints tables. By default a subset that takes a quarter of an hour on two cores;
FULL=1 (`--full`) has every plan, size, precision, batch and peer.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from datetime import datetime, timezone
from itertools import product
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OOD_SEG = ROOT / "target/release/ood_seg"
EAGER = [sys.executable, str(ROOT / "benches/peers/eager.py")]
SIZES = ((1280, 720), (1920, 1080), (2048, 1024))
PEERS = {"eager": "PyTorch eager", "twice": "eager, backbone twice", "compile": "torch.compile", "openvino": "OpenVINO"}
WINDOW_TFLOP = 1.02  # ViT-B/14 with registers, 518x1036, one backbone pass: multiplications and additions
PATIENCE_S = 300  # for one measuring process
MATRIX = """
import json, time, torch
n, x = 8192, torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
for repeat in (5, 50):
    torch.cuda.synchronize(); start = time.perf_counter()
    for _ in range(repeat): x @ x
    torch.cuda.synchronize(); seconds = (time.perf_counter() - start) / repeat
print(json.dumps({"tflops": 2 * n**3 / seconds / 1e12, "name": torch.cuda.get_device_name()}))
"""


def run(command):
    """The JSON line that a measuring process prints last; the reason where it fails."""
    try:
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        return {"failed": f"took longer than {PATIENCE_S} s"}
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["no reason given"])[-1][:200]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def machine():
    """What the numbers hold for, and whether its CPU has bf16 and f16 instructions."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    flags = next((line for line in lines if line.startswith("flags")), "")
    return f"{os.cpu_count()} x {cpu}", {"bf16": "_bf16" in flags, "f16": "_fp16" in flags}


def ways(args):
    """Plain, and on a GPU with CUDA graphs and pinned copies."""
    return [[]] if args.device == "cpu" else [[], ["--graphs"]]


def windows(args, precisions, key):
    """Runs per variant: ours, on a GPU plain and as CUDA graphs, and the peers on the same weights, alternating."""
    common = ["--device", args.device, "--repeat", str(args.repeat)]
    variants = {}
    for precision in precisions:
        end = ["--precision", precision, *common]
        for batch, graphs in product((1, 4) if args.full else (1,), ways(args)):
            name = f"ood_seg {precision}" + (f", batch {batch}" if batch > 1 else "") + (", graphs" if graphs else "")
            variants[name] = [OOD_SEG, "bench", "window", "--weights", args.weights, "--batch", batch, *end, *graphs]
        for runner, name in PEERS.items():
            if not (args.device != "cpu" and runner == "openvino"):
                variants[f"{name} {precision}"] = [*EAGER, args.weights, "--runner", runner, *end]
    results = {name: [] for name in variants}
    for i in range(args.rounds):
        for name, command in variants.items():
            measured = run(command)
            results[name].append(measured)
            said = measured.get("failed") or f"{measured[key]:8.3f} s"
            print(f"  round {i + 1}/{args.rounds}  {name:32} {said}", flush=True)
    return results


def medians(results):
    """Of the runs of each variant that did not fail."""
    keys = ("wall_s", "cpu_s", "peak_mib", "mean_score")
    good = {name: [r for r in runs if "failed" not in r] for name, runs in results.items()}
    rows = {name: {k: statistics.median(r[k] for r in runs) for k in keys} for name, runs in good.items() if runs}
    for name, row in rows.items():
        times = [r["device_ms"] for r in good[name] if r.get("device_ms")]
        row["device_ms"] = [statistics.median(t[q] for t in times) for q in ("p50", "p99")] if times else None
    return rows


def table(rows, roofline_s):
    lines = [
        "| one 518x1036 window | CPU, wall beside eager | CPU s | wall s | device ms, p50 / p99 | peak MiB | x roofline |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        eager = rows.get("PyTorch eager f32") or row
        ratios = f"{row['cpu_s'] / eager['cpu_s']:.2f}, {row['wall_s'] / eager['wall_s']:.2f}"
        times = row["device_ms"]
        device = "{:.2f} / {:.2f}".format(*times) if times else "not measured"
        seconds = times[0] / 1e3 if times else row["wall_s"]
        roofline = f"{seconds / roofline_s:.2f}" if roofline_s else "not measured"
        cells = (name, ratios, f"{row['cpu_s']:.2f}", f"{row['wall_s']:.4g}", device, f"{row['peak_mib']:.0f}", roofline)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def frames(args, precisions):
    """Whole frames and their stages."""
    if args.full:
        cases = product(("single", "tiles", "paper"), SIZES, precisions, (1, 4))
    else:
        cases = [("single", size, "f32", 1) for size in SIZES] + [("tiles", SIZES[0], "f32", 1)]
    results = []
    for (plan, (width, height), precision, batch), graphs in product(cases, ways(args)):
        where = ["--device", args.device, "--precision", precision, "--plan", plan, "--batch", batch, "--repeat", 1]
        size = ["--width", width, "--height", height]
        measured = run([OOD_SEG, "bench", "frame", "--weights", args.weights, *where, *size, *graphs])
        name = f"{plan} {width}x{height} {precision}" + (f" batch {batch}" if batch > 1 else "") + (", graphs" if graphs else "")
        results.append({"name": name, **measured})
        print(f"  {name}: {measured.get('failed') or measured['wall_s']}", flush=True)
    return results


def frame_table(results):
    good = [r for r in results if "failed" not in r]
    if not good:
        return "no frame could be measured"
    stages = list(good[0]["stages_ms"])
    lines = [f"| frame, ms by stage | {' | '.join(stages)} | whole s | CPU s |", "|---" * (len(stages) + 3) + "|"]
    for r in good:
        cells = " | ".join(f"{r['stages_ms'][stage]:.1f}" for stage in stages)
        lines.append(f"| {r['name']} | {cells} | {r['wall_s']:.2f} | {r['cpu_s']:.2f} |")
    return "\n".join(lines)


def agreement(args, precisions):
    """The demo model in each precision beside f32 on drawn obstacles; on a GPU also plain beside graphs in f32."""
    world = args.out / "world"
    if not (world / ".drawn").exists():
        counts = [x for name in ("train", "val", "paste", "obstacle") for x in (f"--{name}", 0)]
        made = subprocess.run(list(map(str, [OOD_SEG, "synth", "--out", world, "--seed", 9101, "--anomaly", 10, *counts])))
        (world / ".drawn").touch() if made.returncode == 0 else None
    results = []
    # The network is small enough for a CPU without bf16 instructions.
    for precision, graphs in product(dict.fromkeys([*precisions, "bf16"]), ways(args)):
        if precision != "f32" or graphs:
            command = [OOD_SEG, "bench", "agreement", "--weights", ROOT / "models/demo.safetensors", "--device", args.device]
            command += ["--dataset", world / "dataset_AnomalyTrack", "--plan", "tiles", "--precision", precision, *graphs]
            results.append({"name": precision + (", graphs" if graphs else ""), **run(command)})
    return results


def agreement_table(results):
    lines = ["| beside f32 | % of pixels in another class | score, mean and largest difference | AP %, f32 and this |", "|---|---|---|---|"]
    for r in results:
        if "failed" in r:
            lines.append(f"| {r['name']} | {r['failed']} | | |")
            continue
        difference = r["score_difference"]
        scores = f"{difference['mean']:.2g}, {difference['max']:.2g} of {r['score_standard_deviation_f32']:.2g} (s. d.)"
        aps = f"{r['ap_percent_f32']:.2f}, {r['ap_percent']:.2f}"
        lines.append(f"| {r['name']} ({r['way']}) | {r['other_class_percent']:.3f} | {scores} | {aps} |")
    return "\n".join(lines)


def agree(rows):
    """A fast wrong answer is no measurement: all f32 mean scores must be the same number."""
    want = rows["PyTorch eager f32"]["mean_score"]
    for name, row in rows.items():
        if " f32" in name and abs(row["mean_score"] - want) > 2e-4 * max(1.0, abs(want)):
            sys.exit(f"the mean score of {name} is {row['mean_score']}, of PyTorch {want}: not the same network")


def arguments():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--out", type=Path, default=Path("out/bench"))
    args.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    args.add_argument("--full", action="store_true", help="every plan, size, precision, batch")
    args.add_argument("--rounds", type=int, default=0, help="fresh processes per variant, alternating")
    args.add_argument("--repeat", type=int, default=0, help="timed windows per process, after one warm-up; 1, on a GPU 200")
    args = args.parse_args()
    args.repeat = args.repeat or (1 if args.device == "cpu" else 200)
    args.rounds = args.rounds or (5 if args.full else 2)
    args.weights = args.out / "vitb14_reg_d-d.safetensors"
    return args


def main():
    args = arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    if not args.weights.exists():
        print("random weights of the full-size network, seed 0")
        command = [OOD_SEG, "init", "--arch", "vitb14_reg", "--variant", "d-d", "--seed", "0", "--out", args.weights]
        subprocess.run(command, check=True)
    name, has = machine()
    on_cpu, roofline_s, matrix = args.device == "cpu", None, None
    precisions = [p for p in ("f32", "bf16", "f16") if p == "f32" or not on_cpu or has[p]]
    for precision in sorted({"bf16", "f16"} - set(precisions)):
        print(f"SKIP {precision}: this CPU has no such instructions, a window would take minutes")
    if not on_cpu:
        matrix = run([sys.executable, "-c", MATRIX])
        name += f", {matrix.get('name', args.device)}"
        roofline_s = WINDOW_TFLOP / matrix["tflops"] if "tflops" in matrix else None
    print(f"window: {args.rounds} rounds of {args.repeat} on {name}")
    runs = windows(args, precisions, "cpu_s" if on_cpu else "wall_s")
    rows = medians(runs)
    agree(rows)
    print("whole frames")
    whole = frames(args, precisions)
    print("agreement of precisions")
    same = agreement(args, precisions)
    print("node: start to first mask with the full network; a camera at 960x540 over DDS, then three times too fast")
    start = run([OOD_SEG, "bench", "node", "--weights", args.weights, "--frames", 0])
    node = run([OOD_SEG, "bench", "node"])
    date = datetime.now(timezone.utc).isoformat(timespec="seconds")
    window = {"medians": rows, "runs": runs}
    report = {"date": date, "machine": name, "device": args.device, "matrix": matrix}
    report |= {"window": window, "frames": whole, "agreement": same, "first_mask": start, "node": node}
    (args.out / "bench.json").write_text(json.dumps(report, indent=1) + "\n")
    tables = f"{table(rows, roofline_s)}\n\n{frame_table(whole)}\n\n{agreement_table(same)}"
    print(f"\n{name}, {date}\n\n{tables}\n\nfirst mask: {json.dumps(start)}\n{json.dumps(node, indent=1)}")


if __name__ == "__main__":
    main()
