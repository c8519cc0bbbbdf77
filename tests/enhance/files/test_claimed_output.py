"""Two processes and one output: who writes it, and what is left behind."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from effcli.core.errors import RunError
from effcli.enhance.files.claimed_output import TakenError, claimed_output, stamp_of

HOLDS = """
import sys, time
from pathlib import Path
from effcli.enhance.files.claimed_output import claimed_output
with claimed_output(Path(sys.argv[1]), None):
    print("held", flush=True)
    time.sleep(60)
"""


def write(path: Path, content: bytes) -> None:
    with claimed_output(path, stamp_of(path)) as stream:
        stream.write(content)


def names(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir())


def test_an_output_appears_whole_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "new" / "a.png"
    with claimed_output(path, None) as stream:
        stream.write(b"half")
        assert not path.exists()
        stream.write(b"whole")
    assert path.read_bytes() == b"halfwhole" and names(path.parent) == ["a.png"]
    write(path, b"other")
    assert path.read_bytes() == b"other" and names(path.parent) == ["a.png"]
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    now = os.umask(0)
    os.umask(now)
    return now


def test_a_failure_leaves_nothing(tmp_path):
    path = tmp_path / "a.png"
    with pytest.raises(ValueError, match="broken"), claimed_output(path, None) as stream:
        stream.write(b"x")
        raise ValueError("broken")
    assert names(tmp_path) == []


def test_what_appeared_or_changed_meanwhile_is_not_overwritten(tmp_path):
    path = tmp_path / "a.png"
    with pytest.raises(TakenError, match="in the meantime"), claimed_output(path, None) as stream:
        stream.write(b"late")
        path.write_bytes(b"first")
    assert path.read_bytes() == b"first" and names(tmp_path) == ["a.png"]
    planned = stamp_of(path)
    path.write_bytes(b"newer and longer")
    with pytest.raises(TakenError, match="in the meantime"), claimed_output(path, planned):
        raise AssertionError("not reached")
    assert names(tmp_path) == ["a.png"]


@pytest.mark.slow
def test_another_process_is_named_and_its_death_frees_the_output(tmp_path):
    path = tmp_path / "a.png"
    other = subprocess.Popen([sys.executable, "-c", HOLDS, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(TakenError, match=rf"is being written by process {other.pid} on "):
            write(path, b"mine")
        assert not path.exists()
    finally:
        other.send_signal(signal.SIGKILL)
        other.wait()
    assert len(names(tmp_path)) == 1  # the file of the process that was killed
    write(path, b"mine")
    assert path.read_bytes() == b"mine" and names(tmp_path) == ["a.png"]


def test_a_lock_on_a_file_that_was_renamed_meanwhile_does_not_count(tmp_path, monkeypatch):
    """The first process finishes between the second one's opening of the file and its lock."""
    path, flock, n_calls = tmp_path / "a.png", fcntl.flock, []

    def finishing(file, flags):
        n_calls.append(1)
        if len(n_calls) == 1:
            (part,) = tmp_path.glob(".part-*")
            part.replace(path)
        flock(file, flags)

    monkeypatch.setattr(fcntl, "flock", finishing)
    with pytest.raises(TakenError, match="in the meantime"), claimed_output(path, None):
        raise AssertionError("not reached")
    assert len(n_calls) == 2 and names(tmp_path) == ["a.png"]


@pytest.mark.parametrize("links", [True, False])
def test_without_locks_the_first_to_finish_wins(tmp_path, monkeypatch, links):
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    if not links:
        monkeypatch.setattr("os.link", refuse)
    path = tmp_path / "a.png"
    with pytest.raises(TakenError), claimed_output(path, None) as late:
        with claimed_output(path, None) as early:
            early.write(b"early")
        late.write(b"late")
    assert path.read_bytes() == b"early" and names(tmp_path) == ["a.png"]


def test_a_full_disk_and_a_missing_place_are_one_clear_error(tmp_path, monkeypatch):
    (tmp_path / "taken").write_text("x")
    with pytest.raises(RunError, match="cannot be made"):
        write(tmp_path / "taken" / "a.png", b"x")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(RunError, match="the disk is full"):
        write(tmp_path / "a.png", b"x")
    assert names(tmp_path) == ["taken"]


def test_time_of_a_stamp_is_that_of_the_file(tmp_path):
    path = tmp_path / "a.png"
    assert stamp_of(path) is None
    path.write_bytes(b"1")
    first = stamp_of(path)
    assert first == stamp_of(path)
    os.utime(path, (time.time() + 5,) * 2)
    assert stamp_of(path) != first
