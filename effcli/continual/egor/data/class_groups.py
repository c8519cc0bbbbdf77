"""Which images teach which classes: a set of images with boxes, cut into groups of classes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from effcli.continual.class_splits import class_order, parse_split
from effcli.continual.egor.data.detection_sets import DetectionSet, hold_out
from effcli.continual.egor.data.sources import has_parts, load_detection, refuse_without_boxes
from effcli.continual.egor.recipe import DetectionDataSection, DetectionRecipe
from effcli.core.errors import UsageError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClassGroup:
    """Classes that are learned together.

    Attributes:
        classes: their names.
        known: those learned before.
        train: images that show one of them, with the boxes of these alone; labels are numbers among known and new.
        n_left_out: images left out because a known class is labelled in them.
    """

    classes: tuple[str, ...]
    known: tuple[str, ...]
    train: DetectionSet
    n_left_out: int

    @property
    def all_classes(self) -> tuple[str, ...]:
        """Known and new."""
        return self.known + self.classes


@dataclass(frozen=True)
class OldImages:
    """Images that old classes are measured on which the new data do not show.

    Attributes:
        images: with all their boxes.
        classes: those that are measured here.
        source: where the images are from, for people.
    """

    images: DetectionSet
    classes: tuple[str, ...]
    source: str


@dataclass(frozen=True)
class ClassGroups:
    """Groups in the order in which they are learned.

    Attributes:
        groups: at least one.
        train: the whole set.
        eval: images to measure on, with all their boxes.
        old: further images to measure on, for old classes that ``eval`` does not show.
    """

    groups: tuple[ClassGroup, ...]
    train: DetectionSet
    eval: DetectionSet
    old: tuple[OldImages, ...] = ()

    def eval_of(self, classes: Sequence[str]) -> DetectionSet:
        """All images to measure on, with the boxes of some classes."""
        return self.eval.of_classes(classes, with_empty=True)

    def describe(self) -> dict[str, Any]:
        """Numbers, for ``--dry-run``."""
        return {
            "classes": [list(group.classes) for group in self.groups],
            "train_images": [len(group.train) for group in self.groups],
            "train_boxes": [
                sum(group.train.counts()[name] for name in group.classes) for group in self.groups
            ],
            "images_left_out": [group.n_left_out for group in self.groups],
            "eval_images": len(self.eval),
        }


def load_parts(recipe: DetectionRecipe) -> tuple[DetectionSet, DetectionSet]:
    """The images to learn from and those to measure on, which are held out where the data have none for it."""
    settings = recipe.data
    train = load_detection(settings.source, "train", settings.images)
    if has_parts(settings.source):
        return train, load_detection(settings.source, "eval", settings.images)
    if len(train) < 2:
        raise UsageError(
            "holds one image; at least two are needed, one for training and one for evaluation",
            place=settings.source,
        )
    return hold_out(train, recipe.eval.hold_out, seed=0)


def load_groups(recipe: DetectionRecipe, known: Sequence[str]) -> ClassGroups:
    """Read the images and cut their classes.

    Images in which a class learned before is labelled teach nothing (the paper's protocol), unless ``cooccur`` says so.

    Args:
        settings: the recipe's.
        known: classes that a detector knows already.

    Raises:
        InputError: the data cannot be read.
        UsageError: the tasks do not fit the classes, nothing is new, or a group has no images.
    """
    settings = recipe.data
    train, evaluated = load_parts(recipe)
    new = [name for name in train.classes if name not in known]
    refuse_without_boxes(train, settings.source)
    if not new:
        raise UsageError("the detector already knows all of its classes", place=settings.source)
    order = [new[i] for i in class_order(new, settings.tasks or (len(new),), None)]
    sizes = parse_split(settings.tasks or (len(new),), len(new))
    groups, before = [], tuple(known)
    for size in sizes:
        classes, order = tuple(order[:size]), order[size:]
        groups.append(_group(train, classes, before, settings))
        before += classes
    return ClassGroups(tuple(groups), train, evaluated)


def _group(
    train: DetectionSet, classes: tuple[str, ...], known: tuple[str, ...], settings: DetectionDataSection
) -> ClassGroup:
    names = known + classes
    shown = train.of_classes(classes)
    learned = shown if settings.cooccur else train.of_classes(classes, without=known)
    if not len(learned):
        reason = "every image of them also shows known classes" if len(shown) else "no image shows them"
        raise UsageError(
            f"no images to learn {', '.join(classes[:5])} from: {reason}",
            place=settings.source,
            hint="-s data.cooccur=true" if len(shown) else None,
        )
    numbered = learned.of_classes(names)
    without = [name for name, n in numbered.counts().items() if name in classes and not n]
    if without:
        raise UsageError(f"no training images show {', '.join(without[:5])}", place=settings.source)
    return ClassGroup(classes, known, numbered, len(shown) - len(learned))
