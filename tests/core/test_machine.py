"""The machine and the commit, as results name them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from effcli.core import machine


def test_a_machine_is_described() -> None:
    found = machine.describe_machine()
    assert found["processor"] and found["cores"] >= 1
    assert found["memory_gib"] is None or found["memory_gib"] > 0.1
    assert set(found["instructions"]) <= set(machine._cpu_info("flags").split())


def test_a_key_that_the_system_does_not_have_is_empty() -> None:
    assert machine._cpu_info("no such key") == ""


def test_the_commit_is_that_of_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def commit() -> str | None:
        return machine.commit.__wrapped__()

    monkeypatch.setattr(machine, "_CHECKOUT", tmp_path)
    assert commit() is None  # installed, not a checkout
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run([*git, "init", "-q"], check=True)
    assert commit() is None  # no commit yet
    (tmp_path / "a").write_text("1")
    subprocess.run([*git, "add", "a"], check=True)
    subprocess.run([*git, "commit", "-qm", "a"], check=True)
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    assert commit() == head.stdout.strip()
    (tmp_path / "a").write_text("2")
    assert commit() == f"{head.stdout.strip()}-dirty"
