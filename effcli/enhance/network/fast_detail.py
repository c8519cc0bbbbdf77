"""Large pictures fast: the network sees a small form of the picture, and what it says is spread to the full size.

What the exposure head says is a function of the picture's brightness, linear near each pixel (`fit_maps`), so it can be
fitted to a small form and applied to the full picture, where it has the full picture's edges.

One thing the small form cannot say is over how many pixels of the full picture brightness and colour are to be
averaged against noise, as its pixels are means already. So the network also computes a few tiles of the full picture,
and the weights of the scales are moved to what it says there (docs/methods/walmafa.md, Fast detail).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from effcli.enhance.network.exposure_head import (
    CELL,
    N_MAPS,
    N_SCALES,
    GuidedMaps,
    blurred,
    fit_maps,
    guide_of,
    render_fitted,
)
from effcli.enhance.network.walmafa_net import SIDE_MULTIPLE

SMALL_PIXELS = 1 << 20
"""Of the small form, about."""

_TILES, _TILE, _TILE_BORDER = (2, 3), 160, 32
_N_WEIGHTS = 2 * N_SCALES


class Window(NamedTuple):
    """Rows and columns of a picture, from the first to before the last."""

    top: int
    bottom: int
    left: int
    right: int

    def of(self, x: Tensor) -> Tensor:
        """This part of maps [..., H, W]."""
        return x[..., self.top : self.bottom, self.left : self.right]


def render_from_small(x: Tensor, log_gain: Tensor, say: Callable[[Tensor], Tensor]) -> Tensor:
    """A large picture brightened by the maps of a small form of it.

    Args:
        x: [1, 3, H, W] in 0..1, float32 on the CPU.
        log_gain: [1], log of the gain that all pixels share.
        say: the maps of a picture, [1, 3, h, w] -> [1, N_MAPS, h, w], h and w multiples of CELL.

    Returns:
        [1, 3, H, W] in 0..1.
    """
    small = small_form(x)
    fitted = fit_maps(say(small), guide_of(blurred(small, 1), log_gain))
    fitted = with_weights_of_tiles(x, log_gain, fitted, say)
    return render_fitted(x, log_gain, fitted)


def small_form(x: Tensor) -> Tensor:
    """A picture [1, 3, H, W] made smaller, by means over areas, to :func:`small_size`."""
    return F.interpolate(x, small_size(*x.shape[-2:]), mode="area")


def small_size(height: int, width: int) -> tuple[int, int]:
    """Sides of a picture of about SMALL_PIXELS, or as many as there are, that the network takes."""
    scale = min(1.0, (SMALL_PIXELS / (height * width)) ** 0.5)
    down, along = (max(1, round(side * scale / SIDE_MULTIPLE)) * SIDE_MULTIPLE for side in (height, width))
    return down, along


def with_weights_of_tiles(
    x: Tensor, log_gain: Tensor, fitted: GuidedMaps, say: Callable[[Tensor], Tensor]
) -> GuidedMaps:
    """Maps whose weights of the scales agree, on the whole, with those that the network says for tiles of ``x``.

    The difference of each of these 2 N_SCALES maps is taken for a linear function of the guide, the same one all over
    the picture, by least squares over the tiles.
    """
    rows = [_weights_of_tile(x, log_gain, fitted, say, tile) for tile in tiles(*x.shape[-2:])]
    guide, difference = (torch.cat(parts, 1) for parts in zip(*rows, strict=True))
    mean_guide, mean = guide.mean(1, keepdim=True), difference.mean(1, keepdim=True)
    from_mean = guide - mean_guide
    slope = (from_mean * (difference - mean)).sum(1) / (from_mean.square().sum(1) + 1e-3 * guide.shape[1])
    offset = mean[:, 0] - slope * mean_guide[:, 0]
    moved = [F.pad(part, (0, N_MAPS - _N_WEIGHTS))[:, None, None] for part in (slope, offset)]
    return GuidedMaps(fitted.slope + moved[0], fitted.offset + moved[1])


def _weights_of_tile(
    x: Tensor, log_gain: Tensor, fitted: GuidedMaps, say: Callable[[Tensor], Tensor], tile: Window
) -> tuple[Tensor, Tensor]:
    """Of the cells inside a tile: the guide [1, n], and by how much the weights differ from those spread, [8, n]."""
    piece = tile.of(x)
    guide = guide_of(blurred(piece, 1), log_gain)
    own = fit_maps(say(piece), guide)
    cells = F.avg_pool2d(guide, CELL)
    said = own.slope * cells + own.offset
    spread = F.avg_pool2d(spread_to(fitted, guide, tile, x.shape[-2:]), CELL)
    border = [min(_TILE_BORDER // CELL, side // 3) for side in cells.shape[-2:]]
    inside = Window(border[0], cells.shape[-2] - border[0], border[1], cells.shape[-1] - border[1])
    difference = inside.of(said - spread)[0, :_N_WEIGHTS]
    return inside.of(cells)[0].flatten(1), difference.flatten(1)


def spread_to(fitted: GuidedMaps, guide: Tensor, window: Window, size: Sequence[int]) -> Tensor:
    """The maps of a window of a picture of ``size``, by its guide [1, 1, h, w]: a part of what `spread` gives."""
    slope, offset = (resampled(part, window, size) for part in fitted)
    return offset.addcmul_(slope, guide)


def resampled(maps: Tensor, window: Window, size: Sequence[int]) -> Tensor:
    """Part of maps [1, C, h, w] brought to a size by bilinear interpolation (centres of pixels at halves)."""
    above, below, down = _between(maps.shape[-2], size[0], window.top, window.bottom)
    before, after, along = _between(maps.shape[-1], size[1], window.left, window.right)
    rows = torch.lerp(maps[:, :, above], maps[:, :, below], down[:, None])
    return torch.lerp(rows[..., before], rows[..., after], along)


def _between(n_small: int, n_full: int, first: int, last: int) -> tuple[Tensor, Tensor, Tensor]:
    """The two neighbours in the small axis of positions of the full one, and the way from the first to the second."""
    at = ((torch.arange(first, last) + 0.5) * (n_small / n_full) - 0.5).clamp_(0, n_small - 1)
    before = at.long()
    return before, (before + 1).clamp_max_(n_small - 1), at - before


def tiles(height: int, width: int) -> Iterator[Window]:
    """Tiles spread evenly over a picture, their sides multiples of what the network takes where it is large enough."""
    n_down, n_across = _TILES
    high, wide = (min(_TILE, side // CELL * CELL) for side in (height, width))
    for row in range(n_down):
        for column in range(n_across):
            top = round((row + 0.5) / n_down * (height - high))
            left = round((column + 0.5) / n_across * (width - wide))
            yield Window(top, top + high, left, left + wide)
