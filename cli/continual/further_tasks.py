"""``--tasks-dir`` and ``--undo``: a task for a run that is there, or the last one taken back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effcli.core.errors import UsageError

from ..common.options import RunOptions
from ..common.session import execute

if TYPE_CHECKING:
    from effcli.core.plan import Plan
    from effcli.core.recipe import Recipe


def change_tasks(options: RunOptions, folder: Path | None, shorthands: dict[str, tuple[str, Any]]) -> None:
    """Give a run one more task, or take its last one back; its own recipe says everything else.

    Args:
        options: as they were given.
        folder: of the task; None takes one back.
        shorthands: settings that were given, which a run that is there does not take.
    """
    flag = "--undo" if folder is None else "--tasks-dir"
    _check(options, flag, shorthands)
    from effcli.continual import further_tasks

    run = options.output
    assert run is not None
    if folder is None:
        more = further_tasks.shorter_recipe(run).data.more
    else:
        more = further_tasks.longer_recipe(run, folder).data.more

    def change(recipe: Any) -> None:
        if folder is None:
            further_tasks.take_back(run, recipe)
        else:
            further_tasks.begin_task(run, recipe)

    options = replace(options, recipe=str(run), resume=True)
    changed = {"data.more": (flag, list(more))}
    execute("run", "continual", options, changed, plan_with=plan_of(options), before_run=change)


def plan_of(options: RunOptions) -> Callable[[Recipe], Plan[Any]]:
    """The plan function, which is told of the run that goes on: it knows its images again."""

    def plan(recipe: Recipe) -> Plan[Any]:
        from effcli.continual.recipe import ContinualRecipe
        from effcli.core.registry import get_task

        function: Callable[..., Plan[Any]] = get_task("continual").plan_function(recipe)
        if options.resume and options.output is not None and isinstance(recipe, ContinualRecipe):
            return function(recipe, options.output)
        return function(recipe)

    return plan


def _check(options: RunOptions, flag: str, shorthands: dict[str, tuple[str, Any]]) -> None:
    if options.output is None or (flag == "--tasks-dir" and not options.resume):
        is_undo = flag == "--undo"
        raise UsageError(
            "needs the run whose task is to be removed"
            if is_undo
            else "needs the run that is to learn the task",
            place=flag,
            hint="name it with -o RUN" if is_undo else "name it with --resume -o RUN",
        )
    given = dict(shorthands.values())
    given |= {"--precision": options.precision, "--seed": options.seed}
    named = [name for name, value in given.items() if value is not None]
    if named or options.sets or options.recipe != "default":
        raise UsageError(
            f"all other settings are the run's own; leave out {', '.join(named) or '-r and -s'}", place=flag
        )
