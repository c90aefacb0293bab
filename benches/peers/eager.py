"""The same network in plain PyTorch, on the same weights file: the peers that `make bench` times.

Reads a safetensors file and its sidecar as `ood_seg` writes them. One 518x1036 window per call: eager with one
backbone pass; with two, as the published code runs it; through torch.compile; through OpenVINO.
Prints one JSON line: wall and CPU seconds per forward, peak resident memory.
"""

import argparse
import functools
import json
import resource
import time
from pathlib import Path

import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import load_file


def layer_norm(w, key, x):
    return F.layer_norm(x, x.shape[-1:], w[f"{key}.weight"], w[f"{key}.bias"], 1e-6)


def linear(w, key, x):
    return F.linear(x, w[f"{key}.weight"], w[f"{key}.bias"])


@functools.cache
def kept_position(network, h, w_):
    """Depends on nothing but the grid, so every runner may keep it."""
    return position(network.backbone, network.cfg["backbone"], h, w_).to(network.dtype)


def position(w, cfg, h, w_):
    """Position embedding on an h x w grid; antialiased for models with registers, offset 0.1 for the others."""
    pos, m = w["pos_embed"].float(), cfg["pos_grid"]
    if h * w_ == m * m and h == w_:
        return pos
    grid = pos[:, 1:].reshape(1, m, m, -1).permute(0, 3, 1, 2)
    if cfg["pos_embed"] == "antialias":
        grid = F.interpolate(grid, size=(h, w_), mode="bicubic", antialias=True)
    else:
        grid = F.interpolate(grid, scale_factor=((h + 0.1) / m, (w_ + 0.1) / m), mode="bicubic")
    return torch.cat([pos[:, :1], grid.flatten(2).transpose(1, 2)], 1)


def backbone(w, cfg, x, pos):
    """Taps of the four blocks and the final tokens, all after the final norm, patch tokens only."""
    b, _, hh, ww = x.shape
    p, heads, regs = cfg["patch_size"], cfg["num_heads"], cfg["num_register_tokens"]
    h, w_ = hh // p, ww // p
    t = F.conv2d(x, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=p).flatten(2).transpose(1, 2)
    t = torch.cat([w["cls_token"].expand(b, -1, -1), t], 1) + pos
    if regs:
        t = torch.cat([t[:, :1], w["register_tokens"].expand(b, -1, -1), t[:, 1:]], 1)
    n, d = t.shape[1:]
    taps = {}
    for i in range(cfg["depth"]):
        k = f"blocks.{i}"
        q, kk, v = linear(w, f"{k}.attn.qkv", layer_norm(w, f"{k}.norm1", t)).view(b, n, 3, heads, d // heads).permute(2, 0, 3, 1, 4)
        a = F.scaled_dot_product_attention(q, kk, v).transpose(1, 2).reshape(b, n, d)
        t = t + w[f"{k}.ls1.gamma"] * linear(w, f"{k}.attn.proj", a)
        y = layer_norm(w, f"{k}.norm2", t)
        if cfg["ffn"] == "mlp":
            y = linear(w, f"{k}.mlp.fc2", F.gelu(linear(w, f"{k}.mlp.fc1", y)))
        else:
            gate, up = linear(w, f"{k}.mlp.w12", y).chunk(2, -1)
            y = linear(w, f"{k}.mlp.w3", F.silu(gate) * up)
        t = t + w[f"{k}.ls2.gamma"] * y
        if i in cfg["taps"]:
            taps[i] = layer_norm(w, "norm", t)[:, 1 + regs:]
    return layer_norm(w, "norm", t)[:, 1 + regs:], [taps[i] for i in cfg["taps"]], (h, w_)


def batch_norm(w, key, x):
    return F.batch_norm(x, w[f"{key}.running_mean"], w[f"{key}.running_var"], w[f"{key}.weight"], w[f"{key}.bias"])


def decoder(w, final, taps, grid):
    """The FPN: (b, channels, 4h, 4w)."""
    def to_map(t):
        return t.transpose(1, 2).unflatten(2, grid).contiguous()

    def group_norm(key, x):
        return F.group_norm(x, 1, w[f"{key}.weight"], w[f"{key}.bias"])

    def up2(key, x):
        return F.conv_transpose2d(x, w[f"{key}.weight"], w[f"{key}.bias"], stride=2)

    def conv(key, x, pad=1):
        return F.conv2d(x, w[f"{key}.weight"], w.get(f"{key}.bias"), padding=pad)

    x = to_map(linear(w, "dino_mlp._layers.2", F.relu(linear(w, "dino_mlp._layers.0", final))))
    t0, t1, t2, t3 = map(to_map, taps)
    l0 = up2("fpn1.4", F.gelu(batch_norm(w, "fpn1.2", up2("fpn1.1", group_norm("fpn1.0", t0)))))
    l1 = up2("fpn2.1", group_norm("fpn2.0", t1))
    l2 = torch.cat([group_norm("fpn3", t2), x], 1)
    l3 = F.max_pool2d(group_norm("fpn4.0", t3), 2)
    lat = [conv(f"lateral_convs.{i}", level, 0) for i, level in enumerate((l0, l1, l2, l3))]
    for i in (3, 2, 1):
        lat[i - 1] = lat[i - 1] + F.interpolate(lat[i], size=lat[i - 1].shape[2:], mode="nearest")
    outs = [conv(f"fpn_convs.{i}", y) for i, y in enumerate(lat)]
    total = None
    for i, y in enumerate(outs):
        for step in range(max(1, i)):
            y = F.relu(batch_norm(w, f"heads.{i}.{4 * step + 1}", conv(f"heads.{i}.{4 * step}", y)))
            if i:
                y = F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=False)
        if total is None:
            total = y
        else:
            total = total + F.interpolate(y, size=total.shape[2:], mode="bilinear", align_corners=True)
    return total


