"""A frozen detector with a branch that begins as a copy of its heads."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from effcli.continual.egor.detectors.branched import OnOldDetector, joined
from effcli.continual.egor.detectors.detector import DetectionLoss, Detections, Detector, Raw, Targets


class CopiedBranch(OnOldDetector):
    """The old network looks at the images; a copy of its heads, with new classes in place of its own, learns.

    What it says of the old classes stays the same, bit for bit.

    Args:
        old: the detector, which is frozen; where it has a branch, the heads below all branches are copied.
        n_new: classes of the branch.
    """

    def __init__(self, old: Detector, n_new: int) -> None:
        super().__init__()
        self.old = old.eval().requires_grad_(False)
        self.own = heads_of(old, n_new)
        self.strides, self.mean, self.std = old.strides, old.mean, old.std

    @property
    def n_new(self) -> int:
        """Classes of the branch."""
        return self.own.n_classes

    def heads(self, levels: Sequence[Tensor]) -> Raw:
        """What the branch says of its own classes; ``frozen`` in it is what the old detector says."""
        with torch.no_grad():
            frozen = self.old.heads(levels)
        return replace(self.own.heads(levels), pyramid=frozen.pyramid, frozen=frozen)

    def detections(self, raw: Raw, sizes: Sequence[tuple[int, int]], threshold: float) -> list[Detections]:
        """Those of the old detector, as it gives them alone, and those of the branch after them."""
        assert raw.frozen is not None
        before = self.old.detections(raw.frozen, sizes, threshold)
        return joined(before, self.own.detections(raw, sizes, threshold), self.old.n_classes)

    def scores(self, raw: Raw) -> Tensor:
        """Of the branch."""
        return self.own.scores(raw)

    def boxes(self, raw: Raw) -> Tensor:
        """Of the branch."""
        return self.own.boxes(raw)

    def detection_loss(self, raw: Raw, targets: Targets, first: int = 0) -> DetectionLoss:
        """The old detector's loss, of the branch; labels are numbers of its own classes."""
        return self.own.detection_loss(raw, targets, first)

    def response(self, raw: Raw) -> Tensor:
        """Of the branch."""
        return self.own.response(raw)

    def small_boxes(self, raw: Raw) -> Tensor:
        """Of the branch."""
        return self.own.small_boxes(raw)

    def box_distances(self, new: Tensor, old: Tensor) -> Tensor:
        """The old detector's."""
        return self.own.box_distances(new, old)


def heads_of(detector: Detector, n_classes: int) -> Detector:
    """A copy without the trunk, with new classes: its :meth:`~Detector.heads` see another detector's pyramid."""
    while isinstance(detector, OnOldDetector):
        detector = detector.old
    made = copy.deepcopy(detector).requires_grad_(True)
    parts = {name for name, one in made.named_modules() if any(one is part for part in made.trunk)}
    for name in parts:
        folder, _, last = name.rpartition(".")
        setattr(made.get_submodule(folder), last, nn.Identity())
    made.renew(n_classes)
    return made
