"""Training batches for a network with an exposure head: patches, and the gain and level of their whole pictures.

The gain and the level are those of whole pictures, so that a patch is lit as it would be inside its picture. Samples
vary in what is dark (the pair's own picture, its reference darkened by a camera model, or the reference itself, which
is to stay as it is), in their colours, and in the level to reach.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from effcli.data.epochs import draws_of, item_of
from effcli.enhance.data.pairs import PairSet, same_patch
from effcli.enhance.network.exposure import exposed, level, log_gain_for_level, thumbnail
from effcli.enhance.recipe import WalMaFaDataSection

LEVEL_RANGE = (0.08, 0.75)
"""Of levels that are drawn."""

_ORDER_STREAM, _SAMPLE_STREAM = 1, 3
_THUMBNAIL_SIDE = 96
_DRAWN_LEVEL = 0.5
_SATURATION = (0.5, 1.6)
_GAMMA = 2.2
_CAST = 0.08
_PHOTONS = (300.0, 8000.0)
_READ_NOISE = (3e-4, 2e-3)


class ExposureBatch(NamedTuple):
    """B samples."""

    low: Tensor
    """[B, 3, P, P] in 0..1."""
    high: Tensor
    """[B, 3, P, P] in 0..1: what it should become."""
    log_gain: Tensor
    """[B]: of the curve that brings the whole dark picture to the level of the whole bright one."""
    thumbnails: Tensor
    """[B, 3, 96, 96] of the whole dark pictures."""
    level: Tensor
    """[B]: the levels of the references, before others are drawn."""


def exposure_batch(
    pairs: PairSet,
    data: WalMaFaDataSection,
    step: int,
    batch_size: int,
    seed: int,
    rank: int = 0,
    world: int = 1,
) -> ExposureBatch:
    """Rank ``rank``'s rows of the batch of a step; all ranks' rows are those of a single process.

    Args:
        pairs: dark pictures and references.
        data: the patch and how often what is varied.
        step: from 0.
        batch_size: over all ranks.
        seed: of the order and of the variations.
        rank, world: this process, and how many there are.
    """
    samples = []
    for draw in draws_of(step, batch_size, rank=rank, world=world):
        epoch, index = item_of(draw, len(pairs), _ORDER_STREAM, seed)
        rng = np.random.default_rng((_SAMPLE_STREAM, seed, epoch, draw % len(pairs)))
        low, high = (picture.float() / 255 for picture in pairs[index])
        samples.append(_sample(low, high, data, rng))
    return ExposureBatch(*(torch.stack(list(parts)) for parts in zip(*samples, strict=True)))


def _sample(low: Tensor, high: Tensor, data: WalMaFaDataSection, rng: np.random.Generator) -> ExposureBatch:
    kind = rng.random()
    if kind < data.identity:
        low = high
    elif kind < data.identity + data.darken:
        low = darkened(high, rng)
    if rng.random() < data.recolour:
        low, high = recoloured(low, high, rng)
    own_level = wanted = level(high)
    if rng.random() < data.other_levels:
        wanted = (own_level * math.exp(rng.uniform(-_DRAWN_LEVEL, _DRAWN_LEVEL))).clamp(*LEVEL_RANGE)
        high = exposed(high[None], log_gain_for_level(thumbnail(high[None]), wanted[None]))[0]
    log_gain = log_gain_for_level(thumbnail(low[None]), wanted[None])[0]
    small = F.interpolate(low[None], (_THUMBNAIL_SIDE, _THUMBNAIL_SIDE), mode="area")[0]
    low, high = same_patch(low, high, data.patch, rng)
    return ExposureBatch(low, high, log_gain, small, own_level)


def darkened(reference: Tensor, rng: np.random.Generator) -> Tensor:
    """A reference as a camera with less light would have taken it.

    In linear light (gamma 2.2) an exposure drawn log-uniformly from 1/64 to 1, gains per channel of 0.92 to 1.08, noise
    of 300 to 8,000 photons full scale and of reading (0.0003 to 0.002), in half of the pictures correlated over 3x3
    pixels, as demosaicing leaves it; then 8 bits.

    Args:
        reference: [3, H, W] in 0..1.
        rng: of what is drawn.
    """
    exposure = math.exp(rng.uniform(math.log(1 / 64), 0))
    gains = torch.from_numpy(1 + rng.uniform(-_CAST, _CAST, 3)).float()
    photons, read = (math.exp(rng.uniform(*np.log(ends))) for ends in (_PHOTONS, _READ_NOISE))
    linear = reference**_GAMMA * exposure * gains[:, None, None]
    noise = torch.from_numpy(rng.standard_normal(linear.shape, dtype=np.float32))
    if rng.random() < 0.5:
        noise = 1.8 * F.avg_pool2d(F.pad(noise[None], (1, 1, 1, 1), mode="replicate"), 3, 1)[0]
    noisy = linear + (linear / photons + read**2).sqrt() * noise
    return (noisy.clamp(0, 1) ** (1 / _GAMMA) * 255).round() / 255


def recoloured(low: Tensor, high: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Both pictures with their channels in another order and their saturation times 0.5 to 1.6."""
    order = torch.from_numpy(rng.permutation(3))
    factor = rng.uniform(*_SATURATION)

    def changed(picture: Tensor) -> Tensor:
        mean = picture.mean(0, keepdim=True)
        return (mean + factor * (picture[order] - mean)).clamp(0, 1)

    return changed(low), changed(high)
