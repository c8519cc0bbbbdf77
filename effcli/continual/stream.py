"""The tasks that a recipe names, in order: read, or of those that a run has learned already, found again."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from effcli.continual.class_names import say_alike, spelled_as
from effcli.continual.class_splits import (
    ClassTask,
    further_task,
    hold_out,
    limit_per_class,
    renamed,
    seen_keys,
    split_classes,
)
from effcli.continual.recipe import ContinualRecipe
from effcli.continual.recipes.rehearsal import RehearsalRecipe
from effcli.continual.records import Key, Known, TaskRecord, digests_of, keys_of, renamed_classes, rows_of
from effcli.core.errors import InputError, UsageError
from effcli.core.text import counted
from effcli.data.image_sets import ImageSet, has_parts, image_shape, load_images, usual_shape

log = logging.getLogger(__name__)

LARGEST_SIDE = 64
"""Larger images are made as small as this where the recipe does not say how large; the network pools late."""

Shape = tuple[int, Literal[1, 3]]
"""Side and channels of the images."""


LARGEST_TRAINED_SIDE = 224
"""The same for trained backbones, most of which have learned from images of this side."""

_NO_RENAMING = "a run keeps the names of the classes that it learned"


def load_stream(recipe: ContinualRecipe, known: Sequence[Known] = ()) -> list[ClassTask]:
    """Read the data and cut it into tasks.

    Args:
        recipe: says where they are.
        known: what the run remembers that the recipe is of (:func:`~effcli.continual.records.known_tasks`). The images
            of tasks that it remembers are the ones that it had, wherever they are now; those that are gone are not
            measured again, which is said.

    Raises:
        InputError: it is not there or cannot be read; or training images of a task that is being learned are gone.
        UsageError: the tasks do not fit the classes, or a further task has nothing new.
    """
    shape = _shape_of(recipe, known)
    tasks: list[ClassTask] = []
    for source, place in enumerate((recipe.data.source, *recipe.data.more)):
        records = [one for one in known if isinstance(one, TaskRecord) and one.source == source]
        if records and len(records) == records[0].n_siblings:
            tasks += _found_again(recipe, place, shape, records, tasks)
        elif source == 0:
            order = recipe.seed if recipe.data.order_seed == "seed" else recipe.data.order_seed
            split = recipe.data.tasks, order
            tasks += split_classes(*_load(recipe, place, shape), *split)
        else:
            tasks.append(_further(recipe, place, shape, tasks, source))
    for task in tasks:
        if task.n_train < 2:
            names = ", ".join(task.names())
            raise UsageError(
                f"a task has a single training image ({names}); at least two are needed", place="data"
            )
    check_same_data(tasks, known)
    return tasks


def check_same_data(tasks: Sequence[ClassTask], known: Sequence[Known]) -> None:
    """Make sure that tasks of which a run of version 0.1 remembers one digest are the ones that it had.

    Raises:
        InputError: they are not.
    """
    for task, before in zip(tasks, known, strict=False):
        if isinstance(before, str) and fingerprint(task) != before:
            raise InputError(
                f"the data of task {task.number + 1} have changed since this run began",
                place="data",
                hint="a run that effcli 0.1 began needs its old images unchanged; otherwise start a new run",
            )


def statistics(recipe: ContinualRecipe, first: ClassTask) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel, 0..1: the recipe's, or those of the first task's training images."""
    if first.record is not None:
        return first.record.statistics
    settings = recipe.data
    images = first.train.images.transpose(0, 1).flatten(1).double() / 255
    mean = settings.mean or tuple(images.mean(1).tolist())
    std = settings.std or tuple(images.std(1).clamp_min(1e-3).tolist())
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != len(images):
            raise UsageError(f"{len(values)} numbers given for {len(images)} channels", place=f"data.{name}")
    return mean, std


def describe(tasks: list[ClassTask]) -> dict[str, Any]:
    """Numbers of a stream, for ``--dry-run``."""
    return {
        "tasks": [list(task.names()) for task in tasks],
        "train_images": [task.n_train for task in tasks],
        "eval_images": [len(task.eval) for task in tasks],
        "image_shape": list(tasks[0].train.images.shape[1:]),
    }


def fingerprint(task: ClassTask) -> str:
    """Changes with the training images, their labels or the names of their classes."""
    digest = hashlib.blake2b(digest_size=12)
    digest.update("\0".join(task.classes).encode())
    for values in (task.train.labels, task.train.images):
        digest.update(values.contiguous().numpy().tobytes())
    return digest.hexdigest()


def record_task(
    task: ClassTask, tasks: Sequence[ClassTask], statistics: tuple[Sequence[float], Sequence[float]]
) -> TaskRecord:
    """What is to be remembered of a task among those that were read with it."""
    channels, side = task.train.images.shape[1:3]
    return TaskRecord(
        number=task.number,
        source=task.source,
        n_siblings=sum(one.source == task.source for one in tasks),
        names=tuple(name for one in tasks[: task.number + 1] for name in one.classes),
        first_class=task.first_class,
        side=int(side),
        channels=1 if channels == 1 else 3,
        statistics=(tuple(statistics[0]), tuple(statistics[1])),
        train=digests_of(task.train.images),
        train_labels=task.train.labels,
        eval=digests_of(task.eval.images),
        eval_labels=task.eval.labels,
    )


