"""From options to an open run: what the `run` and `train` verbs of every task share."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effcli.core.errors import UsageError

from .options import MachineOptions, RecipeOptions, RunOptions
from .output import print_plan, print_result

if TYPE_CHECKING:
    from effcli.core.plan import Plan
    from effcli.core.recipe import Recipe
    from effcli.core.runtime import Runtime


def resolve_recipe(task: str, options: RecipeOptions, shorthands: dict[str, tuple[str, Any]]) -> Recipe:
    """Load the recipe and apply shorthands, then ``--set``.

    Args:
        task: its name.
        options: as they were given.
        shorthands: recipe key -> (flag, value); a value of None was not given.
    """
    from effcli.core.recipe import Override, parse_set
    from effcli.core.registry import find_recipe

    given = {
        **shorthands,
        "precision": ("--precision", options.precision and str(options.precision)),
        "seed": ("--seed", options.seed),
    }
    overrides = [Override(flag, key, value) for key, (flag, value) in given.items() if value is not None]
    overrides += [parse_set(text) for text in options.sets or []]
    return find_recipe(task, options.recipe, overrides)


def recipe_of_method(task: str, options: RunOptions, method: str | None) -> RunOptions:
    """Let ``--method NAME`` without ``--recipe`` mean the shipped recipe of that name, where there is one."""
    from effcli.core.recipe import shipped_recipes

    if method is None or options.recipe != "default" or method not in shipped_recipes(task):
        return options
    return replace(options, recipe=method)


def runtime_for(options: MachineOptions, recipe: Recipe | None = None) -> Runtime:
    """The runtime that the options ask for; a recipe, which has taken them up, says precision and seed."""
    from effcli.core.runtime import create_runtime

    precision = recipe.precision if recipe else str(options.precision or "fp32")
    seed = recipe.seed if recipe else options.seed or 0
    return create_runtime(device=options.device, precision=precision, seed=seed, threads=options.threads)


@contextlib.contextmanager
def _kept_log() -> Iterator[list[logging.LogRecord]]:
    """What is logged inside; it is shown as ever."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[assignment, method-assign]
    logging.getLogger("effcli").addHandler(handler)
    try:
        yield records
    finally:
        logging.getLogger("effcli").removeHandler(handler)


def execute(
    verb: str,
    task: str,
    options: RunOptions,
    shorthands: dict[str, tuple[str, Any]],
    *,
    plan_with: Callable[[Recipe], Plan[Any]] | None = None,
    before_run: Callable[[Recipe], None] | None = None,
) -> None:
    """Resolve the recipe, open the run directory, run the task's pipeline, print the result.

    Args:
        verb: what was typed; the recipe's method must be one of this verb.
        task: its name.
        options: as they were given.
        shorthands: as in :func:`resolve_recipe`.
        plan_with: used instead of the pipeline's plan function.
        before_run: what changes a run that is there, called with the recipe when everything is loaded and checked.
    """
    from effcli.core.registry import get_task

    recipe = resolve_recipe(task, options, shorthands)
    entry = get_task(task)
    own_verb = entry.method(recipe.method).verb
    if own_verb != verb:
        raise UsageError(
            f"method {recipe.method!r} does not belong to this verb", hint=f"effcli {task} {own_verb}"
        )
    from effcli.core.evidence.result import read_result
    from effcli.core.resuming.checkpoint import SaveEvery
    from effcli.core.run import open_run

    save_every, runtime = SaveEvery.parse(options.save_every), runtime_for(options, recipe)
    with _kept_log() as said:
        plan = (plan_with or entry.plan_function(recipe))(recipe)
    if options.dry_run:
        print_plan(recipe, plan.facts, as_json=options.as_json)
        return
    if before_run is not None:
        runtime.on_main(lambda: before_run(recipe))
    run = open_run(
        options.output,
        recipe,
        runtime,
        verb=verb,
        recipe_name=Path(options.recipe).name.removesuffix(".yaml"),
        resume=options.resume,
        save_every=save_every,
        show_progress=not options.quiet,
    )
    with run:
        if not run.is_finished:
            run.log_earlier(said)
            entry.run_function(recipe)(recipe, plan.inputs, run)
    result = runtime.on_main(lambda: read_result(run.path))
    print_result(result, [str(run.path)], as_json=options.as_json)
