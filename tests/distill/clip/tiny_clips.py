"""Very small CLIP models with random weights, and pairs for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from effcli.distill.clip.clip_model import ClipModel
from effcli.distill.clip.models import new_clip, save_clip

STUDENT: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 32, "head_width": 16, "patch_size": 4},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
TEACHER: dict[str, Any] = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 20, "layers": 1, "width": 32, "head_width": 16, "patch_size": 10},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
LOCKED: dict[str, Any] = {
    "embed_dim": 16,
    "custom_text": True,
    "vision_cfg": {
        "timm_model_name": "tf_efficientnet_lite0",
        "timm_model_pretrained": False,
        "timm_pool": "avg",
        "timm_proj": "linear",
        "image_size": 32,
    },
    "text_cfg": STUDENT["text_cfg"],
}
"""For `effcli distill train` with the method lit."""

WORDS = ("red", "green", "blue", "dark", "light", "small", "large", "round")


def write_config(file: Path, config: dict[str, Any]) -> Path:
    """A .json file that ``--student`` takes."""
    file.write_text(json.dumps(config))
    return file


def tiny_clip(folder: Path, config: dict[str, Any], seed: int = 0) -> ClipModel:
    """A model with random weights, by way of a file in ``folder``."""
    torch.manual_seed(seed)
    return new_clip(str(write_config(folder / "config.json", config)))


def save_teacher(folder: Path, config: dict[str, Any] = TEACHER) -> Path:
    """A folder of a teacher with random weights."""
    folder.mkdir(parents=True)
    save_clip(folder, tiny_clip(folder, config, seed=1))
    (folder / "config.json").unlink()
    return folder


def save_pairs(folder: Path, n: int = 24) -> Path:
    """A CSV with small pictures, and captions of a few words."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["filepath,title"]
    for i in range(n):
        y, x = np.mgrid[0:20, 0 : 18 + i % 3]
        values = np.stack([10 * i + 3 * x, 255 - 9 * i - 2 * y, x * y], axis=-1) % 256
        Image.fromarray(values.astype(np.uint8)).save(folder / f"{i}.png")
        lines.append(f"{i}.png,{WORDS[i % 8]} {WORDS[(3 * i) % 8]} {i}")
        if i % 4 == 0:
            lines.append(f"{i}.png,number {i}")
    file = folder / "pairs.csv"
    file.write_text("\n".join(lines) + "\n")
    return file
