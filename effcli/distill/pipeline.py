"""`effcli distill train`: what the recipe's method names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from effcli.core.registry import load_method
from effcli.core.result import Result
from effcli.core.run import Run
from effcli.data.image_sets import load_images
from effcli.distill.recipe import DistillRecipe


class TrainedMethod(Protocol):
    """What the module of a method of `effcli distill train` has.

    Attributes:
        plan: ``(recipe, n_classes)``: what it would train, for ``--dry-run``.
        train: ``(recipe, run)``: learn from the images, write the model below ``model/``, finish the run.
    """

    plan: Callable[[Any, int], dict[str, Any]]
    train: Callable[[Any, Run], Result]


def method_of(recipe: DistillRecipe) -> TrainedMethod:
    """The module of the recipe's method."""
    method: TrainedMethod = load_method(recipe)
    return method


def plan_train(recipe: DistillRecipe) -> dict[str, Any]:
    """What :func:`train` would do; reading the images also proves that they are there."""
    images = load_images(recipe.data.source, "train", side=recipe.data.side, channels=recipe.data.channels)
    return {
        **method_of(recipe).plan(recipe, len(images.classes)),
        "train_images": len(images),
        "classes": len(images.classes),
        "steps": recipe.train.steps,
        "epochs": round(recipe.train.steps * recipe.train.batch_size / len(images), 1),
    }


def train(recipe: DistillRecipe, run: Run) -> Result:
    """Train what the recipe's method names."""
    return method_of(recipe).train(recipe, run)
