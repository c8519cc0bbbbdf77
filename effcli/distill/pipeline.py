"""`effcli distill run` and `effcli distill train`: what the recipe's method names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from effcli.core.evidence.result import Result
from effcli.core.registry import load_method
from effcli.core.run import Run
from effcli.distill.recipe import DistillRecipe


class TrainedMethod(Protocol):
    """What the module of a method of `effcli distill train` has.

    Attributes:
        plan: ``(recipe)``: what it would train, for ``--dry-run``; reading the data also proves that it is there.
        train: ``(recipe, run)``: learn from the data, write the model below ``model/``, finish the run.
    """

    plan: Callable[[Any], dict[str, Any]]
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


def plan_train(recipe: DistillRecipe) -> dict[str, Any]:
    """What :func:`train` would do."""
    method: TrainedMethod = load_method(recipe)
    return method.plan(recipe)


def train(recipe: DistillRecipe, run: Run) -> Result:
    """Train what the recipe's method names."""
    method: TrainedMethod = load_method(recipe)
    return method.train(recipe, run)
