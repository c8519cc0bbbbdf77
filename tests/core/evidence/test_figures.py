"""Text on figures is shown as it is; every figure that has text of others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text

from effcli.core.evidence import figures

NAMES = ("$x_$", "$\\frac{$", "a$b$c", "$", "\\$x_$", "tab\there", "\x1b[2J", "\udce4", "_hidden", "{}%s")


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """All texts of the figures that were written."""
    texts: list[str] = []
    write = Figure.savefig

    def savefig(figure: Figure, *args: Any, **settings: Any) -> None:
        write(figure, *args, **settings)
        found = [text for text in figure.findobj(Text) if isinstance(text, Text)]
        assert not any(text.get_parse_math() for text in found if "$" in text.get_text())
        texts.extend(text.get_text() for text in found)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return texts


@pytest.mark.filterwarnings("error:Glyph")
@pytest.mark.parametrize("name", NAMES)
def test_any_text_is_written(tmp_path: Path, name: str, shown: list[str]) -> None:
    figure = Figure(layout="constrained")
    axes = figure.subplots()
    axes.plot([1, 2], label=f"1: {name}")
    axes.set_title(name)
    axes.text(0, 1, name)
    axes.legend()
    for suffix in ("png", "svg"):
        figures.save_figure(figure, tmp_path / f"f.{suffix}")
        assert (tmp_path / f"f.{suffix}").stat().st_size > 1000
    if name.isprintable():
        assert shown.count(name) >= 2


def test_curves_of_runs(shown: list[str]) -> None:
    from effcli.core.evidence.curves import Line, draw

    svg = draw([Line([(0, 1.0), (1, 2.0)], 0, "a: $x_$"), Line([(0, 2.0), (1, 2.0)], 0)])
    assert svg.startswith("<svg") and "a: $x_$" in shown
    assert "currentColor" in svg and "#000000" not in svg  # readable on light and dark pages


def test_accuracy_of_tasks(tmp_path: Path, shown: list[str]) -> None:
    from effcli.continual.class_splits import ClassTask
    from effcli.continual.evaluation.measuring import draw_matrix
    from effcli.data.image_sets import ImageSet

    images = ImageSet(
        torch.zeros(1, 1, 2, 2, dtype=torch.uint8), torch.zeros(1, dtype=torch.long), ("$x_$", "$^$")
    )
    tasks = [ClassTask(number, ("$x_$", "$^$"), 2 * number, images, images) for number in range(2)]
    draw_matrix({"accuracy_matrix": [[0.5, np.nan], [0.5, 1.0]]}, tasks, tmp_path / "f.png")
    assert "1: $x_$, $^$" in shown


def test_captions(tmp_path: Path, shown: list[str]) -> None:
    from effcli.distill.clip_kd.captions.sources import load_captions
    from effcli.distill.clip_kd.evaluation import save_retrieval
    from tests.distill.clip.tiny_clips import save_pairs

    file = save_pairs(tmp_path, 4)
    file.write_text(file.read_text().replace("red", "$x_$"))
    pairs = load_captions(str(file), "train")
    embedded = {"$teacher_$": {"images": torch.eye(len(pairs), 8), "texts": torch.eye(99, 8)}}
    save_retrieval(pairs, embedded, tmp_path / "f.png")
    assert any(text.startswith("$x_$") for text in shown)
    assert "$teacher_$" in shown


def test_no_figure_is_written_without_it() -> None:
    package = Path(figures.__file__).parents[2]
    others = [
        file
        for file in package.rglob("*.py")
        if ".savefig(" in file.read_text(encoding="utf-8") and file != Path(figures.__file__)
    ]
    assert others == []
