"""``report.html``: what a run did, in one self-contained page."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from effcli.core.evidence.curves import Line, draw, read_curves
from effcli.core.evidence.pages import picture_of, render
from effcli.core.evidence.result import read_result
from effcli.core.files import write_text


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
        metrics=list(flatten(result["metrics"])),
        figures=[(caption, picture_of(run, name)) for caption, name in result.get("figures", {}).items()],
        curves=[(name, draw([Line(points)])) for name, points in read_curves(run).items()],
        recipe_file=shlex.quote(str(recipe)),
        recipe=recipe.read_text(encoding="utf-8") if recipe.exists() else "",
        result=result,
    )
    destination = run / "report.html"
    write_text(destination, page)
    return destination


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
