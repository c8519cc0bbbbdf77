"""From options to an open run: what the `run` and `train` verbs of every task share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .output import configure_logging, print_plan, print_result

if TYPE_CHECKING:
    from effcli.core.recipe import Recipe
    from effcli.core.runtime import Runtime


@dataclass(frozen=True)
class CommonOptions:
    """The values of the options that every run has."""

    recipe: str = "default"
    sets: list[str] | None = None
    output: Path | None = None
    device: str = "auto"
    precision: str | None = None
    seed: int | None = None
    threads: int | None = None
    resume: bool = False
    save_every: str = "10min"
    dry_run: bool = False
    as_json: bool = False
    quiet: bool = False
    verbose: bool = False


def resolve_recipe(task: str, options: CommonOptions, shorthands: dict[str, tuple[str, Any]]) -> Recipe:
    """Load the recipe and apply shorthands, then ``--set``.

    Args:
        task: its name.
        options: the common options.
        shorthands: recipe key -> (flag, value); a value of None was not given.
    """
    from effcli.core.recipe import Override, load_recipe, parse_set, read_recipe
    from effcli.core.registry import get_task

    given = {
        **shorthands,
        "precision": ("--precision", options.precision and str(options.precision)),
        "seed": ("--seed", options.seed),
    }
    overrides = [Override(flag, key, value) for key, (flag, value) in given.items() if value is not None]
    overrides += [parse_set(text) for text in options.sets or []]
    text, place = read_recipe(task, options.recipe)
    return load_recipe(get_task(task).recipe_class(), text, place, overrides)


def runtime_for(recipe: Recipe, options: CommonOptions) -> Runtime:
    """The runtime that the recipe and the options ask for."""
    from effcli.core.runtime import create_runtime

    return create_runtime(
        device=options.device, precision=recipe.precision, seed=recipe.seed, threads=options.threads
    )


def execute(
    task: str,
    options: CommonOptions,
    shorthands: dict[str, tuple[str, Any]],
    plan: Callable[[Any], dict[str, Any]],
) -> None:
    """Resolve the recipe, open the run directory, run the task's function, print the result.

    Args:
        task: its name.
        options: the common options.
        shorthands: as in :func:`resolve_recipe`.
        plan: what ``--dry-run`` prints for a recipe; also checks that the inputs are there, before anything is written.
    """
    configure_logging(quiet=options.quiet, verbose=options.verbose)
    recipe = resolve_recipe(task, options, shorthands)
    planned = plan(recipe)
    if options.dry_run:
        from effcli.core.recipe import dump_recipe

        print_plan(dump_recipe(recipe), planned, as_json=options.as_json)
        return
    from effcli.core.registry import get_task
    from effcli.core.run import SaveEvery, open_run, read_result

    entry = get_task(task)
    run = open_run(
        options.output,
        recipe,
        runtime_for(recipe, options),
        verb=entry.run_verb,
        recipe_name=Path(options.recipe).name.removesuffix(".yaml"),
        resume=options.resume,
        save_every=SaveEvery.parse(options.save_every),
        show_progress=not options.quiet,
    )
    with run:
        if not run.is_finished:
            entry.run_function()(recipe, run)
    if run.runtime.is_main:
        print_result(read_result(run.path), [str(run.path)], as_json=options.as_json)