def _shape_of(recipe: ContinualRecipe, known: Sequence[Known]) -> Shape:
    """Side and channels of the images: those that the run began with, the recipe's, or what suits them."""
    settings = recipe.data
    if records := [one for one in known if isinstance(one, TaskRecord)]:
        return records[0].side, records[0].channels
    side, channels = settings.side, settings.channels
    if side is None or channels is None:
        own_side, own_channels = (image_shape if known else usual_shape)(settings.source, "train")
        largest = LARGEST_SIDE if recipe.network.backbone is None else LARGEST_TRAINED_SIDE
        side = side or max(8, min(own_side, largest) // 2 * 2)
        channels = channels or own_channels
    if isinstance(recipe, RehearsalRecipe) and recipe.is_encoded and side % 2:
        raise UsageError(
            f"the wavelet transform needs even sides, not {side}",
            place="data.side",
            hint=f"-s data.side={side + 1}",
        )
    return side, channels


# --- reading ------------------------------------------------------------------------------------------


def _read(
    recipe: ContinualRecipe, source: str, shape: Shape, known: Sequence[str] = ()
) -> tuple[ImageSet, ImageSet | None]:
    """All images of a source, and its own part to measure on, if it has one; ``known`` are spellings of its names."""
    load = partial(
        load_images, source, side=shape[0], channels=shape[1], root=recipe.data.root, with_classes=True
    )
    train = spelled_as(load("train"), known)
    evaluated = spelled_as(load("eval"), (*known, *train.classes)) if has_parts(source) else None
    train, evaluated = _with_images(train, evaluated)
    if len(train.classes) < 2 and source == recipe.data.source:
        single = f"has a single class, {train.classes[0]!r}; at least two are needed"
        raise UsageError(
            single if train.classes and Path(source).is_dir() else "has no classes",
            place=source,
            hint=_class_hint(Path(source), train.classes),
        )
    return train, evaluated


def _class_hint(source: Path, classes: Sequence[str]) -> str:
    """What to give instead of a folder with a single sub-folder, in which the classes may lie."""
    hint = "give a folder with one sub-folder per class"
    inside = source / classes[0] if classes else source
    has_folders = inside.is_dir() and any(one.is_dir() for one in inside.iterdir())
    return f"{hint}; if they are in {inside}, that folder" if has_folders and classes else hint


def _with_images(train: ImageSet, evaluated: ImageSet | None) -> tuple[ImageSet, ImageSet | None]:
    """Both parts without the classes that have no image in either, as where labels begin with 1."""
    parts = [train] if evaluated is None else [train, evaluated]
    every = dict.fromkeys(name for part in parts for name in part.classes)
    if not all(name.isdigit() for name in every):  # a name that one part lacks is a mistake
        return train, evaluated
    there = {part.classes[label] for part in parts for label in part.labels.unique().tolist()}
    names = tuple(name for name in every if name in there)
    return renamed(train, names), None if evaluated is None else renamed(evaluated, names)


def _load(recipe: ContinualRecipe, source: str, shape: Shape) -> tuple[ImageSet, ImageSet]:
    train, evaluated = _read(recipe, source, shape)
    say_alike(train.classes, (), source)
    return _cut(recipe, train, evaluated, source)


def _cut(
    recipe: ContinualRecipe, train: ImageSet, evaluated: ImageSet | None, place: str
) -> tuple[ImageSet, ImageSet]:
    if evaluated is None:
        train, evaluated = hold_out(train, recipe.eval.hold_out, seed=0)
    _say_copies(train, evaluated, place)
    return (
        limit_per_class(train, recipe.data.train_per_class),
        limit_per_class(evaluated, recipe.eval.per_class),
    )


def _further(
    recipe: ContinualRecipe, place: str, shape: Shape, before: Sequence[ClassTask], source: int
) -> ClassTask:
    """What is new in a source: images that were learned, or measured on, before are left out."""
    known = [name for task in before for name in task.classes]
    train, evaluated = _read(recipe, place, shape, known)
    say_alike(train.classes, known, place)
    seen = seen_keys(before)
    for name, (other, n) in renamed_classes(seen, keys_of(train)).items():
        raise UsageError(
            f"{n} images of the class {name!r} have been learned as {other!r}",
            place=place,
            hint=f"{_NO_RENAMING}: call the folder {other!r}, or leave it out",
        )
    n = len(train)
    train = _without(train, seen)
    evaluated = None if evaluated is None else _without(evaluated, seen)
    if not len(train):
        raise UsageError(f"nothing new: all its {n} training images have been learned already", place=place)
    if len(train) < n:
        log.warning("%s: left out, learned already: %s", place, counted(n - len(train), "image"))
    digests = {digest for _, digest in seen}
    if n_relabelled := sum(digest in digests for _, digest in keys_of(train)):
        log.warning(
            "%s: learned as another class before, which is not undone: %s",
            *(place, counted(n_relabelled, "image")),
        )
    return further_task(before, *_cut(recipe, train, evaluated, place), source, place)


def _say_copies(train: ImageSet, evaluated: ImageSet, place: str) -> None:
    """Warn of images that are there twice: in two classes, or to learn from and to measure on."""
    keys, own = keys_of(train), keys_of(evaluated)
    classes: dict[int, dict[str, None]] = {}
    for name, digest in (*keys, *own):
        classes.setdefault(digest, {})[name] = None
    if several := [tuple(names) for names in classes.values() if len(names) > 1]:
        log.warning(
            "%s: the same image in more than one class: %s, such as in %s",
            *(place, counted(len(several), "image"), " and ".join(map(repr, several[0]))),
        )
    there = set(keys)
    if n := len([key for key in own if key in there]):
        log.warning(
            "%s: %d of %s also among those to learn from, which makes the accuracy look better",
            *(place, n, f"{counted(len(own), 'test image')} {'is' if n == 1 else 'are'}"),
        )


def _without(images: ImageSet, seen: set[tuple[str, int]]) -> ImageSet:
    return images.rows(torch.tensor([key not in seen for key in keys_of(images)], dtype=torch.bool))


# --- finding again ------------------------------------------------------------------------------------


def _found_again(
    recipe: ContinualRecipe,
    place: str,
    shape: Shape,
    records: Sequence[TaskRecord],
    before: Sequence[ClassTask],
) -> list[ClassTask]:
    """The tasks of a source that a run remembers, with those of their images that are still there."""
    try:
        pool = _whole(*_read(recipe, place, shape, records[-1].names))
        reason = None
    except (InputError, UsageError) as error:
        if not all(record.is_learned for record in records):
            raise
        pool, reason = _nothing(shape), str(error)
    keys = keys_of(pool)
    tasks: list[ClassTask] = []
    for record in records:
        task = _of_record(record, pool, keys, place, [*before, *tasks])
        n_gone = len(record.eval) - len(task.eval)
        if n_gone and reason is None:
            log.warning(
                "%s: %d of %d test images of task %d are gone or changed; it is measured on the rest%s",
                *(place, n_gone, len(record.eval), record.number + 1, _renaming(keys, record.keys("eval"))),
            )
        tasks.append(task)
    if reason is not None:
        log.warning("%s; its tasks stay learned, but are not measured again", reason)
    return tasks


def _of_record(
    record: TaskRecord, pool: ImageSet, keys: list[Key], place: str, before: Sequence[ClassTask]
) -> ClassTask:
    there, rows = rows_of(keys, record.keys("eval"))
    evaluated = ImageSet(pool.images[rows], record.eval_labels[there], record.names)
    train = ImageSet(pool.images[:0], record.train_labels[:0], record.names)
    if not record.is_learned:
        there, rows = rows_of(keys, record.keys("train"))
        if n_gone := len(record.train) - len(there):
            raise InputError(
                f"{n_gone} of {len(record.train)} training images of task {record.number + 1}, which is not "
                f"learned yet, are gone or changed{_renaming(keys, record.keys('train'))}",
                place=place,
                hint="put them back, or start a new run with another -o",
            )
        train = ImageSet(pool.images[rows], record.train_labels, record.names)
    has_known = bool((record.train_labels < record.first_class).any())
    counts = [0] * (record.first_class if has_known else 0)
    for task in before if has_known else ():
        for label in task.train_labels.tolist():
            counts[label] += 1
    new = record.names[record.first_class :]
    number, first = record.number, record.first_class
    return ClassTask(number, new, first, train, evaluated, record, record.source, tuple(counts))


def _renaming(keys: list[Key], wanted: list[Key]) -> str:
    """What to add to a message that images are gone where their classes have other names now."""
    now = [f"{name!r} is called {other!r}" for name, (other, _) in renamed_classes(keys, wanted).items()]
    return f" ({', '.join(now)} there: {_NO_RENAMING}, so rename the folder back)" if now else ""


def _whole(train: ImageSet, evaluated: ImageSet | None) -> ImageSet:
    """The images of both parts."""
    if evaluated is None:
        return train
    names = tuple(sorted({*train.classes, *evaluated.classes}))
    parts = [
        (part.images, torch.tensor([names.index(name) for name in part.classes])[part.labels])
        for part in (train, evaluated)
    ]
    return ImageSet(torch.cat([one for one, _ in parts]), torch.cat([one for _, one in parts]), names)


def _nothing(shape: Shape) -> ImageSet:
    side, channels = shape
    return ImageSet(torch.zeros(0, channels, side, side, dtype=torch.uint8), torch.zeros(0).long(), ())
