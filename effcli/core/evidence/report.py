"""``report.html``: what a run did, in one self-contained page."""

from __future__ import annotations

import base64
import io
import re
import shlex
from collections import defaultdict
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from effcli.core.errors import UsageError
from effcli.core.evidence.figures import save_figure
from effcli.core.evidence.result import read_result
from effcli.core.files import write_text
from effcli.core.resuming.metrics_log import read_metrics

_MAX_POINTS = 500


def write_report(run: Path) -> Path:
    """Build ``report.html`` from what a finished run directory holds and return its path.

    Raises:
        UsageError: the directory holds no finished run.
    """
    from jinja2 import Environment

    result = read_result(run)
    template = (files("effcli.core.evidence") / "report.html").read_text(encoding="utf-8")
    recipe = run / "recipe.yaml"
    page = (
        Environment(autoescape=True)
        .from_string(template)
        .render(
            title=f"{result['method']} · {result['task']} {result['verb']}",
            summary=f"Recipe {result['recipe']}, finished in {result['timing']['total_s']:.0f} s.",
            metrics=list(flatten(result["metrics"])),
            figures=[(caption, _base64(run, name)) for caption, name in result.get("figures", {}).items()],
            curves=_curves(run / "metrics.jsonl"),
            recipe_file=shlex.quote(str(recipe)),
            recipe=recipe.read_text(encoding="utf-8") if recipe.exists() else "",
            result=result,
        )
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


def _base64(run: Path, name: str) -> str:
    path = run / name
    if not path.resolve().is_relative_to(run.resolve()):
        raise UsageError("is outside the run directory", place=str(path))
    try:
        return base64.b64encode(path.read_bytes()).decode()
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", place=str(path)) from None


def _curves(path: Path) -> list[str]:
    """One SVG for each logged number, over the steps of its stage."""
    if not path.exists():
        return []
    series: dict[tuple[str, str], list[tuple[int, float]]] = defaultdict(list)
    for row in read_metrics(path):
        for name, value in row.items():
            if name not in {"stage", "step"} and isinstance(value, int | float):
                series[row["stage"], name].append((row["step"], value))
    return [_svg(f"{stage}: {name}", points) for (stage, name), points in series.items() if len(points) > 1]


def _svg(title: str, points: list[tuple[int, float]]) -> str:
    from matplotlib.figure import Figure

    stride = max(1, len(points) // _MAX_POINTS)
    figure = Figure(figsize=(7, 2.8), layout="constrained")
    axes = figure.subplots()
    shown = [*points[:-1:stride], points[-1]]
    axes.plot(*zip(*shown, strict=True), linewidth=1)
    axes.set_title(title)
    axes.set_xlabel("step")
    axes.grid(alpha=0.3)
    buffer = io.StringIO()
    save_figure(figure, buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    return re.sub(r"^.*?(?=<svg)", "", svg, flags=re.DOTALL)
