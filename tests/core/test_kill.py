"""A run that is killed at random moments, without a chance to react, ends with the result of an uninterrupted one."""

from __future__ import annotations

import multiprocessing
import random
import secrets
import signal
import time
from pathlib import Path

import pytest
import toy_task

from effcli.core.evidence.result import read_result
from tests.forkserver import spawner

pytestmark = pytest.mark.slow


def start(path: Path) -> multiprocessing.process.BaseProcess:
    process = spawner.Process(target=toy_task.run_slowly, args=(str(path),))
    process.start()
    return process


def names_and_times(checkpoints: Path) -> list[tuple[str, int]]:
    try:
        return sorted((file.name, file.stat().st_mtime_ns) for file in checkpoints.iterdir())
    except FileNotFoundError:  # not there yet, or renamed while we looked
        return []


def test_killed_and_resumed_until_it_is_done(tmp_path: Path) -> None:
    seed = secrets.randbits(32)
    draw = random.Random(seed)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    uninterrupted = start(whole)
    n_killed = 0
    while not (killed / "result.json").exists():
        before = names_and_times(killed / "checkpoints")
        process = start(killed)
        if n_killed < 4:
            while process.is_alive() and names_and_times(killed / "checkpoints") == before:
                time.sleep(0.002)
            process.join(draw.uniform(0, 0.2))
            process.kill()
        process.join(60)
        assert process.exitcode in (0, -signal.SIGKILL), f"seed {seed}"
        n_killed += process.exitcode != 0
    uninterrupted.join(60)
    assert n_killed >= 2
    for name in ("weights.pt", "metrics.jsonl", "recipe.yaml"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), f"{name}, seed {seed}"
    assert read_result(killed)["metrics"] == read_result(whole)["metrics"]
    assert not list(killed.rglob(".part-*"))
