"""Curves of what runs logged, as SVG for a page that is light or dark."""

from __future__ import annotations

import io
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from effcli.core.evidence.figures import save_figure
from effcli.core.resuming.metrics_log import read_metrics

_MAX_POINTS = 500
Points = list[tuple[int, float]]


@dataclass(frozen=True)
class Line:
    """One curve: its points in the order of the steps, the number of its colour, and its label in the legend."""

    points: Points
    colour: int = 0
    label: str | None = None


def read_curves(run: Path) -> dict[str, Points]:
    """``stage: name`` -> points, for each number that ``metrics.jsonl`` of a run has at two steps or more."""
    path = run / "metrics.jsonl"
    if not path.exists():
        return {}
    series: dict[str, Points] = defaultdict(list)
    for row in read_metrics(path):
        for name, value in row.items():
            if name not in {"stage", "step"} and isinstance(value, int | float):
                series[f"{row['stage']}: {name}"].append((row["step"], value))
    return {name: points for name, points in series.items() if len(points) > 1}


def draw(lines: Sequence[Line]) -> str:
    """An SVG with all lines over each other; what is black in it takes the page's colour of text."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 2.8), layout="constrained")
    axes = figure.subplots()
    for line in lines:
        stride = max(1, len(line.points) // _MAX_POINTS)
        shown = [*line.points[:-1:stride], line.points[-1]]
        axes.plot(*zip(*shown, strict=True), linewidth=1, color=f"C{line.colour}", label=line.label)
    axes.set_xlabel("step")
    axes.grid(alpha=0.3)
    if any(line.label for line in lines):
        axes.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(0, -0.2))
    buffer = io.StringIO()
    save_figure(figure, buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = re.sub(r"^.*?(?=<svg)", "", buffer.getvalue(), flags=re.DOTALL)
    return svg.replace("#000000", "currentColor")
