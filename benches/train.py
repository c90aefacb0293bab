"""Training beside PyTorch eager: the same network, losses and batch, both stages with D heads.

  .venv-torch/bin/python benches/train.py [--steps 40] [--threads 1]

Needs what `make demo-model` leaves in out/demo-model. Seconds are per step, of the wall and of the processor; the latter
is the one to compare on a busy computer. ood_seg reads, pastes and augments its pictures meanwhile, which is in
its seconds; eager is given one random batch over and over. One JSON line.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benches/peers"))
import eager  # noqa: E402

STAGES = {"stage 1": ("train-segmentor", "segmentor.yaml"), "stage 2": ("train-uem", "uem.yaml")}


def ood_seg(stage, steps, threads):
    """Wall and processor seconds of a run of so many steps, its start and its last validation included."""
    command, name = STAGES[stage]
    config = yaml.safe_load((ROOT / "config/demo" / name).read_text())
    with tempfile.TemporaryDirectory() as folder:
        config["run"] |= {"out": f"{folder}/run", "checkpoint_every_steps": 10**6, "validation_frames": 1}
        config["schedule"]["max_steps"] = steps
        config["schedule"]["warmup_steps"] = 1
        Path(folder, "c.yaml").write_text(yaml.safe_dump(config))
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run([ROOT / "target/release/ood_seg", command, "-c", f"{folder}/c.yaml"], cwd=ROOT, check=True,
                       env=os.environ | {"OMP_NUM_THREADS": str(threads)}, capture_output=True)
        wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, sum(getattr(after, k) - getattr(before, k) for k in ("ru_utime", "ru_stime"))


def upsampled(x, size):
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def step_1(net, images, labels):
    """Decoder and head on a frozen backbone; batch norms use the batch."""
    with torch.no_grad():
        final, taps, grid = eager.backbone(net.backbone, net.cfg["backbone"], images)
    logits = eager.head(net.head, "linear", eager.decoder(net.decoder, final, taps, grid))
    return F.cross_entropy(upsampled(logits, labels.shape[1:]), labels, ignore_index=255)


def step_2(net, images, labels):
    """UEM on a frozen segmentor."""
    size, target = labels.shape[1:], (labels == 254)
    with torch.no_grad():
        final, taps, grid = eager.backbone(net.backbone, net.cfg["backbone"], images)
        logits = upsampled(eager.head(net.head, "linear", eager.decoder(net.decoder, final, taps, grid)), size)
    t = final
    for layer in (0, 2, 4):
        t = eager.linear(net.projector, f"_layers.{layer}", F.relu(t) if layer else t)
    uem = upsampled(eager.head(net.ood, "linear", t.transpose(1, 2).unflatten(2, grid).contiguous()), size)
    llr = uem[:, 1] - uem[:, 0] - logits.amax(1)
    return F.binary_cross_entropy_with_logits(llr, target.float())


def peer(stage, steps, threads):
    torch.set_num_threads(threads)
    net = eager.Network(ROOT / "models/demo.safetensors", torch.float32)
    parts = (net.decoder, net.head) if stage == "stage 1" else (net.projector, net.ood)
    learnt = [t for part in parts for key, t in part.items() if ".running_" not in key]
    for tensor in learnt:
        tensor.requires_grad_()
    trained = stage == "stage 1"
    eager.batch_norm = lambda w, key, x: F.batch_norm(
        x, w[f"{key}.running_mean"], w[f"{key}.running_var"], w[f"{key}.weight"], w[f"{key}.bias"], training=trained)
    optimizer = torch.optim.AdamW(learnt, lr=1e-4, weight_decay=0.0)
    batch, (h, w) = 4, net.cfg["window"]
    images, labels = torch.randn(batch, 3, h, w), torch.randint(0, 19, (batch, h, w))
    if not trained:
        labels[:, :40, :40] = 254
    step = step_1 if trained else step_2
    for index in range(steps + 2):
        if index == 2:
            wall, cpu = time.perf_counter(), time.process_time()
        optimizer.zero_grad()
        step(net, images, labels).backward()
        optimizer.step()
    return (time.perf_counter() - wall) / steps, (time.process_time() - cpu) / steps


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--steps", type=int, default=40)
    args.add_argument("--threads", type=int, default=1)
    args = args.parse_args()
    found = {}
    for stage in STAGES:
        few, many = (ood_seg(stage, steps, args.threads) for steps in (5, 5 + args.steps))
        ours = [(b - a) / args.steps for a, b in zip(few, many)]
        theirs = peer(stage, args.steps, args.threads)
        found[stage] = {
            who: {"wall_s": wall, "cpu_s": cpu, "crops_per_s": 4 / wall, "crops_per_cpu_s": 4 / cpu}
            for who, (wall, cpu) in (("ood_seg", ours), ("eager", theirs))
        }
    print(json.dumps(found))


main()
