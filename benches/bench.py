"""`make bench`: the network and the node beside their peers, in one run on one machine.

Every measurement is a fresh process, the variants alternate, and what counts is the ratio of their medians;
absolute times hold on the machine that is named only. Writes out/bench/bench.json and prints a table.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OOD_SEG = ROOT / "target/release/ood_seg"
EAGER = [sys.executable, str(ROOT / "benches/peers/eager.py")]


def run(command):
    """The JSON line that a measuring process prints last."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\nfailed with {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def machine():
    """What the numbers hold for."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{os.cpu_count()} x {cpu}"


def windows(weights, rounds, repeat):
    """Seconds per window: ours and PyTorch eager, f32 and bf16, alternating."""
    variants = {}
    for precision in ("f32", "bf16"):
        args = [str(weights), "--precision", precision, "--repeat", str(repeat)]
        variants[f"ood_seg {precision}"] = [OOD_SEG, "bench", "window", "--weights", *args]
        variants[f"PyTorch eager {precision}"] = [*EAGER, *args]
    results = {name: [] for name in variants}
    for i in range(rounds):
        for name, command in variants.items():
            results[name].append(run(command))
            print(f"  round {i + 1}/{rounds}  {name:20} {results[name][-1]['wall_s']:8.3f} s", flush=True)
    return results


def medians(results):
    keys = ("wall_s", "cpu_s", "peak_mib", "mean_score")
    return {name: {k: statistics.median(r[k] for r in runs) for k in keys} for name, runs in results.items()}


def table(rows):
    lines = [
        "| one 518x1036 window | wall s | CPU s | peak MiB | wall, CPU beside eager |",
        "|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        eager = rows[f"PyTorch eager {name.split()[-1]}"]
        wall, cpu = row["wall_s"] / eager["wall_s"], row["cpu_s"] / eager["cpu_s"]
        measured = f"{row['wall_s']:.2f} | {row['cpu_s']:.2f} | {row['peak_mib']:.0f}"
        lines.append(f"| {name} | {measured} | {wall:.2f}, {cpu:.2f} |")
    return "\n".join(lines)


def agree(rows):
    """A fast wrong answer is no measurement: the f32 mean scores of the two must be the same number."""
    ours, peer = rows["ood_seg f32"]["mean_score"], rows["PyTorch eager f32"]["mean_score"]
    if abs(ours - peer) > 2e-4 * max(1.0, abs(peer)):
        sys.exit(f"the mean score of ood_seg is {ours}, of PyTorch {peer}: they do not run the same network")


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--out", type=Path, default=Path("out/bench"))
    args.add_argument("--rounds", type=int, default=5, help="fresh processes per variant, alternating")
    args.add_argument("--repeat", type=int, default=2, help="timed windows per process, after one warm-up")
    args = args.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    weights = args.out / "vitb14_reg_d-d.safetensors"
    if not weights.exists():
        print("random weights of the full-size network, seed 0")
        command = [OOD_SEG, "init", "--arch", "vitb14_reg", "--variant", "d-d", "--seed", "0", "--out", weights]
        subprocess.run(command, check=True)
    print(f"window: {args.rounds} rounds of {args.repeat} on {machine()}")
    runs = windows(weights, args.rounds, args.repeat)
    rows = medians(runs)
    agree(rows)
    print("node: a camera at 960x540 over DDS, and one three times too fast")
    node = run([OOD_SEG, "bench", "node"])
    report = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(),
        "window": {"medians": rows, "runs": runs},
        "node": node,
    }
    (args.out / "bench.json").write_text(json.dumps(report, indent=1) + "\n")
    print(f"\n{report['machine']}, {report['date']}\n\n{table(rows)}\n\n{json.dumps(node, indent=1)}")


if __name__ == "__main__":
    main()
