"""Scenes composed of the garments in the package, made when they are asked for: ``builtin:garment-scenes``."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from effcli.data.image_sets import ImageSet, load_images
from effcli.data.stored_files import Split

GARMENT_SCENES = "builtin:garment-scenes"
SIDE = 96
N_SCENES: dict[Split, int] = {"train": 2400, "eval": 400}
_GARMENT_SIDES = (24, 44)
_MOST_GARMENTS = 4
_MOST_OVERLAP = 0.15
_TRIES = 20
_EDGE = 24
_SEED: dict[Split, int] = {"train": 11, "eval": 12}


@cache
def garment_scenes(
    split: Split,
) -> tuple[tuple[Tensor, ...], tuple[tuple[Tensor, Tensor], ...], tuple[str, ...]]:
    """One to four garments on a coloured ground, always the same ones; the parts share no garment.

    Returns:
        Scenes, uint8 ``[3, 96, 96]``; of each the boxes (left, top, right, bottom in pixels, float32 ``[G, 4]``) and
        the labels; and the names of the classes.
    """
    garments = load_images("builtin:fashion-images", split, side=28, channels=1)
    made = [_scene(garments, np.random.default_rng((_SEED[split], i))) for i in range(N_SCENES[split])]
    scenes, boxes, labels = zip(*made, strict=True)
    return scenes, tuple(zip(boxes, labels, strict=True)), garments.classes


def _scene(garments: ImageSet, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    canvas = _ground(rng)
    boxes: list[tuple[int, int, int, int]] = []
    labels = []
    for _ in range(int(rng.integers(1, _MOST_GARMENTS + 1))):
        row = int(rng.integers(len(garments)))
        side = int(rng.integers(_GARMENT_SIDES[0], _GARMENT_SIDES[1] + 1))
        grey = garments.images[row : row + 1].float()
        shade = F.interpolate(grey, (side, side), mode="bilinear", antialias=True)[0]
        if rng.random() < 0.5:
            shade = shade.flip(-1)
        mask = (shade[0] > _EDGE).nonzero()
        if len(mask) == 0:
            continue
        (top, left), (bottom, right) = mask.min(0).values.tolist(), (mask.max(0).values + 1).tolist()
        place = _free_place(rng, side, (left, top, right, bottom), boxes)
        if place is None:
            continue
        x, y = place
        alpha = (shade / _EDGE).clamp(0, 1)
        tint = torch.from_numpy(rng.uniform(0.45, 1.0, (3, 1, 1)).astype(np.float32))
        part = canvas[:, y : y + side, x : x + side]
        part.copy_(part * (1 - alpha) + alpha * tint * (shade * 0.75 + 64))
        boxes.append((x + left, y + top, x + right, y + bottom))
        labels.append(int(garments.labels[row]))
    scene = canvas.round_().clamp_(0, 255).to(torch.uint8)
    return scene, torch.tensor(boxes, dtype=torch.float32), torch.tensor(labels)


def _ground(rng: np.random.Generator) -> Tensor:
    """Soft colours with a little noise, float32 ``[3, 96, 96]`` in 0..255."""
    coarse = torch.from_numpy(rng.uniform(20, 200, (1, 3, 4, 4)).astype(np.float32))
    soft = F.interpolate(coarse, (SIDE, SIDE), mode="bicubic", align_corners=True)[0]
    return soft + torch.from_numpy(rng.normal(0, 6, soft.shape).astype(np.float32))


def _free_place(
    rng: np.random.Generator,
    side: int,
    box: tuple[int, int, int, int],
    taken: list[tuple[int, int, int, int]],
) -> tuple[int, int] | None:
    """Where a garment's square may go so that its box hides little of any other."""
    for _ in range(_TRIES):
        x, y = (int(v) for v in rng.integers(0, SIDE - side + 1, 2))
        left, top, right, bottom = box[0] + x, box[1] + y, box[2] + x, box[3] + y
        is_free = True
        for a, b, c, d in taken:
            both = max(0, min(right, c) - max(left, a)) * max(0, min(bottom, d) - max(top, b))
            smaller = min((right - left) * (bottom - top), (c - a) * (d - b))
            is_free &= both <= _MOST_OVERLAP * smaller
        if is_free:
            return x, y
    return None
