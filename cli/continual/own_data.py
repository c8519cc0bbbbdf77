"""What the verbs that learn take for granted when the user brings data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..common.options import RunOptions
from ..common.output import print_note

if TYPE_CHECKING:
    from effcli.core.plan import Plan
    from effcli.core.recipe import Recipe

_FROM_SCRATCH = ("method=", "train.", "buffer.", "frequency.", "network.width=")
"""Keys of the methods that train a network of their own."""


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


def on_trained_features(options: RunOptions) -> RunOptions:
    """The best method at its cost for photographs, unless something is set that only other methods have."""
    if options.recipe != "default" or any(one.startswith(_FROM_SCRATCH) for one in options.sets or []):
        return options
    return replace(options, recipe="ranpac")


def recipe_of_detector(method: str | None, detector: str | None) -> str | None:
    """The recipe that is meant by a method: for EGOR on a NanoDet-m the one that keeps its trunk."""
    from effcli.continual.egor.weights import is_nanodet

    return "egor-nanodet" if method == "egor" and detector is not None and is_nanodet(detector) else method


def saying_so(plan: Callable[[Recipe], Plan[Any]]) -> Callable[[Recipe], Plan[Any]]:
    """The plan function, which says afterwards what was taken for granted."""

    def said(recipe: Recipe) -> Plan[Any]:
        found = plan(recipe)
        print_note(
            "method: ranpac, on features of a trained network; to train one from scratch: --method clfd"
        )
        return found

    return said
