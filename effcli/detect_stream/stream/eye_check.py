"""Whether the left picture is the left eye's: by where the same things are in the pictures of the first frames."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from effcli.core.errors import InputError
from effcli.detect_stream.network.config import NetworkConfig
from effcli.detect_stream.network.frame_fitting import FrameFit, fitted_pair
from effcli.detect_stream.sources.frame_source import Arrival

log = logging.getLogger(__name__)

_BLOCK = 16
_LEAST_TEXTURE = 4.0
_MOST_SHIFT = 64
_CLEARLY = 0.7
"""A match is clear if any other kind of match differs by 1 / 0.7 times as much."""

_LEAST_BLOCKS = 20
_MOST_FRAMES = 3
_FAR_SHARE = 0.9
_MIXED_SHARE = 0.2
"""Of matches to each side: in pairs of one scene those to the wrong side are about 4 in 100."""


@dataclass(frozen=True)
class EyeEvidence:
    """Textured blocks of the left picture by where the right one shows them.

    Attributes:
        farther_left: as it should be.
        farther_right: as it is when the eyes are exchanged.
        same_place: as it is very far away, or when one eye is shown twice.
    """

    farther_left: int = 0
    farther_right: int = 0
    same_place: int = 0

    def __add__(self, other: EyeEvidence) -> EyeEvidence:
        return EyeEvidence(
            self.farther_left + other.farther_left,
            self.farther_right + other.farther_right,
            self.same_place + other.same_place,
        )

    @property
    def total(self) -> int:
        """All blocks whose match is clear."""
        return self.farther_left + self.farther_right + self.same_place


def eye_evidence(left: Tensor, right: Tensor) -> EyeEvidence:
    """Match the blocks of a pair, uint8 ``[3, H, W]``, to both sides."""
    a, b = (x.float().mean(0)[None, None] for x in (left, right))
    deviation = (F.avg_pool2d(a**2, _BLOCK) - F.avg_pool2d(a, _BLOCK) ** 2).clamp(min=0).sqrt()
    textured = deviation > _LEAST_TEXTURE
    to_left = torch.stack([_cost(a, b, d) for d in range(2, _MOST_SHIFT, 2)]).amin(0)
    to_right = torch.stack([_cost(a, b, -d) for d in range(2, _MOST_SHIFT, 2)]).amin(0)
    here = torch.stack([_cost(a, b, d) for d in (-1, 0, 1)]).amin(0)
    kinds = (to_left, to_right, here)
    counts = []
    for kind in kinds:
        others = torch.stack([one for one in kinds if one is not kind]).amin(0)
        counts.append(int((textured & (kind < _CLEARLY * others)).sum()))
    return EyeEvidence(*counts)


def _cost(a: Tensor, b: Tensor, shift: int) -> Tensor:
    """Mean difference of each block from what is ``shift`` columns farther left; large where that is outside."""
    difference = (a - b.roll(shift, 3)).abs()
    if shift > 0:
        difference[..., :shift] = 255
    elif shift < 0:
        difference[..., shift:] = 255
    return F.avg_pool2d(difference, _BLOCK)


def checked_eyes(arrivals: Iterator[Arrival], fit: FrameFit, config: NetworkConfig) -> Iterator[Arrival]:
    """The same frames; a warning if the first ones look like exchanged eyes, one eye shown twice, or two scenes.

    Where too little in them has a clear match to tell, that is said.

    Raises:
        InputError: left and right are the same picture.
    """
    evidence, n_seen = EyeEvidence(), 0
    for arrival in arrivals:
        if arrival.frame is not None and n_seen < _MOST_FRAMES and evidence.total < _LEAST_BLOCKS:
            left, right = fitted_pair(arrival.frame, fit, config)
            found = eye_evidence(left, right)
            if found.total and torch.equal(left, right):
                raise InputError(
                    "left and right are the same picture",
                    place=f"frame {arrival.number}",
                    hint="name the pictures of both cameras",
                )
            evidence, n_seen = evidence + found, n_seen + 1
            if evidence.total >= _LEAST_BLOCKS:
                _say(evidence)
            elif n_seen == _MOST_FRAMES:
                log.warning(
                    "left and right could not be compared: the first %d frames have %d places with a clear "
                    "match, and %d are needed; swapped cameras would go unnoticed",
                    n_seen,
                    evidence.total,
                    _LEAST_BLOCKS,
                )
        yield arrival


def _say(evidence: EyeEvidence) -> None:
    if min(evidence.farther_left, evidence.farther_right) >= max(5, _MIXED_SHARE * evidence.total):
        log.warning(
            "left and right do not seem to show the same scene: of %d places %d are farther left in the right "
            "picture, as they should be, and %d farther right; are they two views, of one moment?",
            evidence.total,
            evidence.farther_left,
            evidence.farther_right,
        )
    elif evidence.farther_right > 2 * evidence.farther_left and evidence.farther_right >= _LEAST_BLOCKS // 2:
        log.warning(
            "left and right look swapped: of %d places %d are farther right in the right picture; swap "
            "them, or distances will be wrong",
            evidence.total,
            evidence.farther_right,
        )
    elif evidence.same_place > _FAR_SHARE * evidence.total:
        log.warning(
            "of %d places %d are at the same position in both pictures: one camera shown twice, or everything "
            "is very far away",
            evidence.total,
            evidence.same_place,
        )
