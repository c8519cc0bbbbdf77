"""A set of images with classes, cut into tasks with classes of their own: the stream of class-incremental learning.

Labels are renumbered in the order in which the classes are learned, so the classes seen so far are always ``0..n - 1``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
import torch
from torch import Tensor

from effcli.continual.records import TaskRecord, keys_of
from effcli.core.errors import UsageError
from effcli.core.text import counted
from effcli.data.image_sets import ImageSet
from effcli.data.picture_folders import say_once

_MOST_TASKS = 5
"""Of a split that is chosen for a set."""

_PHASE = re.compile(r"(?:(\d+)x)?(\d+)")


@dataclass(frozen=True)
class ClassTask:
    """Classes that are learned together, and perhaps more images of known ones.

    Attributes:
        number: from 0.
        classes: the names of the new ones; none where there are only more images of known classes.
        first_class: the number of the first new one; they are consecutive.
        train: images to learn from; none where they are learned already and ``record`` says so. Labels below
            ``first_class`` are of known classes.
        eval: images to measure on; perhaps none.
        record: what the run that learned it, or is learning it, remembers.
        source: where it comes from: 0 is ``data.source``, n + 1 is ``data.more[n]``.
        n_before: how many training images each class had in earlier tasks, by class number; empty where all classes of
            this task are new.
    """

    number: int
    classes: tuple[str, ...]
    first_class: int
    train: ImageSet
    eval: ImageSet
    record: TaskRecord | None = None
    source: int = 0
    n_before: tuple[int, ...] = ()

    @property
    def end_class(self) -> int:
        """One more than the number of the last class."""
        return self.first_class + len(self.classes)

    @property
    def train_labels(self) -> Tensor:
        """The class of each training image, also of those that are there no more, int64 ``[N]``."""
        return self.train.labels if self.record is None else self.record.train_labels

    @property
    def n_train(self) -> int:
        """How many training images it has, or had."""
        return len(self.train_labels)

    @property
    def answers(self) -> list[int]:
        """The numbers of the classes that it has training images of, ascending."""
        if not self.n_before:
            return list(range(self.first_class, self.end_class))
        return sorted(set(self.train_labels.tolist()))

    def names(self) -> tuple[str, ...]:
        """The classes that it has training images of; known ones as ``more of NAME``."""
        known = [one for one in self.answers if one < self.first_class]
        return (*self.classes, *(f"more of {self.train.classes[one]}" for one in known))


def parse_split(tasks: int | str | Sequence[int] | Sequence[Sequence[str]], n_classes: int) -> list[int]:
    """The number of classes of each task.

    Args:
        tasks: how many of equal size; ``auto`` for up to five of nearly equal size, of two or more classes;
            ``6+6``; ``50+10x5`` for 50 classes and then ten tasks of 5; the sizes; or the names.
        n_classes: of the set.

    Raises:
        UsageError: they do not divide the classes.
    """
    if tasks == "auto":
        return _nearly_equal(n_classes, min(_MOST_TASKS, max(1, n_classes // 2)))
    if isinstance(tasks, int):
        if n_classes % tasks:
            raise UsageError(
                f"{counted(n_classes, 'class', 'classes')} cannot be split into {tasks} tasks of the same size",
                place="data.tasks",
                hint=f"give the sizes: [{', '.join(map(str, _nearly_equal(n_classes, tasks)))}]",
            )
        return [n_classes // tasks] * tasks
    if isinstance(tasks, str):
        matches = [_PHASE.fullmatch(part) for part in tasks.replace(" ", "").split("+")]
        if not all(matches):
            raise UsageError(
                f"cannot read {tasks!r}",
                place="data.tasks",
                hint="auto, a number, 6+6, 50+10x5, sizes as [4, 3, 3], or lists of names",
            )
        sizes = [int(match[2]) for match in matches if match for _ in range(int(match[1] or 1))]
    else:
        sizes = [one if isinstance(one, int) else len(one) for one in tasks]
    if sum(sizes) != n_classes or min(sizes, default=0) < 1:
        raise UsageError(
            f"tasks of {sizes} classes do not add up to {counted(n_classes, 'class', 'classes')}",
            place="data.tasks",
        )
    return sizes


def class_order(
    classes: Sequence[str], tasks: int | str | Sequence[int] | Sequence[Sequence[str]], seed: int | None
) -> list[int]:
    """The old numbers of the classes in the order in which they are learned.

    Args:
        classes: names by old number.
        tasks: as in :func:`parse_split`; lists of names say the order themselves.
        seed: of a random order; None keeps the old one.

    Raises:
        UsageError: a name is unknown, or missing, or there twice.
    """
    if not isinstance(tasks, int | str) and not all(isinstance(one, int) for one in tasks):
        names = [name for one in tasks for name in one]  # type: ignore[union-attr]
        for name in names:
            if name not in classes:
                near = get_close_matches(name, classes, n=1)
                raise UsageError(
                    f"no class {name!r}",
                    place="data.tasks",
                    hint=f"did you mean {near[0]!r}?" if near else None,
                )
        if sorted(names) != sorted(classes):
            odd = sorted(set(classes) - set(names)) or sorted(
                {name for name in names if names.count(name) > 1}
            )
            raise UsageError(
                f"each class has to be in exactly one task; not so {', '.join(odd[:5])}", place="data.tasks"
            )
        return [classes.index(name) for name in names]
    if seed is None:
        return list(range(len(classes)))
    return [int(one) for one in np.random.default_rng(seed).permutation(len(classes))]


def split_classes(
    train: ImageSet,
    evaluated: ImageSet,
    tasks: int | str | Sequence[int] | Sequence[Sequence[str]],
    order_seed: int | None,
) -> list[ClassTask]:
    """Cut a set into tasks.

    Raises:
        UsageError: the split does not fit the classes, or a class has no image in one of the parts.
    """
    order = class_order(train.classes, tasks, order_seed)
    sizes = parse_split(tasks, len(order))
    return tasks_of(train, evaluated, order, sizes)


def tasks_of(
    train: ImageSet, evaluated: ImageSet, order: Sequence[int], sizes: Sequence[int]
) -> list[ClassTask]:
    """Cut a set by an order of its classes and the number of classes of each task."""
    if train.classes != evaluated.classes:
        untested, unknown = (
            sorted(set(one.classes) - set(other.classes))
            for one, other in ((train, evaluated), (evaluated, train))
        )
        lacking = [
            f"{', '.join(names[:5])} (no images to {use})"
            for names, use in ((untested, "measure on"), (unknown, "learn from"))
            if names
        ]
        raise UsageError(
            f"these classes are in only one part of the data: {'; '.join(lacking)}",
            place="data",
            hint="both parts need a folder for each class; without a test part images are held out of each class",
        )
    if missing := _without_images(train, train.classes):
        raise UsageError(f"no training images of the classes {', '.join(missing[:5])}", place="data")
    if missing := _without_images(evaluated, train.classes):
        say_once(f"learned, but not measured, without a test image: {', '.join(missing[:5])}")
    found, start = [], 0
    for number, size in enumerate(sizes):
        old = list(order[start : start + size])
        found.append(
            ClassTask(
                number,
                tuple(train.classes[one] for one in old),
                start,
                _of_classes(train, old, start),
                _of_classes(evaluated, old, start),
            )
        )
        start += size
    return found


def further_task(
    before: Sequence[ClassTask],
    train: ImageSet,
    evaluated: ImageSet,
    source: int = 1,
    place: str = "data.more",
) -> ClassTask:
    """A task that follows on others: new classes, and more images of known ones, which is said.

    Args:
        before: all earlier tasks.
        train, evaluated: its images; a class without training images is left out.
        source: where they come from, as in :class:`ClassTask`.
        place: the same for people.

    Raises:
        UsageError: there is nothing to learn.
    """
    known = [name for task in before for name in task.classes]
    there = [name for name in train.classes if name not in _without_images(train, train.classes)]
    if not there:
        raise UsageError("no training images in it", place=place)
    if more := [name for name in there if name in known]:
        say_once(f"{place}: more images of classes that are known already: {', '.join(more[:5])}")
    new = tuple(name for name in there if name not in known)
    names = (*known, *new)
    unmeasured = _without_images(evaluated, new)
    if unmeasured:
        say_once(f"{place}: learned, but not measured, without a test image: {', '.join(unmeasured[:5])}")
    counts = torch.bincount(torch.cat([task.train_labels for task in before]), minlength=len(known))
    return ClassTask(
        len(before),
        new,
        len(known),
        renamed(train, names),
        renamed(evaluated, names),
        source=source,
        n_before=tuple(counts.tolist()) if more else (),
    )


def seen_keys(before: Sequence[ClassTask]) -> set[tuple[str, int]]:
    """Class and digest of all images of earlier tasks."""
    seen: set[tuple[str, int]] = set()
    names = tuple(name for task in before for name in task.classes)
    for task in before:
        if task.record is not None:
            seen.update(task.record.keys("train"), task.record.keys("eval"))
        else:
            for part in (task.train, task.eval):
                seen.update(keys_of(ImageSet(part.images, part.labels, names)))
    return seen


def limit_per_class(images: ImageSet, most: int | None) -> ImageSet:
    """The first ``most`` images of each class; None keeps all."""
    if most is None:
        return images
    order = torch.argsort(images.labels, stable=True)
    counts = torch.bincount(images.labels, minlength=len(images.classes))
    rank = torch.arange(len(images)) - torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    return images.rows(order[rank < most].sort().values)


def hold_out(images: ImageSet, share: float, seed: int) -> tuple[ImageSet, ImageSet]:
    """Cut a part of each class off for measuring: at least one image, where there are two."""
    drawn = np.random.default_rng((17, seed)).random(len(images))
    held = np.zeros(len(images), bool)
    labels = images.labels.numpy()
    for label in range(len(images.classes)):
        rows = np.flatnonzero(labels == label)
        n_held = min(max(1, round(share * len(rows))), len(rows) - 1)
        held[rows[np.argsort(drawn[rows])[: max(n_held, 0)]]] = True
    return images.rows(torch.from_numpy(~held)), images.rows(torch.from_numpy(held))


def merged(tasks: Sequence[ClassTask]) -> ImageSet:
    """The training images of all tasks together."""
    return ImageSet(
        torch.cat([task.train.images for task in tasks]),
        torch.cat([task.train.labels for task in tasks]),
        tuple(name for task in tasks for name in task.classes),
    )


def _of_classes(images: ImageSet, old: Sequence[int], start: int) -> ImageSet:
    new = torch.full((len(images.classes),), -1)
    new[list(old)] = torch.arange(start, start + len(old))
    labels = new[images.labels]
    chosen = labels >= 0
    return ImageSet(images.images[chosen], labels[chosen], tuple(images.classes[one] for one in old))


def renamed(images: ImageSet, names: Sequence[str]) -> ImageSet:
    """The images of the classes ``names``, labelled by their place there."""
    new = torch.tensor(
        [names.index(name) if name in names else -1 for name in images.classes], dtype=torch.long
    )
    labels = new[images.labels]
    return ImageSet(images.images[labels >= 0], labels[labels >= 0], tuple(names))


def _without_images(images: ImageSet, names: Sequence[str]) -> list[str]:
    """Which of some classes have no image in a set."""
    there = {images.classes[label] for label in images.labels.unique().tolist()}
    return [name for name in names if name not in there]


def _nearly_equal(n: int, parts: int) -> list[int]:
    return [n // parts + (part < n % parts) for part in range(parts)] if parts <= n else [1] * n
