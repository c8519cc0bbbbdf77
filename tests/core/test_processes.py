"""Two processes (gloo) do what one does; only the first one writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from effcli.core.evidence.result import read_result
from effcli.core.resuming.metrics_log import read_metrics
from effcli.core.runtime import derive_seed

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("two_processes.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("two")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launcher, str(SCRIPT), str(path)], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return path


@pytest.fixture(scope="module")
def reports(folder: Path) -> list[dict[str, Any]]:
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]


def test_what_the_ranks_agree_on(reports: list[dict[str, Any]]) -> None:
    for rank, report in enumerate(reports):
        assert (report["world"], report["threads"]) == (2, 1)
        assert report["any"] == [True, False]
        assert report["mean"] == {"a": 0.5, "b": 2.0}
        assert report["from_main"] == {"rank": 0}
        assert report["on_main"] == "made by 0"
        assert report["seeds"] == [derive_seed(3, "x"), rank]


def test_an_error_in_the_main_rank_is_raised_in_all(reports: list[dict[str, Any]]) -> None:
    for report in reports:
        assert report["on_main_error"] == ["RunError", "somewhere: the disk is full", "free some space"]
        assert report["wrong_directory"][0] == "UsageError"


def test_half_the_batch_each_is_the_whole_batch_in_one_process(reports: list[dict[str, Any]]) -> None:
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for index in range(5):
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(index))
        loss = (network(x) - x.sum(1, keepdim=True).sin()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    expected = torch.cat([parameter.detach().flatten() for parameter in network.parameters()])
    for report in reports:
        torch.testing.assert_close(torch.tensor(report["parameters"]), expected, rtol=0, atol=1e-6)


def test_a_signal_to_one_rank_stops_both_and_both_resume(folder: Path, reports: list[dict[str, Any]]) -> None:
    for report in reports:
        assert report["interrupted"][0] == "InterruptedRunError"
        assert "after 8 of 24 steps" in report["interrupted"][1]
        assert report["resumed"] == ["no error", None, None]
    assert read_result(folder / "toy")["environment"]["world"] == 2
    steps = [row["step"] for row in read_metrics(folder / "toy" / "metrics.jsonl") if row["stage"] == "train"]
    assert steps == [*range(0, 24, 2)]


def test_only_the_main_rank_writes(folder: Path, reports: list[dict[str, Any]]) -> None:
    assert reports[1]["written"] == []
    names = {Path(path).name for path in reports[0]["written"]}
    assert {"result.json", "report.html", "metrics.jsonl", "log.txt", "train.pt", "recipe.yaml"} <= names
