"""`make parity`: the full-size backbone beside Hugging Face transformers, on the same random weights.

An implementation that shares no line with ours. Writes each model as Hugging Face would, lets `ood_seg convert` read
it, and leaves input and outputs for `tests/parity.rs`, which compares the final tokens and the four taps.
"""

import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "out/parity"
SIZES = {"vits14": (384, 12, 6), "vitb14": (768, 12, 12)}
TAPS = (1, 4, 8, 11)
# transformers resizes the plain models' position embedding without the offset 0.1 of the published code, so the plain
# model is compared on its native grid; the one with registers on a grid that is neither native nor square.
CASES = [("vitb14_reg", (378, 714)), ("vits14", (518, 518))]


def network(arch):
    """A transformers model with every tensor random, LayerScale and norms included."""
    dim, depth, heads = SIZES[arch.removesuffix("_reg")]
    shape = dict(hidden_size=dim, num_hidden_layers=depth, num_attention_heads=heads, image_size=518, patch_size=14)
    if arch.endswith("_reg"):
        model = Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**shape, num_register_tokens=4))
    else:
        model = Dinov2Model(Dinov2Config(**shape))
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            noise = torch.randn_like(tensor)
            if "lambda1" in name:
                tensor.copy_(0.3 + 0.1 * noise)
            elif "norm" in name and name.endswith("weight"):
                tensor.copy_(1 + 0.1 * noise)
            elif tensor.dim() >= 2 and "embeddings" not in name:
                tensor.copy_(noise * 1.5 / tensor.shape[-1] ** 0.5)
            else:
                tensor.copy_(0.1 * noise)
    return model.eval()


@torch.inference_mode()
def outputs(model, x):
    """Final tokens and taps, after the final norm, without class token and registers."""
    skip = 1 + getattr(model.config, "num_register_tokens", 0)
    seen = model(pixel_values=x, output_hidden_states=True)
    taps = {f"tap.{i}": model.layernorm(seen.hidden_states[i + 1])[:, skip:].contiguous() for i in TAPS}
    return {"tokens": seen.last_hidden_state[:, skip:].contiguous(), **taps}


def main():
    for arch, (h, w) in CASES:
        torch.manual_seed(7)
        folder = OUT / arch
        model = network(arch)
        model.save_pretrained(folder)
        x = torch.randn(1, 3, h, w)
        save_file({"x": x, **outputs(model, x)}, folder / "io.safetensors")
        convert = [ROOT / "target/release/ood_seg", "convert", folder / "model.safetensors"]
        subprocess.run([*convert, "--out", folder / "ours.safetensors"], check=True)
    test = ["cargo", "test", "--release", "--locked", "--test", "parity", "--", "--nocapture"]
    sys.exit(subprocess.run(test, cwd=ROOT, env={**os.environ, "PARITY_DIR": str(OUT)}).returncode)


if __name__ == "__main__":
    main()
