"""Many small pictures as one."""

from __future__ import annotations

import io
import math
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from effcli.core.files import atomic_path


def grid(images: Tensor, *, n_columns: int | None = None, zoom: int | None = None, border: int = 1) -> Tensor:
    """Put images side by side.

    Args:
        images: uint8 ``[N, 1|3, H, W]``.
        n_columns: pictures a row; None makes the grid square.
        zoom: each pixel becomes a square of this side; None brings small pictures to about 64 pixels.
        border: pixels between them, and at the right and bottom.

    Returns:
        uint8 ``[3, height, width]``; the gaps are grey.
    """
    n, _, height, width = images.shape
    columns = n_columns or math.ceil(math.sqrt(n))
    scale = zoom or max(1, 64 // max(height, width))
    large = images.expand(-1, 3, -1, -1).repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    cell_h, cell_w = height * scale + border, width * scale + border
    out = torch.full((3, math.ceil(n / columns) * cell_h, columns * cell_w), 128, dtype=torch.uint8)
    for i, image in enumerate(large):
        top, left = (i // columns) * cell_h, (i % columns) * cell_w
        out[:, top : top + height * scale, left : left + width * scale] = image
    return out


def encode_png(picture: Tensor) -> bytes:
    """uint8 ``[3, H, W]`` as the bytes of a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(buffer, "PNG")
    return buffer.getvalue()


def save_grid(
    images: Tensor, file: Path, *, n_columns: int | None = None, zoom: int | None = None, border: int = 1
) -> None:
    """Write :func:`grid` as a PNG, atomically."""
    with atomic_path(file) as temporary:
        temporary.write_bytes(encode_png(grid(images, n_columns=n_columns, zoom=zoom, border=border)))
