"""The steps of `effcli enhance`, whatever the method: `train`, `eval`, and the enhancer of `run`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

import torch

from effcli.core.evidence.result import Result, result_of_verb
from effcli.core.plan import Plan
from effcli.core.registry import load_method
from effcli.core.run import Run
from effcli.core.runtime import Runtime
from effcli.data.picture_grid import save_grid
from effcli.data.stored_files import Split
from effcli.enhance.data.pairs import PairSet, load_pairs
from effcli.enhance.enhancer import Brighten, Enhancer
from effcli.enhance.evaluation import as_floats, check_measurable, measure
from effcli.enhance.recipe import EnhanceRecipe

log = logging.getLogger(__name__)


class EnhanceMethod(Protocol):
    """What the module of a method has; each takes the method's own recipe class.

    Attributes:
        plan: ``(recipe, n_pairs)``: what `fit` would do, for ``--dry-run``.
        fit: ``(recipe, pairs, run)``: trains and writes the weights below ``model/``; returns the brightening function
            and numbers about it.
        load: ``(recipe, runtime)``: the brightening function of `run` and `eval`.
    """

    plan: Callable[[Any, int], dict[str, Any]]
    fit: Callable[[Any, PairSet, Run], tuple[Brighten, dict[str, Any]]]
    load: Callable[[Any, Runtime], Brighten]


def method_of(recipe: EnhanceRecipe) -> EnhanceMethod:
    """The module of the recipe's method."""
    method: EnhanceMethod = load_method(recipe)
    return method


def plan_train(recipe: EnhanceRecipe) -> Plan[tuple[PairSet, PairSet | None]]:
    """The pairs to learn from and to measure on, and what :func:`train` would do with them."""
    pairs = read_pairs(recipe.data.source, "train", recipe.data.held_out)
    measured = read_pairs(recipe.eval.data, "eval", recipe.data.held_out) if recipe.eval.data else None
    facts = {"training_pairs": len(pairs), "eval_pairs": 0 if measured is None else len(measured)}
    return Plan({**facts, **method_of(recipe).plan(recipe, len(pairs))}, (pairs, measured))


def train(recipe: EnhanceRecipe, inputs: tuple[PairSet, PairSet | None], run: Run) -> Result:
    """Train on pairs of dark and bright pictures, then measure on the evaluation pairs."""
    pairs, held_out = inputs
    brighten, learned = method_of(recipe).fit(recipe, pairs, run)
    metrics: dict[str, Any] = {**learned, "train_pairs": len(pairs)}
    if held_out is None:
        return run.finish(metrics)
    enhancer = Enhancer(brighten, runtime=run.runtime)
    metrics |= measure(enhancer, held_out, run.check_stop)
    return run.finish(metrics, lambda: draw_examples(enhancer, held_out, run))


def open_enhancer(recipe: EnhanceRecipe, runtime: Runtime) -> Enhancer:
    """The enhancer that a recipe describes."""
    return Enhancer(method_of(recipe).load(recipe, runtime), runtime=runtime, strength=recipe.strength)


def evaluate(sources: Sequence[str], recipe: EnhanceRecipe, recipe_name: str, runtime: Runtime) -> Result:
    """Measure the enhancer of a recipe on pairs.

    Args:
        sources: of pairs, as in the recipe's ``eval.data``.
        recipe: the settings.
        recipe_name: for the result.
        runtime: device and precision.

    Raises:
        InputError: a source or the weights cannot be read.
    """
    started = time.perf_counter()
    pairs = read_pairs(sources, "eval", recipe.data.held_out)
    metrics = measure(open_enhancer(recipe, runtime), pairs)
    return result_of_verb(
        recipe.task,
        "eval",
        recipe.method,
        recipe=recipe_name,
        output=getattr(recipe, "weights", ""),
        metrics=metrics,
        runtime=runtime,
        total_s=time.perf_counter() - started,
    )


def read_pairs(sources: Sequence[str], split: Split, held_out: Collection[str] = ()) -> PairSet:
    """The pairs of all sources; pictures without a partner are left out with a warning.

    Args:
        sources: as in the recipe.
        split: which part, of sources that have parts.
        held_out: names of pairs that ``eval`` has and ``train`` does not, of sources that have none.

    Raises:
        InputError: a source cannot be used, or a picture to evaluate on cannot be measured.
    """
    pairs = load_pairs(sources, split, held_out=held_out)
    if pairs.unmatched:
        log.warning(
            "%d pictures without a partner are left out, for example %s",
            len(pairs.unmatched),
            pairs.unmatched[0],
        )
    if split == "eval":
        check_measurable(pairs)
    return pairs


def draw_examples(enhancer: Enhancer, pairs: PairSet, run: Run, n_examples: int = 4) -> dict[str, str]:
    """Save input, result and reference side by side for the report; returns caption -> file."""
    figures: dict[str, str] = {}
    for index in range(0, len(pairs), max(1, len(pairs) // n_examples)):
        low, high = as_floats(pairs[index])
        strip = torch.cat([low, enhancer.enhance_tensor(low), high], dim=-1)
        name = f"pictures/{index:03d}.png"
        save_grid((strip.clamp(0, 1) * 255).round().byte()[None], run.file(name), zoom=1, border=0)
        figures[f"{pairs.names[index]}: input, result, reference"] = name
    return figures
