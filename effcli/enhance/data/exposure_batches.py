"""Training batches for a network with an exposure head: patches, and the gain and level of their whole pictures.

The gain and the level are those of whole pictures, so that a patch is lit as it would be inside its picture. Samples
vary in what is dark (the pair's own picture, its reference darkened by a camera model, or the reference itself, which
is to stay as it is), in their colours, and in the level to reach.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
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
THUMBNAIL_SIDE = 96
"""Of the level predictor's samples, in pixels."""

_ORDER_STREAM, _SAMPLE_STREAM, _LEVEL_STREAM = 1, 3, 4
_LEAST_PART = 0.6
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


class LevelBatch(NamedTuple):
    """B samples for the level predictor."""

    thumbnails: Tensor
    """[B, 3, 96, 96] in 0..1, of dark pictures or of large parts of them."""
    level: Tensor
    """[B]: the levels of the same parts of their references."""


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
    for index, rng in _drawn(
        len(pairs), draws_of(step, batch_size, rank=rank, world=world), _SAMPLE_STREAM, seed
    ):
        low, high = (picture.float() / 255 for picture in pairs[index])
        samples.append(_sample(low, high, data, rng))
    return ExposureBatch(*(torch.stack(list(parts)) for parts in zip(*samples, strict=True)))


def _drawn(
    n_pairs: int, draws: Iterable[int], stream: int, seed: int
) -> Iterator[tuple[int, np.random.Generator]]:
    """The pair of each draw, and a generator for what is varied of it."""
    for draw in draws:
        epoch, index = item_of(draw, n_pairs, _ORDER_STREAM, seed)
        yield index, np.random.default_rng((stream, seed, epoch, draw % n_pairs))


def _sample(low: Tensor, high: Tensor, data: WalMaFaDataSection, rng: np.random.Generator) -> ExposureBatch:
    kind = rng.random()
    if kind >= 1 - data.charts:
        return ExposureBatch(*_chart(data.patch, rng))
    if kind < data.identity:
        low = high
    elif kind < data.identity + data.darken:
        low = darkened(high, rng)
    if rng.random() < data.recolour:
        low, high = recoloured(low, high, rng)
    wanted = level(high)
    if rng.random() < data.other_levels:
        wanted = (wanted * math.exp(rng.uniform(-_DRAWN_LEVEL, _DRAWN_LEVEL))).clamp(*LEVEL_RANGE)
        high = exposed(high[None], log_gain_for_level(thumbnail(high[None]), wanted[None]))[0]
    log_gain = log_gain_for_level(thumbnail(low[None]), wanted[None])[0]
    low, high = same_patch(low, high, data.patch, rng)
    return ExposureBatch(low, high, log_gain)


def _chart(side: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """A chart of flat colours, dark and often noisy, the same through the common curve alone, and the gain of that.

    No photograph tells that any colour has to be passed on; a chart does.
    """
    cells = [int(rng.integers(1, 9)) for _ in range(2)]
    hue, saturation, value = (rng.uniform(low, high, cells) for low, high in ((0, 6), (0, 1), (0.3, 1)))
    offsets = np.array([5, 3, 1])[:, None, None]
    k = (offsets + hue) % 6
    colours = value - value * saturation * np.clip(np.minimum(k, 4 - k), 0, 1)
    brightest = math.exp(rng.uniform(math.log(0.05), 0))
    small = torch.from_numpy(colours * brightest).float()[None]
    clean = F.interpolate(small, (side, side), mode="bilinear" if rng.random() < 0.25 else "nearest")
    deviation = rng.uniform(0, 0.02) * (rng.random() < 0.5)
    noise = torch.from_numpy(rng.standard_normal((3, side, side), dtype=np.float32))
    dark = ((clean[0] + deviation * noise).clamp(0, 1) * 255).round() / 255
    wanted = (level(clean) * math.exp(rng.uniform(0, 2))).clamp(max=0.6)
    log_gain = log_gain_for_level(thumbnail(clean), wanted).clamp(0, 3)
    return dark, exposed(clean, log_gain)[0], log_gain[0]


def level_batch(
    pairs: PairSet,
    data: WalMaFaDataSection,
    step: int,
    batch_size: int,
    seed: int,
    rank: int = 0,
    world: int = 1,
) -> LevelBatch:
    """Rank ``rank``'s rows of the level predictor's batch of a step; the arguments are those of exposure_batch.

    A sample is a part of a pair, with 60 to 100 % of each side, mirrored or not; in half of those whose dark picture
    is not the reference the exposure is changed by up to a factor of e, as the level to reach hardly depends on it.
    """
    draws = draws_of(step, batch_size, rank=rank, world=world)
    drawn = _drawn(len(pairs), draws, _LEVEL_STREAM, seed)
    samples = [_level_sample(*pairs[index], data, rng) for index, rng in drawn]
    return LevelBatch(*(torch.stack(list(parts)) for parts in zip(*samples, strict=True)))


def _level_sample(
    low: Tensor, high: Tensor, data: WalMaFaDataSection, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """A thumbnail and the level to reach, of a pair of uint8 pictures; what is varied is the thumbnail, for speed."""
    small, reference = (
        F.interpolate(part[None].float() / 255, (THUMBNAIL_SIDE, THUMBNAIL_SIDE), mode="area")
        for part in _same_part(low, high, rng)
    )
    kind = rng.random()
    if kind < data.identity:
        small = reference
    elif kind < data.identity + data.darken:
        small = darkened(reference[0], rng)[None]
    if kind >= data.identity and rng.random() < 0.5:
        small = exposed(small, torch.tensor([rng.uniform(-1, 1)], dtype=torch.float32))
    small, reference = small[0], reference[0]
    if rng.random() < data.recolour:
        small, reference = recoloured(small, reference, rng)
    return small, level(reference)


def _same_part(low: Tensor, high: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """The same random rectangle of both, with 60 to 100 % of each side, mirrored in half of the cases."""
    sides = [round(side * rng.uniform(_LEAST_PART, 1)) for side in low.shape[-2:]]
    top, left = (
        int(rng.integers(whole - part + 1)) for whole, part in zip(low.shape[-2:], sides, strict=True)
    )
    low, high = (picture[:, top : top + sides[0], left : left + sides[1]] for picture in (low, high))
    return (low.flip(-1), high.flip(-1)) if rng.random() < 0.5 else (low, high)


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
