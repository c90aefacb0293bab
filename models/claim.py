"""The table of the claim, from what `make claim` left in out/demo-model: Markdown on stdout.

Usage: python3 models/claim.py [out/demo-model]. Fails where stage 2 has moved a tensor of a segmentor.
"""

import json
import statistics
import sys
from pathlib import Path

ROOT = Path(sys.argv[1] if len(sys.argv) > 1 else "out/demo-model")
SEEDS = (1, 2, 3)
SETS = ("AnomalyTrack", "ObstacleTrack")
PARTS = (("llr", "**LLR**"), ("ood", "OoD alone"), ("neg_id", "-ID alone"))
SEGMENTORS = {"d-d": "segmentor", "g-d": "segmentor_g"}


def measured(variant, seed, name):
    """AP and FPR95 in percent of every score, family smiyc."""
    path = ROOT / "claim" / f"{variant}_{seed}" / name / "results.json"
    scores = json.loads(path.read_text())["scores"]
    return {s["score"]: (100 * s["smiyc"]["ap"], 100 * s["smiyc"]["fpr95"]) for s in scores}


def spread(values):
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


def tensors(path):
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    return {
        name: data[start + info["data_offsets"][0] : start + info["data_offsets"][1]]
        for name, info in header.items()
        if name.startswith("segmentor.")
    }


def check_frozen(variant):
    before = tensors(ROOT / SEGMENTORS[variant] / "last.safetensors")
    for seed in SEEDS:
        model = ROOT / "claim" / f"{variant}_{seed}" / "last.safetensors"
        if tensors(model) != before:
            sys.exit(f"{model}: not the tensors of {SEGMENTORS[variant]}")
    print(f"{variant.upper()}, seeds {SEEDS}: all {len(before)} tensors of the segmentor as before stage 2.\n")


def main():
    print("| model | score |", " | ".join(f"{s} AP | FPR95" for s in SETS), "|")
    print("|---|---|" + "---:|" * 2 * len(SETS))
    wins = []
    for variant in SEGMENTORS:
        found = {s: [measured(variant, seed, s) for seed in SEEDS] for s in SETS}
        for score, name in PARTS:
            cells = [spread([run[score][i] for run in found[s]]) for s in SETS for i in (0, 1)]
            print(f"| {variant.upper()} | {name} |", " | ".join(cells), "|")
        for s in SETS:
            for part, name in PARTS[1:]:
                ap = sum(run["llr"][0] > run[part][0] for run in found[s])
                fpr = sum(run["llr"][1] < run[part][1] for run in found[s])
                wins.append(f"| {variant.upper()} | {s} | {name} | {ap} | {fpr} |")
    print(f"\nSeeds of {len(SEEDS)} in which the LLR is the better one:\n")
    print("| model | set | than | in AP | in FPR95 |\n|---|---|---|---:|---:|")
    print("\n".join(wins), "\n")
    print("Seed 1, the scores of a single model on the same logits:\n")
    print("| model | score |", " | ".join(f"{s} AP | FPR95" for s in SETS), "|")
    print("|---|---|" + "---:|" * 2 * len(SETS))
    for variant in SEGMENTORS:
        found = [measured(variant, 1, s) for s in SETS]
        for score in found[0]:
            cells = " | ".join(f"{number:.1f}" for run in found for number in run[score])
            print(f"| {variant.upper()} | {score} | {cells} |")
    print()
    for variant in SEGMENTORS:
        check_frozen(variant)


main()
