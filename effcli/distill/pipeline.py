"""`effcli distill run` and `effcli distill train`: what the recipe's method names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from effcli.core.evidence.result import Result
from effcli.core.plan import Plan
from effcli.core.registry import load_method
from effcli.core.run import Run
from effcli.distill.recipe import DistillRecipe


class TrainedMethod(Protocol):
    """What the module of a method of `effcli distill train` has.

    Attributes:
        plan: ``(recipe)``: the data, read and checked, and what would be trained on them.
        train: ``(recipe, inputs, run)``: learn from the data, write the model below ``model/``, finish the run.
    """

    plan: Callable[[Any], Plan[Any]]
    train: Callable[[Any, Any, Run], Result]


class DistillMethod(Protocol):
    """What the module of a method of `effcli distill run` has.

    Attributes:
        plan: ``(recipe)``: teacher and data, loaded and checked, and what would be done with them.
        distill: ``(recipe, inputs, run)``: teach the students, write the last one to ``model/``, finish the run.
    """

    plan: Callable[[Any], Plan[Any]]
    distill: Callable[[Any, Any, Run], Result]


def plan_run(recipe: DistillRecipe) -> Plan[Any]:
    """What :func:`run` would do."""
    method: DistillMethod = load_method(recipe)
    return method.plan(recipe)


def run(recipe: DistillRecipe, inputs: Any, run: Run) -> Result:
    """Distill with the recipe's method."""
    method: DistillMethod = load_method(recipe)
    return method.distill(recipe, inputs, run)


def plan_train(recipe: DistillRecipe) -> Plan[Any]:
    """What :func:`train` would do."""
    method: TrainedMethod = load_method(recipe)
    return method.plan(recipe)


def train(recipe: DistillRecipe, inputs: Any, run: Run) -> Result:
    """Train what the recipe's method names."""
    method: TrainedMethod = load_method(recipe)
    return method.train(recipe, inputs, run)
