"""The tone curve that all of a picture shares, and the level it reaches.

The curve of gain g >= 1 maps the largest channel V of a pixel to 1 - (1 - V)^g, and the other channels by the same
factor. So hue and saturation (HSV) stay, black stays black, white stays white, nothing is clipped, and for g >= 1
nothing becomes darker; near black it is a gain of g, as a longer exposure would be (docs/methods/walmafa.md, Exposure
head).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

GREY_WEIGHTS = (0.299, 0.587, 0.114)
"""Rec. 601, as the metrics have it."""

LOG_GAIN_RANGE = (-3.5, 6.5)
"""Of the gain that :func:`log_gain_for_level` finds: e^6.5 = 665, about nine stops."""

_MOST_V = 1 - 1e-6
_THUMBNAIL_PIXELS = 1 << 14
_BISECTIONS = 24
_ROWS_AT_ONCE = 64


def grey(x: Tensor) -> Tensor:
    """The grey level of each pixel: [..., 3, H, W] -> [..., 1, H, W]."""
    red, green, blue = GREY_WEIGHTS
    return red * x[..., 0:1, :, :] + green * x[..., 1:2, :, :] + blue * x[..., 2:3, :, :]


def level(x: Tensor) -> Tensor:
    """The level of pictures, the mean of their grey levels: [..., 3, H, W] -> [...]."""
    return grey(x).mean((-3, -2, -1))


def curve(v: Tensor, log_gain: Tensor) -> Tensor:
    """The curve of gain g = exp(log_gain) for v in 0..1: 1 - (1 - v)^g for g >= 1, g v (less light) for g < 1."""
    lighter = -torch.expm1(log_gain.clamp_min(0).exp() * torch.log1p(-v.clamp(0, _MOST_V)))
    return log_gain.clamp_max(0).exp() * lighter


def exposed(x: Tensor, log_gain: Tensor) -> Tensor:
    """Pictures [B, 3, H, W] in 0..1 through the curve of their gain, ``log_gain`` [B] or [B, 1, H, W]."""
    if log_gain.ndim == 1:
        log_gain = log_gain[:, None, None, None]
    v = x.amax(1, keepdim=True)
    factor = curve(v, log_gain) / v.clamp_min(1e-6)
    return x * torch.where(v > 1e-6, factor, log_gain.exp())


def thumbnail(x: Tensor, pixels: int = _THUMBNAIL_PIXELS) -> Tensor:
    """Pictures [B, 3, H, W] made smaller, by means over areas, to at most so many pixels; small ones stay."""
    height, width = x.shape[-2:]
    scale = (pixels / (height * width)) ** 0.5
    if scale >= 1:
        return x
    return F.interpolate(x, (max(1, round(height * scale)), max(1, round(width * scale))), mode="area")


def log_gain_for_level(x: Tensor, wanted: Tensor) -> Tensor:
    """log g with which ``exposed(x, log g)`` has the level ``wanted``, within LOG_GAIN_RANGE, by bisection.

    Args:
        x: thumbnails [B, 3, h, w] in 0..1.
        wanted: [B] in 0..1.

    Returns:
        [B]. A black picture has the largest gain.
    """
    v = x.amax(1).flatten(1)
    share = grey(x)[:, 0].flatten(1) / v.clamp_min(1e-6)
    low, high = (torch.full_like(wanted, end) for end in LOG_GAIN_RANGE)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        reached = (share * curve(v, middle[:, None])).mean(1)
        low, high = torch.where(reached < wanted, middle, low), torch.where(reached < wanted, high, middle)
    return (low + high) / 2


def at_level(
    x: Tensor, wanted: float, *, tolerance: float = 0.0, most_log_gain: float, out: Tensor | None = None
) -> Tensor:
    """A picture brought to a level by the curve, some rows at a time.

    Args:
        x: [1, 3, H, W] in 0..1.
        wanted: the level, 0..1.
        tolerance: relative difference from it with which a picture stays as it is.
        most_log_gain: no picture is changed by a larger gain up or down.
        out: where a changed picture goes, of the same shape; ``x`` itself is allowed.
    """
    small = thumbnail(x)
    if abs(float(level(small)) - wanted) <= tolerance * wanted:
        return x
    log_gain = log_gain_for_level(small, torch.tensor([wanted])).clamp(-most_log_gain, most_log_gain)
    out = torch.empty_like(x) if out is None else out
    for rows, result in zip(x.split(_ROWS_AT_ONCE, -2), out.split(_ROWS_AT_ONCE, -2), strict=True):
        result.copy_(exposed(rows, log_gain))
    return out
