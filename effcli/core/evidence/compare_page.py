"""The page of ``effcli compare -o``: numbers and differing settings, curves over each other, pictures side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from effcli.core.evidence.compare import read_recipe, text_of
from effcli.core.evidence.curves import Line, draw, read_curves
from effcli.core.evidence.pages import picture_of, render
from effcli.core.evidence.result import read_result
from effcli.core.files import write_text


def write_page(table: Mapping[str, Any], destination: Path) -> None:
    """Write what :func:`~effcli.core.evidence.compare.compare_runs` found, with what the runs logged and drew.

    Raises:
        UsageError: a picture of a run cannot be read.
        RunError: the page cannot be written.
    """
    rows = table["rows"]
    page = render(
        "compare.html",
        title="Runs compared",
        names=[row["name"] for row in rows],
        n_runs=sum(len(row["runs"]) for row in rows),
        numbers=[(name, [text_of(row, name) for row in rows]) for name in table["metrics"]],
        settings=list(_settings(rows)),
        curves=[(name, draw(lines)) for name, lines in _curves(rows).items()],
        pictures=list(_pictures(rows).items()),
        runs=[(row["name"], row["runs"]) for row in rows],
    )
    write_text(destination, page)


def _settings(rows: list[dict[str, Any]]) -> Iterator[tuple[str, list[str]]]:
    """Key and a value per row, of the keys whose values differ; the seed is left out."""
    recipes = [dict(_flat(read_recipe(Path(row["runs"][0])))) for row in rows]
    for key in dict.fromkeys(key for recipe in recipes for key in recipe):
        values = [recipe.get(key, "-") for recipe in recipes]
        if key != "seed" and len(set(values)) > 1:
            yield key, values


def _flat(recipe: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in recipe.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)


def _curves(rows: list[dict[str, Any]]) -> dict[str, list[Line]]:
    """Name of a curve -> a line per run that has it; runs of a row share the colour, the first has its label."""
    found: dict[str, list[Line]] = {}
    for colour, row in enumerate(rows):
        labelled = set()
        for run in row["runs"]:
            for name, points in read_curves(Path(run)).items():
                label = None if name in labelled else row["name"]
                labelled.add(name)
                found.setdefault(name, []).append(Line(points, colour, label))
    return found


def _pictures(rows: list[dict[str, Any]]) -> dict[str, list[tuple[str, str]]]:
    """Caption -> the row's name and the picture, of the first run of each row."""
    found: dict[str, list[tuple[str, str]]] = {}
    for row in rows:
        run = Path(row["runs"][0])
        for caption, name in read_result(run).get("figures", {}).items():
            found.setdefault(caption, []).append((row["name"], picture_of(run, name)))
    return found
