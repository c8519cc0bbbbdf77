"""The exposure head: what the network says per pixel, applied so that colours keep their hue.

The network does not paint the picture. It says per pixel how much lighter than the common curve, from how wide a
neighbourhood brightness and colour are taken (against noise), and small corrections of black level, saturation and
tint. What it says is made smooth along the picture. By construction grey stays grey, black stays black, and colours
that no training picture has come out with their hue (docs/methods/walmafa.md, Exposure head).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from effcli.enhance.network.exposure import curve

N_SCALES = 4
"""The picture itself and three blurred ones, of about 1, 2 and 5 pixels (a-trous, B3 spline)."""
N_MAPS = 2 * N_SCALES + 10
"""Weights of the scales for brightness, and for colour; gain, saturation, tint (3), black level (4), channel share."""
CELL = 4
"""Side of the cells, in pixels, at which maps are fitted to the picture."""
HALO_ROWS = 28
"""Rows beyond a strip that its result depends on, in whole cells: twice two cells of the windows, one of interpolation,
and one for the guide's blur (2 rows) and the convolution that says the maps (1). The picture's blurs, 2 + 4 + 8, are
less."""
BLUR_ROWS = 14
"""Rows that the widest blur looks at on either side."""

LEAST = 2e-3
MOST_BLACK, FIRST_BLACK = 0.06, 3.0
BLACK_SPREAD = 0.5
MOST_GAIN = 3.0
MOST_SATURATION = 0.2
MOST_TINT = 0.07
MOST_BY_CHANNEL = 0.45
LEAST_SATURATION = 0.76
SATURATION_KEPT_FROM = (0.03, 0.075)
SHARPNESS = 8.0
FIRST_SCALE = 2.0
_GUIDE_VARIANCE = 2.5e-3
_WINDOW = 5


class GuidedMaps(NamedTuple):
    """Maps as locally linear functions of a guide g, slope g + offset, per cell."""

    slope: Tensor
    """[B, N_MAPS, H / CELL, W / CELL], float32."""
    offset: Tensor
    """Of the same shape."""


def apply_maps(x: Tensor, log_gain: Tensor, maps: Tensor) -> Tensor:
    """Brighten pictures as the maps say.

    Args:
        x: [B, 3, H, W] in 0..1.
        log_gain: [B], log of the gain that all pixels share.
        maps: [B, N_MAPS, H, W], any values, H and W multiples of CELL; with zeros the result is nearly that of the
            common curve.

    Returns:
        [B, 3, H, W] in 0..1, float32.
    """
    if x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_grad_enabled():
        return render_fitted(x, log_gain, fit_maps(maps, guide_of(blurred(x, 1), log_gain)))
    scales = blurred(x)
    guide = guide_of(scales, log_gain)
    return render(scales, log_gain, spread(fit_maps(maps, guide), guide))


def render_fitted(x: Tensor, log_gain: Tensor, fitted: GuidedMaps) -> Tensor:
    """What :func:`render` makes of pictures and maps that are spread over them, in one compiled pass.

    Args:
        x: [B, 3, H, W] in 0..1, float32 on the CPU.
        log_gain: [B].
        fitted: to these pictures or to smaller forms of them.

    Returns:
        [B, 3, H, W] in 0..1 with the strides of ``x``; not differentiable.
    """
    from effcli.enhance.network.exposure_cpu import render_picture

    out = torch.empty_like(x)
    cells = torch.cat(fitted, 1).contiguous()
    for k, gain in enumerate(log_gain.tolist()):
        render_picture(x[k].numpy(), gain, cells[k].numpy(), out[k].numpy(), torch.get_num_threads())
    return out


def guide_of(scales: list[Tensor], log_gain: Tensor) -> Tensor:
    """What maps follow: the largest channel, blurred by a pixel and lit by the common curve, [B, 1, H, W]."""
    return curve(scales[1].amax(1, keepdim=True), log_gain[:, None, None, None])


def fit_maps(maps: Tensor, guide: Tensor) -> GuidedMaps:
    """Fit maps to a guide: the fast guided filter (He and Sun, 2015, arXiv:1505.00996), windows of 5 x 5 cells.

    So a map is smooth where the picture is, to well below the rounding of the network that says it, and has an edge
    only where the picture has one.

    Args:
        maps: [B, N, H, W], H and W multiples of CELL.
        guide: [B, 1, H, W].
    """
    small_guide, small = F.avg_pool2d(guide, CELL), F.avg_pool2d(maps.float(), CELL)
    mean_guide, mean = _window_mean(small_guide), _window_mean(small)
    variance = _window_mean(small_guide.square()) - mean_guide.square()
    slope = (_window_mean(small_guide * small) - mean_guide * mean) / (variance + _GUIDE_VARIANCE)
    return GuidedMaps(_window_mean(slope), _window_mean(mean - slope * mean_guide))


def spread(fitted: GuidedMaps, guide: Tensor) -> Tensor:
    """The maps of every pixel, [B, N_MAPS, H, W], of a guide [B, 1, H, W] of that size or a larger one."""
    slope, offset = (F.interpolate(part, size=guide.shape[-2:], mode="bilinear") for part in fitted)
    return slope * guide + offset


def _window_mean(x: Tensor) -> Tensor:
    around = _WINDOW // 2
    return F.avg_pool2d(F.pad(x, (around,) * 4, mode="replicate"), _WINDOW, 1)


def render(scales: list[Tensor], log_gain: Tensor, maps: Tensor) -> Tensor:
    """The brightened pictures [B, 3, H, W], of the picture and its blurred forms, and maps of every pixel."""
    brightness, colour, rest = maps.split((N_SCALES, N_SCALES, N_MAPS - 2 * N_SCALES), dim=1)
    v = _mixed([scale.amax(1, keepdim=True) for scale in scales], brightness)
    gain = total_log_gain(log_gain, rest[:, :1])
    source = _mixed(scales, colour)
    colours = _colours(source, rest[:, 1:9])
    by_channel = MOST_BY_CHANNEL * torch.sigmoid(rest[:, 9:])
    bright = torch.lerp(curve(v, gain) * colours, curve(v * colours, gain), by_channel)
    return _saturated(bright, _ratio(source + LEAST), v)


def total_log_gain(log_gain: Tensor, own: Tensor) -> Tensor:
    """The log of the common gain [B] and the pixel's own [B, 1, H, W] together.

    It is at least the smaller of no change and the common gain: where that brightens, nothing is darkened.
    """
    common = log_gain[:, None, None, None]
    floor = common.clamp(max=0)
    bounded = MOST_GAIN * torch.tanh(own / MOST_GAIN)
    return floor + F.softplus(common + bounded - floor, beta=SHARPNESS)


def blurred(x: Tensor, n_times: int = N_SCALES - 1) -> list[Tensor]:
    """The picture and its blurred forms [B, C, H, W], each twice as wide as the one before."""
    scales = [x]
    for step in (1, 2, 4)[:n_times]:
        scales.append(_b3_along(-1, _b3_along(-2, scales[-1], step), step))
    return scales


def _b3_along(axis: int, x: Tensor, step: int) -> Tensor:
    """The B3 spline (1, 4, 6, 4, 1) / 16 along one of the last two axes, its taps ``step`` pixels apart."""
    margin = 2 * step
    padding = (0, 0, margin, margin) if axis == -2 else (margin, margin, 0, 0)
    padded, n = F.pad(x, padding, mode="replicate"), x.shape[axis]
    far, near, middle, near_2, far_2 = (padded.narrow(axis, k * step, n) for k in range(5))
    return torch.add(far, far_2).add_(torch.add(near, near_2), alpha=4).add_(middle, alpha=6).mul_(1 / 16)


def _mixed(scales: list[Tensor], logits: Tensor) -> Tensor:
    """The mean of the scales with the weights softmax(logits), the finest one ahead where all logits are zero."""
    lead = torch.zeros(N_SCALES, dtype=logits.dtype, device=logits.device)
    lead[0] = FIRST_SCALE
    weights = (logits + lead[:, None, None]).softmax(1)
    return sum((weights[:, k : k + 1] * scale for k, scale in enumerate(scales)), torch.zeros_like(scales[0]))


def _colours(x: Tensor, maps: Tensor) -> Tensor:
    """Each pixel's channels over the largest, with black level, saturation and tint corrected: [B, 3, H, W] in 0..1."""
    is_coloured = _colouredness(_ratio(x + LEAST))
    black = MOST_BLACK * torch.sigmoid(maps[:, 4:5] - FIRST_BLACK)
    ratio = _ratio(x + LEAST + black * (1 + BLACK_SPREAD * is_coloured * torch.tanh(maps[:, 5:8])))
    saturation = 1 - ratio.amin(1, keepdim=True)
    factor = torch.exp(MOST_SATURATION * torch.tanh(maps[:, 0:1]))
    factor = torch.minimum(factor, 1 / saturation.clamp_min(1e-3))
    most_tint = MOST_TINT * is_coloured * (1 - saturation / 2)
    return _ratio((1 - factor * (1 - ratio)) * torch.exp(most_tint * torch.tanh(maps[:, 1:4])))


def _saturated(bright: Tensor, source: Tensor, v: Tensor) -> Tensor:
    """The result with at least 0.76 of the source's saturation, except near black, where the noise makes most of it."""
    low, high = SATURATION_KEPT_FROM
    rise = ((v - low) / (high - low)).clamp(0, 1)
    kept = LEAST_SATURATION * rise * rise * (3 - 2 * rise)
    most = bright.amax(1, keepdim=True)
    saturation = (1 - bright.amin(1, keepdim=True) / most.clamp_min(1e-4)).clamp_min(1e-3)
    wanted = kept * (1 - source.amin(1, keepdim=True))
    return most - (most - bright) * (wanted / saturation).clamp_min(1)


def _ratio(x: Tensor) -> Tensor:
    return x / x.amax(1, keepdim=True)


def _colouredness(ratio: Tensor) -> Tensor:
    """0 for grey, and nearly 1 from a saturation of a tenth on: [B, 3, H, W] -> [B, 1, H, W]."""
    saturation = 1 - ratio.amin(1, keepdim=True)
    return saturation / (saturation + 0.03)
