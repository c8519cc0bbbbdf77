"""`effcli enhance` on videos, in processes: kill -9 and --resume, JSON, exit codes."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests.cli.effcli_process import effcli, start
from tests.enhance.video.video_files import (  # skips without PyAV
    flickering,
    packets_of,
    save_video,
    scene,
    times_of,
)

pytestmark = pytest.mark.slow


SAME = ("--device", "cpu", "--precision", "fp32", "--threads", "1")


def test_killed_and_resumed_it_is_the_video_of_an_uninterrupted_command(
    tmp_path: Path, tiny_weights: Path
) -> None:
    save_video(tmp_path / "night.mp4", flickering(60), sound=True)
    command = ("enhance", "night.mp4", "--weights", tiny_weights, *SAME)
    whole = effcli(*command, "-o", "whole.mp4", "--json", cwd=tmp_path)
    assert whole.code == 0, whole.stderr
    (entry,) = whole.json["files"]
    assert entry["frames"] == whole.json["metrics"]["frames"] == 60
    assert entry["level_change"]["output"] < entry["level_change"]["unsmoothed"]
    lines = tmp_path / ".day.mp4.part" / "frames.jsonl"
    for n_frames in (5, 50):
        process = start(tmp_path, *command, "-o", "day.mp4", "--resume", cwd=tmp_path)
        while process.is_alive() and (not lines.exists() or len(lines.read_bytes().splitlines()) < n_frames):
            time.sleep(0.002)
        process.kill()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL, (tmp_path / "2").read_text()
        assert not (tmp_path / "day.mp4").exists()
    refused = effcli(*command, "-o", "day.mp4", cwd=tmp_path)
    assert refused.code == 2
    assert "--resume continues it" in refused.stderr
    done = effcli(*command, "-o", "day.mp4", "--resume", cwd=tmp_path)
    assert (done.code, done.lines) == (0, ["day.mp4"]), done.stderr
    assert "continued after" in done.stderr
    for kind in ("video", "audio"):
        assert packets_of(tmp_path / "day.mp4", kind) == packets_of(tmp_path / "whole.mp4", kind)
    assert times_of(tmp_path / "day.mp4") == times_of(tmp_path / "whole.mp4")
    assert not lines.parent.exists()


def test_a_damaged_video_ends_with_3_and_a_dry_run_writes_nothing(tmp_path: Path, tiny_weights: Path) -> None:
    source = save_video(tmp_path / "a.mkv", [scene(n) for n in range(30)])
    source.write_bytes(source.read_bytes()[: source.stat().st_size * 2 // 3])
    command = ("enhance", "a.mkv", "-o", "out/", "--weights", tiny_weights, "-q", "--json")
    plan = effcli(*command, "--dry-run", cwd=tmp_path)
    assert plan.json["plan"]["files"] == [{"input": "a.mkv", "output": "out/a.mkv"}]
    assert not (tmp_path / "out").exists()
    done = effcli(*command, cwd=tmp_path)
    assert done.code == 3, done.stderr
    assert done.stderr.startswith("error: a.mkv: is damaged")
    assert done.json["metrics"]["failed"] == len(done.json["failures"]) == 1
    assert (tmp_path / "out" / "a.mkv").exists()
