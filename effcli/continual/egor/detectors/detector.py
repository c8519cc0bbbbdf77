"""What EGOR needs of a one-stage detector, whatever its losses are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms

from effcli.core.tensor_file import require_finite_output

SCORE_THRESHOLD, NMS_IOU, PER_LEVEL, PER_IMAGE = 0.05, 0.6, 1000, 100


@dataclass(frozen=True)
class Raw:
    """What a detector says of a batch; the places of all levels stand one after another.

    Attributes:
        logits: of the classes, float32 ``[B, N, C]``.
        edges: what boxes are decoded from, float32 ``[B, N, E]``.
        features: of the classification tower, one ``[B, F, H, W]`` a level.
        pyramid: what the towers see, one ``[B, P, H, W]`` a level.
        frozen: what the frozen detector says whose features are used; None where there is none.
    """

    logits: Tensor
    edges: Tensor
    features: tuple[Tensor, ...]
    pyramid: tuple[Tensor, ...] = ()
    frozen: Raw | None = None


@dataclass(frozen=True)
class Targets:
    """The objects of a batch; images with fewer than the most have places that are not valid.

    Attributes:
        boxes: left, top, right, bottom in pixels, float32 ``[B, G, 4]``.
        labels: int64 ``[B, G]``.
        valid: bool ``[B, G]``.
    """

    boxes: Tensor
    labels: Tensor
    valid: Tensor

    def to(self, device: torch.device) -> Targets:
        """The same on a device."""
        return Targets(self.boxes.to(device), self.labels.to(device), self.valid.to(device))


@dataclass(frozen=True)
class DetectionLoss:
    """A detector's training loss.

    Attributes:
        total: what is minimised.
        balance: s, mean absolute difference of IoU and score of the assigned class over positives, first within levels,
            then over levels; detached, 0 without positives.
        n_positives: places that have an object.
    """

    total: Tensor
    balance: Tensor
    n_positives: int


@dataclass(frozen=True)
class Detections:
    """Boxes found in one image, the best first.

    Attributes:
        boxes: left, top, right, bottom in pixels, ``[K, 4]``.
        scores: ``[K]``.
        labels: int64 ``[K]``.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor


