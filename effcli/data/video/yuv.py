"""Planes of a video frame to RGB and back, in floats: bit depth, range, matrix and chroma subsampling.

Chroma is interpolated linearly on the way to RGB and averaged on the way back, both about the middle of its cells, so
that it stays where it was. Constants: ITU-T H.273, tables 3 and 4.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Planes = list[NDArray[np.generic]]
"""Y alone, or Y, Cb and Cr, each [rows, columns], uint8 or uint16."""

UNSPECIFIED = 2
"""The number of a matrix, of primaries or of a transfer curve that a file does not name."""

_LUMA_WEIGHTS = {  # matrix coefficients -> shares of red and blue in Y
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
    10: (0.2627, 0.0593),
}
_SD_WIDTH, _SD_HEIGHT = 1280, 576


@dataclass(frozen=True)
class YuvLayout:
    """How the samples of a frame are to be read.

    Attributes:
        cell: rows and columns of pixels that share a chroma sample: (2, 2) is 4:2:0; None is grey, without chroma.
        bits: of a sample, 8 to 16.
        is_full: 0 to 2^bits - 1; otherwise 16 to 235, for 8 bits.
        luma_weights: shares of red and blue in Y.
    """

    cell: tuple[int, int] | None = (2, 2)
    bits: int = 8
    is_full: bool = False
    luma_weights: tuple[float, float] = _LUMA_WEIGHTS[1]


def luma_weights_of(matrix: int, width: int, height: int) -> tuple[float, float] | None:
    """Shares of red and blue in Y by the number of the matrix; None where it is not a matrix that is understood.

    A file that names none has BT.601 in standard definition and BT.709 above, as players take it.
    """
    if matrix == UNSPECIFIED:
        matrix = 1 if width > _SD_WIDTH or height > _SD_HEIGHT else 6
    return _LUMA_WEIGHTS.get(matrix)


def to_rgb(planes: Planes, layout: YuvLayout) -> Tensor:
    """RGB [1, 3, H, W], float32 in 0..1, of planes."""
    zero, luma_span, chroma_span = _scales(layout)
    luma = (_tensor(planes[0]) - zero) / luma_span
    if layout.cell is None:
        return luma.clamp(0, 1).expand(1, 3, -1, -1).contiguous()
    middle = float(1 << (layout.bits - 1))
    chroma = (torch.cat([_tensor(plane) for plane in planes[1:3]], 1) - middle) / chroma_span
    down, across = layout.cell
    if layout.cell != (1, 1):
        size = (chroma.shape[2] * down, chroma.shape[3] * across)
        chroma = F.interpolate(chroma, size, mode="bilinear", align_corners=False)
        chroma = chroma[..., : luma.shape[2], : luma.shape[3]]
    of_red, of_blue = layout.luma_weights
    red = luma + 2 * (1 - of_red) * chroma[:, 1:2]
    blue = luma + 2 * (1 - of_blue) * chroma[:, 0:1]
    green = (luma - of_red * red - of_blue * blue) / (1 - of_red - of_blue)
    return torch.cat((red, green, blue), 1).clamp_(0, 1)


def from_rgb(x: Tensor, layout: YuvLayout) -> Planes:
    """Planes of RGB [1, 3, H, W] in 0..1, uint8 for 8 bits, otherwise uint16."""
    zero, luma_span, chroma_span = _scales(layout)
    of_red, of_blue = layout.luma_weights
    red, green, blue = x[:, 0:1], x[:, 1:2], x[:, 2:3]
    luma = of_red * red + (1 - of_red - of_blue) * green + of_blue * blue
    planes = [_samples(luma * luma_span + zero, layout.bits)]
    if layout.cell is None:
        return planes
    chroma = torch.cat(((blue - luma) / (2 * (1 - of_blue)), (red - luma) / (2 * (1 - of_red))), 1)
    down, across = layout.cell
    if layout.cell != (1, 1):
        missing = (0, -chroma.shape[3] % across, 0, -chroma.shape[2] % down)
        chroma = F.avg_pool2d(F.pad(chroma, missing, mode="replicate"), layout.cell)
    chroma = chroma * chroma_span + float(1 << (layout.bits - 1))
    return [*planes, *(_samples(chroma[:, part : part + 1], layout.bits) for part in (0, 1))]


def _scales(layout: YuvLayout) -> tuple[float, float, float]:
    """The sample of black, and the spans of Y and of chroma in samples."""
    if layout.is_full:
        largest = float((1 << layout.bits) - 1)
        return 0.0, largest, largest
    unit = float(1 << (layout.bits - 8))
    return 16 * unit, 219 * unit, 224 * unit


def _tensor(plane: NDArray[np.generic]) -> Tensor:
    return torch.from_numpy(plane.astype(np.float32))[None, None]


def _samples(x: Tensor, bits: int) -> NDArray[np.generic]:
    rounded = x[0, 0].round().clamp(0, (1 << bits) - 1).numpy()
    return rounded.astype(np.uint8 if bits == 8 else np.uint16)
