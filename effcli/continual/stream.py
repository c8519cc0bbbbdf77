"""The tasks that a recipe names, in order."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import Any, Literal

from effcli.continual.class_splits import ClassTask, further_task, hold_out, limit_per_class, split_classes
from effcli.continual.recipe import ContinualRecipe
from effcli.continual.recipes.rehearsal import RehearsalRecipe
from effcli.core.errors import UsageError
from effcli.data.image_sets import ImageSet, has_parts, image_shape, load_images

LARGEST_SIDE = 64
"""Larger images are made as small as this where the recipe does not say how large; the network pools late."""


def load_stream(recipe: ContinualRecipe) -> list[ClassTask]:
    """Read the data and cut it into tasks.

    Raises:
        InputError: it is not there or cannot be read.
        UsageError: the tasks do not fit the classes, or a further task has a class that is known already.
    """
    settings = recipe.data
    shape = _shape_of(recipe)
    tasks = split_classes(*_load(recipe, settings.source, shape), settings.tasks, settings.order_seed)
    for source in settings.more:
        tasks.append(further_task(tasks, *_load(recipe, source, shape)))
    for task in tasks:
        if len(task.train) < 2:
            names = ", ".join(task.classes)
            raise UsageError(
                f"a task has a single training image ({names}); at least two are needed", place="data"
            )
    return tasks


def statistics(recipe: ContinualRecipe, first: ClassTask) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel, 0..1: the recipe's, or those of the first task's training images."""
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
        "tasks": [list(task.classes) for task in tasks],
        "train_images": [len(task.train) for task in tasks],
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


def _shape_of(recipe: ContinualRecipe) -> tuple[int, Literal[1, 3]]:
    """Side and channels of the images: the recipe's, or what suits them."""
    settings = recipe.data
    side, channels = settings.side, settings.channels
    if side is None or channels is None:
        own_side, own_channels = image_shape(settings.source, "train")
        side = side or max(8, min(own_side, LARGEST_SIDE) // 2 * 2)
        channels = channels or own_channels
    if isinstance(recipe, RehearsalRecipe) and recipe.is_encoded and side % 2:
        raise UsageError(
            f"the wavelet transform needs even sides, not {side}",
            place="data.side",
            hint=f"-s data.side={side + 1}",
        )
    return side, channels


def _load(
    recipe: ContinualRecipe, source: str, shape: tuple[int, Literal[1, 3]]
) -> tuple[ImageSet, ImageSet]:
    settings, measured = recipe.data, recipe.eval
    side, channels = shape
    load = partial(load_images, source, side=side, channels=channels, root=settings.root, with_classes=True)
    train = load("train")
    if len(train.classes) < 2 and source == settings.source:
        raise UsageError("has no classes", place=source, hint="give a folder with one sub-folder per class")
    if has_parts(source):
        evaluated = load("eval")
    else:
        train, evaluated = hold_out(train, measured.hold_out, seed=0)
    return limit_per_class(train, settings.train_per_class), limit_per_class(evaluated, measured.per_class)
