"""`effcli continual inspect`: what is in a set of images with boxes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from effcli.continual.egor.data.detection_sets import DetectionSet, resized
from effcli.continual.egor.detectors.detector import Detections
from effcli.continual.egor.drawing import draw_boxes
from effcli.core.files import make_folder
from effcli.data.picture_grid import save_grid

SMALL, LARGE = 32**2, 96**2
"""Pixels of area between which a box is of medium size, as COCO counts them."""

_TILE, _COLUMNS = 320, 4


def describe(found: DetectionSet) -> dict[str, Any]:
    """Numbers of a part: images, boxes, their sizes in pixels, and how many there are of each class."""
    boxes = torch.cat([one.boxes for one in found.objects])
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return {
        "labels": found.kind,
        "images": len(found),
        "images_without_boxes": sum(not len(one) for one in found.objects),
        "width": _range([width for _, width in found.sizes]),
        "height": _range([height for height, _ in found.sizes]),
        "boxes": len(boxes),
        "boxes_small": int((areas < SMALL).sum()),
        "boxes_medium": int(((areas >= SMALL) & (areas < LARGE)).sum()),
        "boxes_large": int((areas >= LARGE).sum()),
        "crowds": sum(int(one.crowd.sum()) for one in found.objects),
        "classes": found.counts(),
        "notes": list(found.notes),
    }


def _range(sides: list[int]) -> dict[str, float]:
    return {"smallest": min(sides), "median": median(sides), "largest": max(sides)}


def save_sheet(parts: Mapping[str, DetectionSet], file: Path, n_images: int) -> None:
    """Write images with their boxes as one picture; classes that are rare are shown first.

    Args:
        parts: of the set; images are taken from the first.
        file: a PNG.
        n_images: how many.
    """
    found = next(iter(parts.values()))
    tiles = [_tile(found, i) for i in chosen(found, n_images)]
    make_folder(file.parent)
    save_grid(torch.stack(tiles), file, n_columns=min(_COLUMNS, len(tiles)), zoom=1, border=4)


def chosen(found: DetectionSet, n: int) -> list[int]:
    """Images that show all classes where ``n`` suffice: for each, the rarest first, one that shows most new ones."""
    shown = [set(one.labels.tolist()) for one in found.objects]
    counts = list(found.counts().values())
    picked: list[int] = []
    missing = set(range(len(counts)))
    for label in sorted(missing, key=lambda one: counts[one]):
        candidates = [i for i, labels in enumerate(shown) if label in labels and i not in picked]
        if label in missing and candidates and len(picked) < n:
            best = max(candidates, key=lambda i: len(shown[i] & missing))
            picked.append(best)
            missing -= shown[best]
    others = [i for i in range(len(shown)) if i not in picked and shown[i]]
    others += [i for i in range(len(shown)) if i not in picked and not shown[i]]
    step = max(1, len(others) // max(1, n - len(picked)))
    return (picked + others[::step])[:n]


def _tile(found: DetectionSet, i: int) -> Tensor:
    """An image with its boxes in a square."""
    image = found.read(i)
    scale = _TILE / max(image.shape[1:])
    small, objects = resized(image, scale), found.objects[i]
    seen = Detections(objects.boxes * scale, torch.ones(len(objects)), objects.labels)
    drawn = draw_boxes(small, seen, found.classes)
    height, width = drawn.shape[1:]
    return F.pad(drawn, (0, _TILE - width, 0, _TILE - height), value=128)
