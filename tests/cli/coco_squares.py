"""A small data set of COCO's form: coloured squares on grey, whose colour is their class."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (40, 60, 230), "white": (250, 250, 250)}
SIDE = 64


def save_squares(
    folder: Path, n: int = 12, parts: Sequence[str] = ("train", "eval"), names: Sequence[str] = tuple(COLOURS)
) -> None:
    """``annotations/instances_<part>.json`` and the images; image i shows one or two neighbours of ``names``."""
    (folder / "annotations").mkdir(parents=True)
    for number, part in enumerate(parts):
        draws = np.random.default_rng(number)
        (folder / part).mkdir()
        images: list[dict[str, object]] = []
        annotations: list[dict[str, object]] = []
        for i in range(n):
            pixels = draws.integers(90, 140, (SIDE, SIDE, 3), dtype=np.uint8)
            for k in range(1 + i % 2):
                name = names[(i // 2 + k) % len(names)]
                side = int(draws.integers(16, 28))
                left = int(draws.integers(0, SIDE // 2 - side + 1)) + k * SIDE // 2
                top = int(draws.integers(0, SIDE - side + 1))
                pixels[top : top + side, left : left + side] = COLOURS[name]
                annotations.append(
                    annotation(len(annotations), i, names.index(name), (left, top, side, side))
                )
            Image.fromarray(pixels).save(folder / part / f"{i}.png")
            images.append({"id": 100 + i, "file_name": f"{i}.png", "width": SIDE, "height": SIDE})
        content = {"images": images, "annotations": annotations, "categories": categories(names)}
        (folder / "annotations" / f"instances_{part}.json").write_text(json.dumps(content))


def annotation(number: int, image: int, label: int, box: tuple[float, ...], **more: Any) -> dict[str, Any]:
    """One object; numbers of images and categories have gaps."""
    return {
        "id": number,
        "image_id": 100 + image,
        "category_id": 5 * label + 2,
        "bbox": list(box),
        "area": math.prod(box[2:]),
        "iscrowd": 0,
        **more,
    }


def categories(names: Sequence[str]) -> list[dict[str, Any]]:
    return [{"id": 5 * label + 2, "name": name} for label, name in enumerate(names)]
