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

from effcli.core.errors import UsageError
from effcli.data.image_sets import ImageSet

_PHASE = re.compile(r"(?:(\d+)x)?(\d+)")


@dataclass(frozen=True)
class ClassTask:
    """Classes that are learned together.

    Attributes:
        number: from 0.
        classes: their names.
        first_class: the number of the first one; they are consecutive.
        train: images to learn from.
        eval: images to measure on.
    """

    number: int
    classes: tuple[str, ...]
    first_class: int
    train: ImageSet
    eval: ImageSet

    @property
    def end_class(self) -> int:
        """One more than the number of the last class."""
        return self.first_class + len(self.classes)


def parse_split(tasks: int | str | Sequence[int] | Sequence[Sequence[str]], n_classes: int) -> list[int]:
    """The number of classes of each task.

    Args:
        tasks: how many of equal size; ``6+6``; ``50+10x5`` for 50 classes and then ten tasks of 5; the sizes; or the
            names.
        n_classes: of the set.

    Raises:
        UsageError: they do not divide the classes.
    """
    if isinstance(tasks, int):
        if n_classes % tasks:
            raise UsageError(
                f"{n_classes} classes cannot be split into {tasks} tasks of the same size",
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
                hint="a number, 6+6, 50+10x5, sizes as [4, 3, 3], or lists of names",
            )
        sizes = [int(match[2]) for match in matches if match for _ in range(int(match[1] or 1))]
    else:
        sizes = [one if isinstance(one, int) else len(one) for one in tasks]
    if sum(sizes) != n_classes or min(sizes, default=0) < 1:
        raise UsageError(f"tasks of {sizes} classes do not add up to {n_classes} classes", place="data.tasks")
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
        odd = sorted(set(train.classes) ^ set(evaluated.classes))
        raise UsageError(
            f"these classes are in only one part of the data: {', '.join(odd[:5])}", place="data"
        )
    for name, part in (("training", train), ("test", evaluated)):
        counts = torch.bincount(part.labels, minlength=len(order))
        if not bool(counts.all()):
            missing = [train.classes[int(one)] for one in (counts == 0).nonzero()]
            raise UsageError(f"no {name} image of the classes {', '.join(missing[:5])}", place="data")
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


def further_task(before: Sequence[ClassTask], train: ImageSet, evaluated: ImageSet) -> ClassTask:
    """A task of new classes that follows on others.

    Raises:
        UsageError: a class was learned before, or has no image in one of the parts.
    """
    known = {name for task in before for name in task.classes}
    again = sorted(known & set(train.classes))
    if again:
        raise UsageError(
            f"these classes are already known: {', '.join(again[:5])}",
            place="data.more",
            hint="a further task has only new classes",
        )
    task = tasks_of(train, evaluated, range(len(train.classes)), [len(train.classes)])[0]
    start = before[-1].end_class
    return ClassTask(
        len(before), task.classes, start, _shifted(task.train, start), _shifted(task.eval, start)
    )


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


def _shifted(images: ImageSet, by: int) -> ImageSet:
    return ImageSet(images.images, images.labels + by, images.classes)


def _nearly_equal(n: int, parts: int) -> list[int]:
    return [n // parts + (part < n % parts) for part in range(parts)] if parts <= n else [1] * n
