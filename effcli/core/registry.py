"""The one table that names the tasks. Nothing here is imported until a task is used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Any

from effcli.core.errors import UsageError

if TYPE_CHECKING:
    from effcli.core.recipe import Recipe
    from effcli.core.run import Result, Run


@dataclass(frozen=True)
class Task:
    """Where a task's parts are found, as ``module:name`` strings.

    Attributes:
        name: what a person types.
        summary: one line for ``effcli --help``.
        cli: module with the Typer ``app`` of the task's verbs.
        recipe: the recipe class (a frozen pydantic model).
        run: ``function(recipe, run) -> Result``, the function that fills a run directory.
        run_verb: the verb that calls ``run``.
    """

    name: str
    summary: str
    cli: str
    recipe: str
    run: str
    run_verb: str = "run"

    def recipe_class(self) -> type[Recipe]:
        """Import and return the recipe class."""
        return _load(self.recipe)  # type: ignore[no-any-return]

    def run_function(self) -> Callable[[Any, Run], Result]:
        """Import and return the function that fills a run directory."""
        return _load(self.run)  # type: ignore[no-any-return]


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            name="enhance",
            summary="Brighten dark photos (WalMaFa).",
            cli="effcli.cli.enhance",
            recipe="effcli.enhance.recipe:EnhanceRecipe",
            run="effcli.enhance.pipeline:train",
            run_verb="train",
        ),
        Task(
            name="quantize",
            summary="Make a diffusion UNet small and fast (MPQ-DM).",
            cli="effcli.cli.quantize",
            recipe="effcli.quantize.recipe:QuantizeRecipe",
            run="effcli.quantize.pipeline:run",
        ),
        Task(
            name="distill",
            summary="Train the models that distillation starts from.",
            cli="effcli.cli.distill",
            recipe="effcli.distill.recipe:DistillRecipe",
            run="effcli.distill.pipeline:train",
            run_verb="train",
        ),
    )
}


def get_task(name: str) -> Task:
    """Return the task called ``name``.

    Raises:
        UsageError: there is no such task; the nearest name is the hint.
    """
    if name in TASKS:
        return TASKS[name]
    near = get_close_matches(name, TASKS, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"tasks: {', '.join(TASKS)}"
    raise UsageError(f"no task {name!r}", hint=hint)


def _load(target: str) -> Any:
    module, _, attribute = target.partition(":")
    return getattr(import_module(module), attribute)
