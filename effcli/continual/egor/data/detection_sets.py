"""Images with boxes, as a set and as a detector sees them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_KEPT_BYTES = 2 * 1024**3


@dataclass(frozen=True)
class ObjectBoxes:
    """What is annotated in one image.

    Attributes:
        boxes: left, top, right, bottom in pixels, float32 ``[G, 4]``.
        labels: numbers of the classes, int64 ``[G]``.
        crowd: whether a box stands for many objects, bool ``[G]``.
    """

    boxes: Tensor
    labels: Tensor
    crowd: Tensor

    def rows(self, chosen: Tensor) -> ObjectBoxes:
        """Some of them, by a mask or by numbers."""
        return ObjectBoxes(self.boxes[chosen], self.labels[chosen], self.crowd[chosen])

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True)
class DetectionSet:
    """Images with objects.

    Attributes:
        read: the uint8 RGB image ``[3, H, W]`` of a number.
        sizes: height and width of each image, pixels.
        objects: of each image.
        classes: names; a label is a place here.
        names: of the images, for people.
        left_out: images that were named and are not there.
        mended: boxes that were clipped to their image, or dropped because nothing of them is inside.
        kind: of its labels: COCO, YOLO or Pascal VOC.
        notes: what was left out, changed or is doubtful, one line each.
    """

    read: Callable[[int], Tensor]
    sizes: tuple[tuple[int, int], ...]
    objects: tuple[ObjectBoxes, ...]
    classes: tuple[str, ...]
    names: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    mended: int = 0
    kind: str = ""
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.objects)

    def rows(self, chosen: Sequence[int]) -> DetectionSet:
        """Some of the images."""
        read, numbers = self.read, list(chosen)
        return replace(
            self,
            read=lambda i: read(numbers[i]),
            sizes=tuple(self.sizes[i] for i in numbers),
            objects=tuple(self.objects[i] for i in numbers),
            names=tuple(self.names[i] for i in numbers),
        )

    def of_classes(
        self, classes: Sequence[str], *, without: Collection[str] = (), with_empty: bool = False
    ) -> DetectionSet:
        """The images that show one of some classes, with the objects of these alone.

        Args:
            classes: their labels are their places here; the set need not have them all.
            without: images in which one of these is annotated are left out.
            with_empty: also images that show none of them.
        """
        number = torch.tensor([classes.index(c) if c in classes else -1 for c in self.classes])
        banned = torch.tensor([c in without for c in self.classes])
        kept, objects = [], []
        for i, found in enumerate(self.objects):
            labels = number[found.labels] if len(found) else found.labels
            own = ObjectBoxes(found.boxes, labels, found.crowd).rows(labels >= 0)
            if (with_empty or len(own)) and not (len(found) and bool(banned[found.labels].any())):
                kept.append(i)
                objects.append(own)
        return replace(self.rows(kept), objects=tuple(objects), classes=tuple(classes))

    def counts(self) -> dict[str, int]:
        """How many objects each class has, crowds apart."""
        labels = [found.labels[~found.crowd] for found in self.objects]
        n = torch.bincount(
            torch.cat([*labels, torch.zeros(0, dtype=torch.long)]), minlength=len(self.classes)
        )
        return dict(zip(self.classes, n.tolist(), strict=True))


def hold_out(whole: DetectionSet, share: float, seed: int) -> tuple[DetectionSet, DetectionSet]:
    """Cut a set that has no part to measure on: (train, eval), at least one image each where there are two.

    An image that alone shows some class is not held out.
    """
    order = np.random.default_rng((7, seed)).permutation(len(whole)).tolist()
    n = min(max(1, round(len(whole) * share)), len(whole) - 1)
    shown = [frozenset(found.labels[~found.crowd].tolist()) for found in whole.objects]
    left = Counter(label for labels in shown for label in labels)
    held: list[int] = []
    for i in order:
        if len(held) < n and all(left[label] > 1 for label in shown[i]):
            held.append(i)
            left.subtract(shown[i])
    held = held or order[:1]
    train = sorted(set(order) - set(held))
    return whole.rows(train), whole.rows(sorted(held))


def single_image(image: Tensor, longest: int | None, shortest: int | None) -> ScaledImages:
    """One uint8 image ``[3, H, W]`` without objects, as a set."""
    nothing = ObjectBoxes(
        torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.bool)
    )
    size = (image.shape[1], image.shape[2])
    return ScaledImages(DetectionSet(lambda _: image, (size,), (nothing,), (), ("",)), longest, shortest)


class ScaledImages:
    """The images of a set as large as a detector sees them; those that fit into 2 GiB stay in memory.

    Args:
        images: the set.
        longest: pixels of the longer side, which smaller images are scaled to, too; None for any.
        shortest: pixels of the shorter side; None for any. With both, the smaller scale counts.
    """

    def __init__(self, images: DetectionSet, longest: int | None, shortest: int | None) -> None:
        self.set = images
        self._longest, self._shortest = longest, shortest
        self._kept: dict[int, Tensor] = {}
        self._n_bytes = 0

    def __len__(self) -> int:
        return len(self.set)

    def with_objects(self, objects: Sequence[ObjectBoxes]) -> ScaledImages:
        """The same images with other objects."""
        return ScaledImages(replace(self.set, objects=tuple(objects)), self._longest, self._shortest)

    def __getitem__(self, i: int) -> tuple[Tensor, ObjectBoxes, float]:
        """uint8 ``[3, H, W]``, its objects in these pixels, and how many of these pixels one of the file has."""
        scale = self.scale(i)
        found = self.set.objects[i]
        image = self._kept.get(i)
        if image is None:
            image = resized(self.set.read(i), scale)
            if self._n_bytes + image.numel() <= _KEPT_BYTES:
                self._kept[i] = image
                self._n_bytes += image.numel()
        return image, replace(found, boxes=found.boxes * scale), scale

    def scale(self, i: int) -> float:
        """How many pixels one of the file's becomes."""
        size = self.set.sizes[i]
        limits = ((self._longest, max(size)), (self._shortest, min(size)))
        return min([limit / side for limit, side in limits if limit is not None], default=1.0)


def resized(image: Tensor, scale: float) -> Tensor:
    """uint8 ``[3, H, W]``, antialiased, at least a pixel a side."""
    height, width = (max(1, round(side * scale)) for side in image.shape[1:])
    if (height, width) == tuple(image.shape[1:]):
        return image
    small = F.interpolate(image[None].float(), (height, width), mode="bilinear", antialias=True)
    return small[0].round_().clamp_(0, 255).to(torch.uint8)
