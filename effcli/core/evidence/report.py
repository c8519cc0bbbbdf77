"""``report.html``: what a run did, in one self-contained page."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effcli.core.evidence.curves import Line, draw, read_curves
from effcli.core.evidence.pages import picture_of, render
from effcli.core.evidence.result import read_result
from effcli.core.files import write_text

_MOST_MEMBERS = 8
"""Wider tables are not read; what has more members stays a list."""


def write_report(run: Path) -> Path:
    """Build ``report.html`` from what a finished run directory holds and return its path.

    Raises:
        UsageError: the directory holds no finished run.
    """
    result = read_result(run)
    recipe = run / "recipe.yaml"
    page = render(
        "report.html",
        title=f"{result['method']} · {result['task']} {result['verb']}",
        summary=f"Recipe {result['recipe']}, finished in {result['timing']['total_s']:.0f} s.",
        metrics=list(flatten(without_groups(result["metrics"]))),
        groups=list(groups_of(result["metrics"])),
        figures=[(caption, picture_of(run, name)) for caption, name in result.get("figures", {}).items()],
        curves=[(name, draw([Line(points)])) for name, points in read_curves(run).items()],
        recipe_file=shlex.quote(str(recipe)),
        recipe=recipe.read_text(encoding="utf-8") if recipe.exists() else "",
        result=result,
    )
    destination = run / "report.html"
    write_text(destination, page)
    return destination


@dataclass(frozen=True)
class MetricGroup:
    """Metrics that several things share, a column for each of these: the baselines of an evaluation, say.

    Attributes:
        name: dotted name of what holds them.
        members: names of the things.
        rows: name of a metric, and its text for each member.
    """

    name: str
    members: Sequence[str]
    rows: Sequence[tuple[str, Sequence[str]]]


def groups_of(metrics: Mapping[str, Any], prefix: str = "") -> Iterator[MetricGroup]:
    """The groups among nested metrics: two or more mappings of the same names, two or more, to numbers or text."""
    for name, value in metrics.items():
        if _is_group(value):
            columns = [dict(flatten(member)) for member in value.values()]
            rows = [(metric, [column[metric] for column in columns]) for metric in columns[0]]
            yield MetricGroup(f"{prefix}{name}", list(value), rows)
        elif isinstance(value, Mapping):
            yield from groups_of(value, f"{prefix}{name}.")


def without_groups(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics that :func:`groups_of` leaves."""
    return {
        name: without_groups(value) if isinstance(value, Mapping) else value
        for name, value in metrics.items()
        if not _is_group(value)
    }


def _is_group(value: Any) -> bool:
    if not isinstance(value, Mapping) or len(value) < 2:
        return False
    members = list(value.values())
    if not all(isinstance(member, Mapping) and len(member) > 1 for member in members):
        return False
    names = [[name for name, _ in flatten(member)] for member in members]
    return all(one == names[0] for one in names) and len(members) <= _MOST_MEMBERS


def flatten(metrics: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield ``(dotted name, text)`` for every number or string in nested metrics."""
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        elif value is None:
            yield f"{prefix}{name}", "-"
        elif isinstance(value, float):
            yield f"{prefix}{name}", f"{value:.4g}"
        else:
            yield f"{prefix}{name}", str(value)
