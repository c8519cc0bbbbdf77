"""What is said about a picture and its result: levels, change of hue, and small versions to look at."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from effcli.data.picture import Picture
from effcli.enhance.image_quality import hue_error
from effcli.enhance.network.exposure import GREY_WEIGHTS

LARGEST_WIDTH, LARGEST_HEIGHT = 640, 960
"""Of a small version, in pixels."""

_QUALITY = 80
_LARGEST_PROFILE_BYTES = 16 << 10


@dataclass(frozen=True)
class SmallPair:
    """A picture and its result to look at.

    Attributes:
        before, after: ``data:`` URIs of WebP files.
        width, height: of both, in pixels.
        hue_change: mean change of hue in degrees, 0..180, over the pixels that are coloured in the result; None where
            there are hardly any.
    """

    before: str
    after: str
    width: int
    height: int
    hue_change: float | None


def level_of(picture: Picture) -> float:
    """The mean grey level of a picture, 0..1."""
    means = picture.pixels.mean((0, 1), dtype=np.float64)
    return round(float(means @ GREY_WEIGHTS if len(means) == 3 else means[0]), 4)


def small_pair(before: Picture, after: Picture) -> SmallPair:
    """Small versions of a picture and its result, of one size; what is transparent is shown as if it were not."""
    size = _small_size(*after.pixels.shape[:2])
    small = [_reduced(picture.pixels, size) for picture in (before, after)]
    colours = [torch.from_numpy(one).permute(2, 0, 1) for one in small]
    hue = hue_error(*colours) if all(len(one) == 3 for one in colours) else None
    shown = [_uri(pixels, after.metadata.icc) for pixels in small]
    return SmallPair(
        shown[0], shown[1], width=size[1], height=size[0], hue_change=None if hue is None else round(hue, 1)
    )


def _small_size(height: int, width: int) -> tuple[int, int]:
    """Height and width of the small version, in the proportions of the picture."""
    scale = min(1.0, LARGEST_WIDTH / width, LARGEST_HEIGHT / height)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _reduced(pixels: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Pixels [H, W, C] at another size; of sides that differ from it the mean over what falls together."""
    if pixels.shape[:2] == size:
        return pixels
    channels = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    small = interpolate(channels, size, mode="bilinear", antialias=True)
    reduced: NDArray[np.float32] = small[0].permute(1, 2, 0).contiguous().numpy()
    return reduced


def _uri(pixels: NDArray[np.float32], icc: bytes | None) -> str:
    """A WebP file of pixels [H, W, C] as a ``data:`` URI, with the colour profile unless that is large."""
    from PIL import Image

    samples = np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    is_colour = samples.shape[-1] == 3
    image = Image.fromarray(samples if is_colour else samples[..., 0])
    file = io.BytesIO()
    options = {"icc_profile": icc} if is_colour and icc and len(icc) <= _LARGEST_PROFILE_BYTES else {}
    image.save(file, "WEBP", quality=_QUALITY, **options)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode("ascii")