class Detector(nn.Module, ABC):
    """A dense detector: each place of each level says a score a class, and a box.

    Attributes:
        strides: pixels between the places of each level.
        mean, std: of the channels of the images that it takes, for values of 0..1.
    """

    strides: tuple[int, ...]
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    @property
    @abstractmethod
    def n_classes(self) -> int:
        """How many classes it knows."""

    @property
    @abstractmethod
    def trunk(self) -> tuple[nn.Module, ...]:
        """What :meth:`pyramid` runs: all but the heads."""

    @abstractmethod
    def pyramid(self, images: Tensor) -> Sequence[Tensor]:
        """What the heads see of normalised images ``[B, 3, H, W]``: one ``[B, P, H, W]`` a level."""

    @abstractmethod
    def heads(self, levels: Sequence[Tensor]) -> Raw:
        """What is said of a pyramid."""

    def forward(self, images: Tensor) -> Raw:
        """Look at normalised images ``[B, 3, H, W]``; sides are multiples of the largest stride that pads."""
        return self.heads(self.pyramid(images))

    @abstractmethod
    def grow(self, n_new: int) -> None:
        """Have ``n_new`` more classes; what it says of the others stays as it is."""

    @abstractmethod
    def renew(self, n_new: int) -> None:
        """Have ``n_new`` new classes in place of all."""

    @abstractmethod
    def scores(self, raw: Raw) -> Tensor:
        """Of the classes, 0..1, ``[B, N, C]``."""

    @abstractmethod
    def boxes(self, raw: Raw) -> Tensor:
        """Left, top, right, bottom in pixels, ``[B, N, 4]``."""

    @abstractmethod
    def detection_loss(self, raw: Raw, targets: Targets, first: int = 0) -> DetectionLoss:
        """Its training loss on classes from ``first`` on; the columns of those before get no gradient at all.

        Args:
            raw: of the batch.
            targets: objects of these classes.
            first: the first class that counts.
        """

    @abstractmethod
    def response(self, raw: Raw) -> Tensor:
        """How sure each place is of its box, ``[B, N]``: what places for box distillation are chosen by."""

    @abstractmethod
    def small_boxes(self, raw: Raw) -> Tensor:
        """Boxes as the released distillation hands them to its NMS, ``[B, N, 4]``."""

    @abstractmethod
    def box_distances(self, new: Tensor, old: Tensor) -> Tensor:
        """Of what boxes are decoded from, edge by edge, ``[K, E]`` each to ``[K, 4]``; gradient reaches ``new``."""

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 ``[B, 3, H, W]`` as it takes them."""
        mean, std = (torch.tensor(v, device=images.device)[:, None, None] for v in (self.mean, self.std))
        return (images.float() / 255 - mean) / std

    def denormalise(self, images: Tensor) -> Tensor:
        """What :meth:`normalise` was given, clipped to 0..255 and rounded."""
        mean, std = (torch.tensor(v, device=images.device)[:, None, None] for v in (self.mean, self.std))
        return ((images * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)

    def level_sizes(self, raw: Raw) -> list[int]:
        """How many of the N places each level has."""
        per_place = raw.logits.shape[1] // sum(f.shape[-2] * f.shape[-1] for f in raw.features)
        return [f.shape[-2] * f.shape[-1] * per_place for f in raw.features]

    @torch.no_grad()
    def detect(
        self,
        images: Tensor,
        sizes: Sequence[tuple[int, int]] | None = None,
        threshold: float = SCORE_THRESHOLD,
    ) -> list[Detections]:
        """Find objects in normalised images: the 1000 best of each level, class-wise NMS at 0.6, 100 an image.

        Args:
            images: ``[B, 3, H, W]``.
            sizes: height and width of each without padding; boxes are clipped to them.
            threshold: least score.
        """
        return self.detections(
            self(images), sizes or [(images.shape[-2], images.shape[-1])] * len(images), threshold
        )

    def detections(self, raw: Raw, sizes: Sequence[tuple[int, int]], threshold: float) -> list[Detections]:
        """What :meth:`detect` makes of the outputs for images of these heights and widths."""
        scores, boxes, levels = self.scores(raw), self.boxes(raw), self.level_sizes(raw)
        require_finite_output(scores, "the scores of boxes")
        found = []
        for row, image_scores in enumerate(scores):
            found.append(_best(image_scores, boxes[row], levels, threshold, sizes[row]))
        return found


def mean_of_levels(values: Tensor, place: Tensor, levels: list[int]) -> Tensor:
    """The mean over levels of the means within them; levels without any value do not count."""
    level = torch.repeat_interleave(torch.arange(len(levels)), torch.tensor(levels)).to(place.device)[place]
    n = torch.zeros(len(levels), device=values.device).index_add_(0, level, torch.ones_like(values))
    sums = torch.zeros(len(levels), device=values.device).index_add_(0, level, values)
    return (sums[n > 0] / n[n > 0]).mean()


def _best(
    scores: Tensor, boxes: Tensor, levels: list[int], threshold: float, size: tuple[int, int]
) -> Detections:
    """The detections of one image, from all places."""
    kept_boxes, kept_scores, kept_labels = [], [], []
    for level_scores, level_boxes in zip(scores.split(levels), boxes.split(levels), strict=True):
        place, label = torch.nonzero(level_scores > threshold, as_tuple=True)
        score = level_scores[place, label]
        best = score.topk(min(PER_LEVEL, len(score))).indices
        kept_boxes.append(level_boxes[place[best]])
        kept_scores.append(score[best])
        kept_labels.append(label[best])
    found = Detections(torch.cat(kept_boxes), torch.cat(kept_scores), torch.cat(kept_labels))
    limits = found.boxes.new_tensor([size[1], size[0], size[1], size[0]])
    clipped = torch.minimum(found.boxes.clamp(min=0), limits)
    keep = batched_nms(clipped, found.scores, found.labels, NMS_IOU)[:PER_IMAGE]
    return Detections(clipped[keep], found.scores[keep], found.labels[keep])
