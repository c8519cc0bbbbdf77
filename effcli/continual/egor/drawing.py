"""Boxes and their names on images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from effcli.continual.egor.detectors.detector import Detections

_COLOURS = (
    (230, 25, 75),
    (60, 180, 75),
    (0, 130, 200),
    (245, 130, 48),
    (145, 30, 180),
    (0, 160, 160),
    (240, 50, 230),
    (128, 128, 0),
    (170, 110, 40),
    (128, 0, 0),
)


_LARGE = 640
"""Pixels of the longer side above which names grow with the picture."""


def draw_boxes(image: Tensor, found: Detections, classes: Sequence[str], zoom: int = 1) -> Tensor:
    """uint8 ``[3, H, W]`` with the boxes found in it, ``zoom`` times as large."""
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    picture = picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(picture)
    line = max(1, round(max(picture.size) / 400))
    font = ImageFont.load_default(max(picture.size) / 60) if max(picture.size) > _LARGE else None
    worst_first = found.boxes.flip(0), found.scores.flip(0), found.labels.flip(0)
    for box, score, label in zip(*(part.tolist() for part in worst_first), strict=True):
        colour = _COLOURS[label % len(_COLOURS)]
        left, top, right, bottom = (zoom * v for v in box)
        draw.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=colour, width=line)
        text = f"{classes[label]} {100 * score:.0f}" if score < 1 else classes[label]
        extent = draw.textbbox((left, top), text, font)
        above = max(0, top - (extent[3] - extent[1]) - 3)
        draw.rectangle((left, above, left + extent[2] - extent[0] + 3, top), fill=colour)
        draw.text((left + 1, above - 1), text, fill="white", font=font)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()
