"""One table over finished runs: mean and spread over seeds."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from effcli.core.errors import UsageError
from effcli.core.evidence.result import numbers, read_result


def compare_runs(runs: Sequence[Path], metrics: Sequence[str] | None = None) -> dict[str, Any]:
    """Group runs whose recipes differ in the seed alone and average their numbers.

    Args:
        runs: finished run directories.
        metrics: dotted names; None takes every number that the runs have.

    Returns:
        ``{"metrics": [name, …], "rows": [{"name", "runs", "n_seeds", "values": {name: {"mean", "spread", "n"}}}, …]}``;
        ``spread`` is the sample standard deviation, None for a single number; ``n`` runs have the metric.

    Raises:
        UsageError: a directory is not a finished run, or no run has a metric that was asked for.
    """
    groups: dict[str, list[_Member]] = defaultdict(list)
    for path in {run.resolve(): run for run in runs}.values():
        result, recipe = read_result(path), read_recipe(path)
        seed = recipe.pop("seed", None)
        key = f"{result['task']} {result['verb']} {yaml.safe_dump(recipe)}"
        groups[key].append(_Member(path, str(result["recipe"]), seed, dict(numbers(result["metrics"]))))
    known = list(
        dict.fromkeys(name for members in groups.values() for member in members for name in member.values)
    )
    for name in metrics or ():
        if name not in known:
            raise UsageError(
                f"no run has the metric {name!r}", place="--metric", hint=f"available: {', '.join(known)}"
            )
    uses = Counter(members[0].recipe for members in groups.values())
    rows = []
    for members in groups.values():
        first = members[0]
        name = first.recipe if uses[first.recipe] == 1 else first.path.resolve().name
        rows.append(_row(name, members, list(metrics or known)))
    return {"metrics": list(metrics or known), "rows": rows}


@dataclass(frozen=True)
class _Member:
    path: Path
    recipe: str
    seed: Any
    values: dict[str, float]


def _row(name: str, members: list[_Member], metrics: list[str]) -> dict[str, Any]:
    values = {}
    for metric in metrics:
        found = [member.values[metric] for member in members if metric in member.values]
        if found:
            spread = statistics.stdev(found) if len(found) > 1 else None
            values[metric] = {"mean": statistics.fmean(found), "spread": spread, "n": len(found)}
    return {
        "name": name,
        "runs": [str(member.path) for member in members],
        "n_seeds": len({member.seed for member in members}),
        "values": values,
    }


def text_of(row: dict[str, Any], metric: str) -> str:
    """A cell of the table: mean, spread, and how many runs have the metric where not all do."""
    value = row["values"].get(metric)
    if value is None or value["mean"] is None:
        return "-"
    spread = "" if value["spread"] is None else f" ± {value['spread']:.2g}"
    missing = "" if value["n"] == len(row["runs"]) else f" ({value['n']} of {len(row['runs'])})"
    return f"{value['mean']:.4g}{spread}{missing}"


def read_recipe(run: Path) -> dict[str, Any]:
    """``recipe.yaml`` of a run.

    Raises:
        UsageError: it cannot be read.
    """
    file = run / "recipe.yaml"
    try:
        recipe = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UsageError(f"cannot be read: {' '.join(str(error).split())}", place=str(file)) from None
    if not isinstance(recipe, dict):
        raise UsageError("is not a recipe", place=str(file))
    return recipe
