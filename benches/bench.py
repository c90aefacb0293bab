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


def windows(args, precisions, key):
    """Runs per variant: ours and the peers on the same weights, alternating."""
    common = ["--device", args.device, "--repeat", str(args.repeat)]
    variants = {}
    for precision in precisions:
        end = ["--precision", precision, *common]
        for batch in (1, 4) if args.full else (1,):
            name = f"ood_seg {precision}" + (f", batch {batch}" if batch > 1 else "")
            variants[name] = [OOD_SEG, "bench", "window", "--weights", args.weights, "--batch", batch, *end]
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
    return {name: {k: statistics.median(r[k] for r in runs) for k in keys} for name, runs in good.items() if runs}


def table(rows, roofline_s):
    lines = [
        "| one 518x1036 window | CPU, wall beside eager | CPU s | wall s | peak MiB | x roofline |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        eager = rows.get("PyTorch eager f32") or row
        ratios = f"{row['cpu_s'] / eager['cpu_s']:.2f}, {row['wall_s'] / eager['wall_s']:.2f}"
        roofline = f"{row['wall_s'] / roofline_s:.2f}" if roofline_s else "not measured"
        lines.append(f"| {name} | {ratios} | {row['cpu_s']:.2f} | {row['wall_s']:.2f} | {row['peak_mib']:.0f} | {roofline} |")
    return "\n".join(lines)


def frames(args, precisions):
    """Whole frames and their stages."""
    if args.full:
        cases = product(("single", "tiles", "paper"), SIZES, precisions, (1, 4))
    else:
        cases = [("single", size, "f32", 1) for size in SIZES] + [("tiles", SIZES[0], "f32", 1)]
    results = []
    for plan, (width, height), precision, batch in cases:
        where = ["--device", args.device, "--precision", precision, "--plan", plan, "--batch", batch, "--repeat", 1]
        size = ["--width", width, "--height", height]
        measured = run([OOD_SEG, "bench", "frame", "--weights", args.weights, *where, *size])
        name = f"{plan} {width}x{height} {precision}" + (f" batch {batch}" if batch > 1 else "")
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
    args.add_argument("--repeat", type=int, default=1, help="timed windows per process, after one warm-up")
    args = args.parse_args()
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
    print("node: start to first mask with the full network; a camera at 960x540 over DDS, then three times too fast")
    start = run([OOD_SEG, "bench", "node", "--weights", args.weights, "--frames", 0])
    node = run([OOD_SEG, "bench", "node"])
    date = datetime.now(timezone.utc).isoformat(timespec="seconds")
    window = {"medians": rows, "runs": runs}
    report = {"date": date, "machine": name, "device": args.device, "matrix": matrix}
    report |= {"window": window, "frames": whole, "first_mask": start, "node": node}
    (args.out / "bench.json").write_text(json.dumps(report, indent=1) + "\n")
    tables = f"{table(rows, roofline_s)}\n\n{frame_table(whole)}"
    print(f"\n{name}, {date}\n\n{tables}\n\nfirst mask: {json.dumps(start)}\n{json.dumps(node, indent=1)}")


if __name__ == "__main__":
    main()
