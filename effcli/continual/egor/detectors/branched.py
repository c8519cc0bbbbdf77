"""A frozen detector with a branch for new classes: what it says of the old ones stays the same, bit for bit."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Self

import torch
from torch import Tensor, nn

from effcli.continual.egor.detectors.detector import Detections, Detector, Raw
from effcli.continual.egor.detectors.edge_distributions import EdgeDistributions, by_place
from effcli.core.errors import UsageError

PRIOR = 0.01
_LEVELS_OF_LARGE_ANCHORS = 5


class OnOldDetector(Detector):
    """A branch on the pyramid of a frozen detector.

    Attributes:
        old: the detector.
    """

    old: Detector

    @property
    @abstractmethod
    def n_new(self) -> int:
        """Classes of the branch."""

    @property
    def n_classes(self) -> int:
        """Of the old detector and the branch."""
        return self.old.n_classes + self.n_new

    def train(self, mode: bool = True) -> Self:
        """The old detector stays in evaluation mode."""
        super().train(mode)
        self.old.eval()
        return self

    def grow(self, n_new: int) -> None:
        """Refused: a further branch has further classes.

        Raises:
            UsageError: always.
        """
        raise UsageError(
            "a detector with a branch cannot learn classes in its old network", hint="--method branch"
        )

    def renew(self, n_new: int) -> None:
        """Refused, as :meth:`grow` is.

        Raises:
            UsageError: always.
        """
        self.grow(n_new)

    @property
    def trunk(self) -> tuple[nn.Module, ...]:
        """The old detector's."""
        return self.old.trunk

    @torch.no_grad()
    def pyramid(self, images: Tensor) -> Sequence[Tensor]:
        """The old detector's."""
        return self.old.pyramid(images)


class BranchedDetector(OnOldDetector, EdgeDistributions):
    """The old network looks at the images; a small head on its pyramid finds the new classes.

    The head is a GFL: one for all levels, a pointwise convolution and depthwise-separable ones, with GroupNorm. Its
    classes follow those of the old detector, which may itself have a branch.

    Args:
        old: the detector, which is frozen.
        width: channels of the old detector's pyramid.
        n_new: classes of the branch.
        channels: of the branch, a multiple of 8.
        n_convs: depthwise-separable convolutions of the branch.
    """

    def __init__(self, old: Detector, width: int, n_new: int, channels: int = 64, n_convs: int = 2) -> None:
        super().__init__()
        self.old = old.eval().requires_grad_(False)
        self.width, self.channels, self.n_convs = width, channels, n_convs
        self.strides, self.mean, self.std = old.strides, old.mean, old.std
        n_levels = len(old.strides)
        self.reg_max = getattr(old, "reg_max", 16)
        self.offset = float(getattr(old, "offset", 0.0))
        self.anchor_scale = int(
            getattr(old, "anchor_scale", 8 if n_levels >= _LEVELS_OF_LARGE_ANCHORS else 4)
        )
        self.tower = nn.Sequential(*_convs(width, channels, n_convs))
        self.cls = nn.Conv2d(channels, n_new, 1)
        self.reg = nn.Conv2d(channels, 4 * (self.reg_max + 1), 1)
        self.scales = nn.Parameter(torch.ones(n_levels))
        for conv in (self.cls, self.reg):
            nn.init.normal_(conv.weight, std=0.01)
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)
        assert self.cls.bias is not None
        nn.init.constant_(self.cls.bias, -math.log((1 - PRIOR) / PRIOR))

    @property
    def n_new(self) -> int:
        """Classes of the branch."""
        return self.cls.out_channels

    def heads(self, levels: Sequence[Tensor]) -> Raw:
        """What the branch says of its own classes; ``frozen`` in it is what the old detector says."""
        with torch.no_grad():
            frozen = self.old.heads(levels)
        logits, edges, features = [], [], []
        for scale, level in zip(self.scales, levels, strict=True):
            tower = self.tower(level)
            features.append(tower)
            logits.append(by_place(self.cls(tower)))
            edges.append(by_place(self.reg(tower).float() * scale))
        own = Raw(torch.cat(logits, 1).float(), torch.cat(edges, 1), tuple(features))
        return replace(own, pyramid=frozen.pyramid, frozen=frozen)

    def detections(self, raw: Raw, sizes: Sequence[tuple[int, int]], threshold: float) -> list[Detections]:
        """Those of the old detector, as it gives them alone, and those of the branch after them."""
        assert raw.frozen is not None
        before = self.old.detections(raw.frozen, sizes, threshold)
        return joined(before, super().detections(raw, sizes, threshold), self.old.n_classes)


def joined(before: Sequence[Detections], own: Sequence[Detections], n_before: int) -> list[Detections]:
    """For each image what an old detector of ``n_before`` classes finds, and after it what a branch finds."""
    return [
        Detections(
            torch.cat([a.boxes, b.boxes]),
            torch.cat([a.scores, b.scores]),
            torch.cat([a.labels, b.labels + n_before]),
        )
        for a, b in zip(before, own, strict=True)
    ]


def pyramid_width(detector: Detector) -> int:
    """Channels of a detector's pyramid."""
    side = 2 * max(detector.strides)
    device = next(detector.parameters()).device
    with torch.no_grad():
        return int(detector.eval()(torch.zeros(1, 3, side, side, device=device)).pyramid[0].shape[1])


def _convs(width: int, channels: int, n: int) -> list[nn.Module]:
    layers: list[nn.Module] = [nn.Conv2d(width, channels, 1, bias=False)]
    for _ in range(n):
        layers += [
            nn.GroupNorm(channels // 8, channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
            nn.Conv2d(channels, channels, 1, bias=False),
        ]
    return [*layers, nn.GroupNorm(channels // 8, channels), nn.ReLU(inplace=True)]
