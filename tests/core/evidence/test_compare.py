from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_task import ToyRecipe, ToyTrain

from effcli.core.errors import UsageError
from effcli.core.evidence.compare import compare_runs
from effcli.core.run import open_run
from effcli.core.runtime import Runtime


def finished(
    path: Path, metrics: dict[str, Any], *, seed: int = 0, steps: int = 1, name: str = "toy"
) -> Path:
    runtime = Runtime(torch.device("cpu"), "fp32", seed)
    recipe = ToyRecipe(seed=seed, train=ToyTrain(steps=steps))
    with open_run(path, recipe, runtime, verb="run", recipe_name=name) as run:
        run.finish(metrics)
    return path


def test_runs_that_differ_in_their_seed_alone_share_a_row(tmp_path: Path) -> None:
    values = [1.0, 2.0, 6.0]
    runs = [finished(tmp_path / f"a{i}", {"x": {"y": value}}, seed=i) for i, value in enumerate(values)]
    runs.append(finished(tmp_path / "b", {"x": {"y": 5}}, steps=2))
    table = compare_runs(runs)
    assert table["metrics"] == ["x.y"]
    first, second = table["rows"]
    assert (first["name"], second["name"]) == (
        "a0",
        "b",
    )  # one recipe name for two recipes: the directories' names
    assert (first["n_seeds"], second["n_seeds"]) == (3, 1)
    assert first["runs"] == [str(run) for run in runs[:3]]
    assert first["values"]["x.y"] == {"mean": 3.0, "spread": pytest.approx(math.sqrt(7)), "n": 3}
    assert second["values"]["x.y"] == {"mean": 5.0, "spread": None, "n": 1}


def test_a_row_has_the_recipe_s_name_where_it_is_the_only_one(tmp_path: Path) -> None:
    runs = [
        finished(tmp_path / name, {"x": 1}, steps=n, name=name) for n, name in enumerate(["full", "half"], 1)
    ]
    assert [row["name"] for row in compare_runs(runs)["rows"]] == ["full", "half"]


def test_a_metric_that_some_runs_lack_says_how_many_have_it(tmp_path: Path) -> None:
    runs = [
        finished(tmp_path / "0", {"x": 1.0, "text": "a", "flag": True, "list": [1]}, seed=0),
        finished(tmp_path / "1", {"x": math.nan}, seed=1),
        finished(tmp_path / "2", {"x": 3.0, "z": 4}, seed=2),
    ]
    table = compare_runs(runs)
    assert table["metrics"] == ["x", "z"]
    (row,) = table["rows"]
    assert (row["n_seeds"], row["values"]["x"]["n"], row["values"]["x"]["mean"]) == (3, 2, 2.0)
    assert row["values"]["z"] == {"mean": 4.0, "spread": None, "n": 1}
    assert compare_runs(runs, ["z"])["metrics"] == ["z"]


def test_a_run_given_twice_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = finished(tmp_path / "a", {"x": 1})
    monkeypatch.chdir(tmp_path)
    (row,) = compare_runs([run, Path("a"), Path("a/../a")])["rows"]
    assert (row["n_seeds"], row["values"]["x"]["n"], row["name"]) == (1, 1, "toy")


def test_mistakes(tmp_path: Path) -> None:
    run = finished(tmp_path / "a", {"psnr": 1, "ssim": 2})
    with pytest.raises(UsageError, match="no run has the metric 'fd'") as caught:
        compare_runs([run], ["fd"])
    assert caught.value.hint == "available: psnr, ssim"
    with pytest.raises(UsageError, match="not a run directory"):
        compare_runs([run, tmp_path])
    for content in (b"\xff", b"[1]", b"{"):
        (run / "recipe.yaml").write_bytes(content)
        with pytest.raises(UsageError) as caught:
            compare_runs([run])
        assert caught.value.place == str(run / "recipe.yaml")
    (run / "recipe.yaml").unlink()
    with pytest.raises(UsageError, match="cannot be read"):
        compare_runs([run])
