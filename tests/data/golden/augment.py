"""Writes augment.safetensors beside this file: what albumentations 1.4.24 does to one small picture.

pip install numpy==1.26.3 opencv-python-headless==4.10.0.84 albumentations==1.4.24
"""
import json, struct
from pathlib import Path

import albumentations.augmentations.functional as F
import albumentations.augmentations.geometric.functional as G
import cv2
import numpy as np

rng = np.random.default_rng(5)
# 32 columns: OpenCV rounds the last width % 32 columns of HSV to RGB another way.
image = rng.integers(0, 256, (26, 32, 3), dtype=np.uint8)
image[:5, :9] = (0, 0, 0)        # black padding
image[5:9, 3:12] = (90, 90, 90)  # grey: no hue
labels = rng.integers(0, 19, (26, 32), dtype=np.uint8)
out = {"image": image, "labels": labels}
for scale in (0.5, 0.73, 1.31, 2.0):
    out[f"scale.{scale}.image"] = G.scale(image, scale, cv2.INTER_LINEAR)
    out[f"scale.{scale}.labels"] = G.scale(labels, scale, cv2.INTER_NEAREST)
for factor in (0.8, 0.913, 1.2):
    out[f"brightness.{factor}"] = F.adjust_brightness_torchvision(image, factor)
    out[f"contrast.{factor}"] = F.adjust_contrast_torchvision(image, factor)
    out[f"saturation.{factor}"] = F.adjust_saturation_torchvision(image, factor)
for shift in (-0.5, -0.213, 0.0713, 0.4):
    out[f"hue.{shift}"] = F.adjust_hue_torchvision(image, shift)

header, data = {}, b""
for name, array in out.items():
    raw = np.ascontiguousarray(array).tobytes()
    header[name] = {"dtype": "U8", "shape": list(array.shape), "data_offsets": [len(data), len(data) + len(raw)]}
    data += raw
text = json.dumps(header).encode()
text += b" " * (-len(text) % 8)
Path(__file__).with_suffix(".safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
