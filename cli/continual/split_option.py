"""What ``--tasks`` means to the verbs that learn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..common.options import RunOptions


def parsed_split(tasks: str) -> Any:
    """``--tasks`` as the recipe has it: a number, a list, or 50+10x5; brackets may be left out."""
    from effcli.core.recipe import parse_set

    return parse_set(f"tasks=[{tasks}]" if "," in tasks and "[" not in tasks else f"tasks={tasks}").value


def with_all_classes(options: RunOptions) -> RunOptions:
    """The user's own data is not split as the built-in scenes are, unless --tasks says so."""
    return replace(options, sets=["data.tasks=null", *(options.sets or [])])


def with_fitting_tasks(options: RunOptions) -> RunOptions:
    """The user's own classes are cut into a fitting number of tasks, unless --tasks says how."""
    return replace(options, sets=["data.tasks=auto", *(options.sets or [])])