def head(w, kind, x):
    """Logits (b, k, h, w) of a linear or Gaussian-mixture head on a map."""
    if kind == "linear":
        return F.conv2d(x, w["_head.weight"][..., None, None], w["_head.bias"])
    b, c, h, w_ = x.shape
    z = F.layer_norm(x.float().permute(0, 2, 3, 1).reshape(-1, c), (c,), w["feat_norm.weight"].float(), w["feat_norm.bias"].float())
    z = F.normalize(z, dim=-1)
    mean, std = F.normalize(w["means"].float(), dim=-1).flatten(0, 1), w["diagonal"].float().flatten(0, 1)
    inv = std.pow(-2)
    const = -0.5 * c * torch.log(torch.tensor(2 * torch.pi)) - std.log().sum(-1) - 0.5 * (mean.pow(2) * inv).sum(-1)
    density = const + z @ (mean * inv).T - 0.5 * z.pow(2) @ inv.T
    k = w["means"].shape[0]
    best = density.view(-1, k, w["means"].shape[1]).amax(-1)
    out = F.layer_norm(best, (k,), w["mask_norm.weight"].float(), w["mask_norm.bias"].float())
    return out.view(b, h, w_, k).permute(0, 3, 1, 2)


class Network:
    """Model of a weights file: `__call__` maps a normalised (b, 3, h, w) picture to logits and UEM at full size."""

    def __init__(self, path, dtype, device):
        self.cfg = yaml.safe_load(Path(path).with_suffix(".yaml").read_text())
        tensors = {k: v.to(dtype).to(device) for k, v in load_file(path).items()}

        def part(prefix):
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        self.backbone, self.decoder = part("segmentor.backbone.dinov2."), part("segmentor.backbone.learnable_layers.")
        self.head, self.projector, self.ood = part("segmentor.segmentation_head."), part("ood_projector."), part("ood_head.")
        self.dtype = dtype

    def __call__(self, x, passes=1):
        size, x = x.shape[2:], x.to(self.dtype)
        p = self.cfg["backbone"]["patch_size"]
        pos = kept_position(self, size[0] // p, size[1] // p)
        final, taps, grid = backbone(self.backbone, self.cfg["backbone"], x, pos)
        if passes == 2:  # one for the decoder, one for the UEM
            final, _, _ = backbone(self.backbone, self.cfg["backbone"], x, pos)
        logits = head(self.head, self.cfg["head"]["kind"], decoder(self.decoder, final, taps, grid))
        t = F.relu(linear(self.projector, "_layers.0", final))
        t = linear(self.projector, "_layers.4", F.relu(linear(self.projector, "_layers.2", t)))
        uem = head(self.ood, self.cfg["uem"]["head"]["kind"], t.transpose(1, 2).unflatten(2, grid).contiguous())
        return [F.interpolate(y.float(), size=size, mode="bilinear", align_corners=False) for y in (logits, uem)]


class Module(torch.nn.Module):
    """What torch.compile and OpenVINO take."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return tuple(self.net(x))


def runner(name, net, x):
    """A function of the picture that gives logits and UEM."""
    net(x)
    if name == "compile":
        return torch.compile(Module(net), dynamic=False)
    if name == "openvino":
        import openvino

        hint = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}[net.dtype]
        threads = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        model = openvino.compile_model(openvino.convert_model(Module(net), example_input=x), "CPU", threads)
        return lambda x: [torch.from_numpy(y) for y in model(x.numpy()).values()]
    return lambda x: net(x, 2 if name == "twice" else 1)


@torch.no_grad()
def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("weights")
    args.add_argument("--precision", choices=("f32", "bf16", "f16"), default="f32")
    args.add_argument("--device", default="cpu")
    args.add_argument("--repeat", type=int, default=2, help="timed forwards after one warm-up")
    args.add_argument("--threads", type=int, default=0, help="0: libtorch's choice")
    args.add_argument("--runner", choices=("eager", "twice", "compile", "openvino"), default="eager")
    args = args.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}[args.precision]
    net = Network(args.weights, dtype, args.device)
    h, w = net.cfg["window"]
    # The same input as `ood_seg bench window`, so that the two mean scores can be compared.
    x = (torch.arange(3 * h * w) * 7919 % 1000 / 250 - 2).view(1, 3, h, w).to(args.device)
    run = runner(args.runner, net, x)
    run(x)
    if args.device != "cpu":
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(args.repeat):
        logits, uem = run(x)
    if args.device != "cpu":
        torch.cuda.synchronize()
    wall, cpu = (time.perf_counter() - wall) / args.repeat, (time.process_time() - cpu) / args.repeat
    llr = uem[:, 1] - uem[:, 0] - logits.amax(1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"wall_s": wall, "cpu_s": cpu, "peak_mib": peak, "mean_score": llr.mean().item()}))


if __name__ == "__main__":
    main()
