"""`effcli distill run` and `effcli distill train`: what the recipe's method names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from effcli.core.registry import load_method
from effcli.core.result import Result
from effcli.core.run import Run
from effcli.data.image_sets import load_images
from effcli.distill.recipe import DistillRecipe, TrainedRecipe


class TrainedMethod(Protocol):
    """What the module of a method of `effcli distill train` has.

    Attributes:
        plan: ``(recipe, n_classes)``: what it would train, for ``--dry-run``.
        train: ``(recipe, run)``: learn from the images, write the model below ``model/``, finish the run.
    """

    plan: Callable[[Any, int], dict[str, Any]]
    train: Callable[[Any, Run], Result]


class DistillMethod(Protocol):
    """What the module of a method of `effcli distill run` has.

    Attributes:
        plan: ``(recipe)``: what it would do, for ``--dry-run``; loading everything also proves that it is there.
        distill: ``(recipe, run)``: teach the students, write the last one to ``model/``, finish the run.
    """

    plan: Callable[[Any], dict[str, Any]]
    distill: Callable[[Any, Run], Result]


def plan_run(recipe: DistillRecipe) -> dict[str, Any]:
    """What :func:`run` would do."""
    method: DistillMethod = load_method(recipe)
    return method.plan(recipe)


def run(recipe: DistillRecipe, run: Run) -> Result:
    """Distill with the recipe's method."""
    method: DistillMethod = load_method(recipe)
    return method.distill(recipe, run)


def plan_train(recipe: TrainedRecipe) -> dict[str, Any]:
    """What :func:`train` would do; reading the images also proves that they are there."""
    method: TrainedMethod = load_method(recipe)
    images = load_images(recipe.data.source, "train", side=recipe.data.side, channels=recipe.data.channels)
    return {
        **method.plan(recipe, len(images.classes)),
        "train_images": len(images),
        "classes": len(images.classes),
        "steps": recipe.train.steps,
        "epochs": round(recipe.train.steps * recipe.train.batch_size / len(images), 1),
    }


def train(recipe: TrainedRecipe, run: Run) -> Result:
    """Train what the recipe's method names."""
    method: TrainedMethod = load_method(recipe)
    return method.train(recipe, run)
