"""The page of ``effcli compare -o``."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from toy_task import ToyRecipe, ToyTrain

from effcli.core.errors import UsageError
from effcli.core.evidence.compare import compare_runs
from effcli.core.evidence.compare_page import write_page
from effcli.core.run import open_run
from effcli.core.runtime import Runtime
from tests.core.evidence.test_report import NASTY, PNG, Page


def finished(path: Path, *, seed: int, steps: int, name: str) -> Path:
    recipe = ToyRecipe(seed=seed, train=ToyTrain(steps=steps))
    runtime = Runtime(torch.device("cpu"), "fp32", seed)
    with open_run(path, recipe, runtime, verb="run", recipe_name=name) as run:
        for step in range(steps):
            run.log("train", step, loss=1 / (step + seed + 1))
        run.log("end", 0, once=1.0)
        (path / "p.png").write_bytes(PNG)
        run.finish({"psnr": 20.0 + seed, "n": steps}, lambda: {"A picture": "p.png"})
    return path


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    named = [(0, 3, "short"), (1, 3, "short"), (0, 5, NASTY)]
    return [
        finished(tmp_path / f"r{n}", seed=seed, steps=steps, name=name)
        for n, (seed, steps, name) in enumerate(named)
    ]


def test_the_page_has_numbers_settings_curves_and_pictures(runs: list[Path], tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    write_page(compare_runs(runs), file)
    text = file.read_text(encoding="utf-8")
    page = Page(text)
    assert "20.5 ± 0.71" in page.text and "2 recipes, 3 runs" in page.text
    assert (
        "train.steps" in page.text
        and "seed" not in page.text.split("Settings that differ")[1].split("Curves")[0]
    )
    assert page.count("svg") == 1  # both rows' losses over each other; what was logged once is no curve
    assert (
        text.count("#1f77b4") >= 2 and "#ff7f0e" in text
    )  # two seeds in one colour, the other recipe in the next
    assert page.count("img") == 2  # of the first run of each recipe
    assert "<script" not in text and NASTY in page.text
    assert all(str(run) in page.text for run in runs)


def test_recipes_of_other_tasks_or_methods_have_dashes_where_a_key_is_missing(
    runs: list[Path], tmp_path: Path
) -> None:
    recipe = runs[2] / "recipe.yaml"
    recipe.write_text(recipe.read_text() + "further: {key: 7}\n")
    write_page(compare_runs(runs), tmp_path / "page.html")
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "further.key-7" in page.text


def test_a_run_without_log_or_pictures_is_still_on_the_page(runs: list[Path], tmp_path: Path) -> None:
    (runs[0] / "metrics.jsonl").unlink()
    write_page(compare_runs(runs[:1]), tmp_path / "page.html")
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert page.count("svg") == 0 and "Settings that differ" not in page.text
    (runs[0] / "p.png").unlink()
    with pytest.raises(UsageError, match="cannot be read"):
        write_page(compare_runs(runs[:1]), tmp_path / "page.html")
