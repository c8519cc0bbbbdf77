"""What becomes of results where stdout is closed or full, and of names that a terminal would obey."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

BAD = b"a\x1b]0;title\x07\nerror: b\xe4.png"
"""A name of a file: sets the title of a terminal, begins a line of its own, and is not UTF-8."""


def shell(line: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a line with ``effcli`` in a shell; the fast way, without a fork server, whose streams are whole."""
    command = line.replace("effcli", f"'{sys.executable}' -m effcli", 1)
    return subprocess.run(
        command, shell=True, capture_output=True, cwd=cwd, env={**os.environ, **environment}
    )


@pytest.mark.slow
@pytest.mark.parametrize("target", [">&-", ">/dev/full"])
@pytest.mark.parametrize(
    "verb", ["recipes ls enhance --json", "recipes ls enhance", "doctor --json", "--version"]
)
def test_a_result_that_cannot_be_printed(verb: str, target: str, tmp_path: Path) -> None:
    if target == ">/dev/full" and not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    finished = shell(f"effcli {verb} {target}", tmp_path)
    lines = finished.stderr.decode().splitlines()
    assert finished.returncode == 1
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: stdout: cannot be written: ")


@pytest.mark.parametrize("target", [">&-", ">/dev/full", "2>&-"])
def test_an_error_that_cannot_be_printed_as_json(target: str, tmp_path: Path) -> None:
    finished = shell(f"effcli recipes show nothing/here --json {target}", tmp_path)
    assert finished.returncode == 2
    assert b"Traceback" not in finished.stderr
    if target != "2>&-":
        assert finished.stderr.startswith(b"error: ")


@pytest.mark.slow
def test_a_file_that_is_opened_does_not_become_stdout(tmp_path: Path) -> None:
    Image.fromarray(np.full((16, 16, 3), 40, np.uint8)).save(tmp_path / "a.png")
    finished = shell("effcli enhance a.png -o b.png -q <&- >&- 2>&-", tmp_path)
    assert finished.returncode == 1  # the path could not be printed
    with Image.open(tmp_path / "b.png") as picture:
        picture.load()


@pytest.mark.slow
@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_names_in_json_are_valid_and_come_back(locale: str, tmp_path: Path) -> None:
    source = os.fsencode(tmp_path) + b"/" + BAD
    Image.fromarray(np.full((16, 16, 3), 40, np.uint8)).save(tmp_path / "plain.png")
    (tmp_path / "plain.png").rename(os.fsdecode(source))
    finished = shell("effcli enhance . -o out --json", tmp_path, LC_ALL=locale, PYTHONUTF8="0")
    assert finished.returncode == 0, finished.stderr
    content = json.loads(finished.stdout.decode("ascii"))
    (entry,) = content["files"]
    assert os.fsencode(Path(entry["input"]).name) == BAD
    assert b"\x1b" not in finished.stderr


@pytest.mark.slow
def test_paths_in_a_pipe_are_exact_and_those_in_messages_are_written_out(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    source = os.fsencode(tmp_path / "in") + b"/" + BAD
    Image.fromarray(np.full((16, 16, 3), 40, np.uint8)).save(tmp_path / "plain.png")
    (tmp_path / "plain.png").rename(os.fsdecode(source))
    finished = shell("effcli enhance in -o out", tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert BAD.removesuffix(b".png") in finished.stdout
    Path(os.fsdecode(source)).write_bytes(b"no picture")
    finished = shell("effcli enhance in -o out2", tmp_path)
    assert finished.returncode != 0
    assert b"\x1b" not in finished.stderr
    assert not any(line.startswith(b"error: b") for line in finished.stderr.splitlines())
    assert rb"\x1b]0;title\x07\nerror: b\udce4.png" in finished.stderr
