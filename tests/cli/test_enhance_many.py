"""`effcli enhance` on many pictures: shards, several processes in one folder, memory that is checked beforehand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.enhance_many import killed_runs
from tests.cli.effcli_process import effcli, start


def photos(folder: Path, n: int) -> None:
    folder.mkdir(parents=True)
    for number in range(n):
        values = np.random.default_rng(number).integers(0, 60, (24, 40, 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / f"{number}.png")


def outputs(result: Any) -> list[str]:
    return [entry["output"] for entry in result["files"]]


@pytest.mark.slow
def test_shards_share_a_folder_and_merge_adds_them_up(tmp_path: Path, tiny_weights: Path) -> None:
    photos(tmp_path / "in", 5)
    (tmp_path / "in" / "5.png").write_bytes(b"")
    arguments = ("enhance", "in", "-o", "out", "--weights", tiny_weights, "--shard")
    first = effcli(*arguments, "1/2", "--json", cwd=tmp_path)
    assert (first.code, outputs(first.json)) == (0, ["out/0.png", "out/2.png", "out/4.png"])
    alone = effcli("enhance", "merge", "out/summary-1-of-2.json", cwd=tmp_path)
    assert (alone.code, alone.stdout) == (2, b"") and "missing: shard 2 of 2" in alone.stderr
    assert effcli(*arguments, "2/2", cwd=tmp_path).code == 3
    summaries = ("out/summary-1-of-2.json", "out/summary-2-of-2.json")
    merged = effcli("enhance", "merge", *summaries, "--json", cwd=tmp_path)
    assert merged.code == 3 and "error: in/5.png: is empty" in merged.stderr
    counts = merged.json["metrics"]
    assert (counts["images"], counts["failed"], counts["skipped"], counts["not_done"]) == (5, 1, 0, 0)
    assert sorted(outputs(merged.json)) == [f"out/{n}.png" for n in range(5)]


def test_a_shard_of_failures_has_a_summary_too(tmp_path: Path, tiny_weights: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"")
    arguments = ("enhance", "in", "-o", "out", "--weights", tiny_weights, "--shard")
    assert effcli(*arguments, "1/2", cwd=tmp_path).code == 2
    assert effcli(*arguments, "2/2", cwd=tmp_path).code == 0  # it has no pictures
    summary = json.loads((tmp_path / "out" / "summary-1-of-2.json").read_text())
    assert summary["metrics"]["failed"] == 1 and summary["settings"]["quality"] == 95
    for text, message in (("3/2", "'3/2' is not a shard such as 3/64"), ("0/2", "'0/2' is not a shard")):
        refused = effcli(*arguments, text, cwd=tmp_path)
        assert refused.code == 2 and message in refused.stderr


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["--quiet", "--resume"])
def test_two_runs_in_one_folder_never_claim_the_same_picture(
    tmp_path: Path, tiny_weights: Path, flag: str
) -> None:
    photos(tmp_path / "in", 12)
    folders, runs = [tmp_path / "first", tmp_path / "second"], []
    for folder in folders:
        folder.mkdir()
        arguments = ("enhance", "in", "-o", "out", "--weights", tiny_weights, "--json", flag)
        runs.append(start(folder, *arguments, cwd=tmp_path))
    for run in runs:
        run.join(120)
    results = [json.loads((folder / "1").read_text()) for folder in folders]
    made = [outputs(result) if "files" in result else [] for result in results]
    assert sorted(made[0] + made[1]) == sorted(f"out/{n}.png" for n in range(12))
    assert sorted(one.name for one in (tmp_path / "out").iterdir()) == sorted(f"{n}.png" for n in range(12))
    if flag == "--resume":
        assert [run.exitcode for run in runs] == [0, 0]
        assert sum(result["metrics"]["skipped"] for result in results) == 12
    else:
        assert {run.exitcode for run in runs} <= {0, 1, 2, 3}
        assert "written by" in (folders[0] / "2").read_text() + (folders[1] / "2").read_text() or [] in made


def test_memory_is_checked_before_any_picture_is_computed(tmp_path: Path, tiny_weights: Path) -> None:
    (tmp_path / "in").mkdir()
    for name, side in (("a.png", 4000), ("b.png", 4500)):
        Image.new("L", (side, side)).save(tmp_path / "in" / name)
    arguments = ("enhance", "in", "-o", "out", "--weights", tiny_weights, "--json")
    done = effcli(*arguments, "--max-memory", 64, "--detail", "full", cwd=tmp_path)
    assert done.code == 2 and not (tmp_path / "out").exists()
    error = done.json["error"]
    assert "in/a.png: this picture needs at least" in error["message"]
    assert "in/b.png: this picture needs at least" in error["message"]
    needed = max(int(word) for word in error["message"].split() if word.isdigit())
    assert error["hint"] == f"--max-memory {needed + 1} is enough for all"


@pytest.mark.slow
def test_a_batch_that_is_killed_again_and_again_makes_every_picture_once(
    tmp_path: Path, tiny_weights: Path
) -> None:
    ended = killed_runs(tmp_path, 60, 3, (16, 12), "--weights", str(tiny_weights), part=10)
    assert (ended.pictures, len(ended.killed_at)) == (60, 3)
    assert (ended.made, ended.written_twice, ended.half_written, ended.left_over) == (60, 0, 0, 0)
    assert ended.parts[-1].outputs > 20 and ended.parts[-1].rss_mb > 0
