"""What stands beside the code: the Makefile, CI, templates, the citation; they name only what exists."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import effcli

ROOT = Path(__file__).resolve().parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
WORKFLOW: dict[str, Any] = yaml.safe_load(
    (ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8")
)
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE, re.MULTILINE))


def commands_of(workflow: dict[str, Any]) -> list[str]:
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    return [line for step in steps for line in step.get("run", "").splitlines()]


def made_in(text: str) -> set[str]:
    """The targets of ``make TARGET`` at the start of a line."""
    return set(re.findall(r"^\s*make ([a-z][a-z-]*)", text, re.MULTILINE))


def test_ci_calls_make_alone_and_only_targets_that_exist() -> None:
    commands = commands_of(WORKFLOW)
    assert {"lint", "coverage", "wheel", "site"} <= made_in("\n".join(commands)) <= TARGETS
    assert [line for line in commands if not line.startswith("make ")] == []
    local = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert {"lint", "coverage", "wheel", "site"} <= made_in(local) <= TARGETS


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/contributing/adding-a-method.md"])
def test_pages_name_only_targets_that_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert made_in(text) | set(re.findall(r"`make ([a-z][a-z-]*)`", text)) <= TARGETS


def test_every_target_is_declared() -> None:
    (phony,) = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert set(phony.split()) == TARGETS


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_says_which_python_it_needs(tmp_path: Path) -> None:
    def make(python: str) -> subprocess.CompletedProcess[str]:
        command = ["make", "-C", str(ROOT), f"VENV={tmp_path / 'venv'}", f"PYTHON={python}", "docs"]
        return subprocess.run(command, capture_output=True, text=True)

    old = tmp_path / "python3.9"
    old.write_text(f'#!/bin/sh\nexec {sys.executable} -c "import sys; sys.version_info = (3, 9); $2"\n')
    old.chmod(0o755)
    for python in ("", str(tmp_path / "missing"), str(old)):
        done = make(python)
        assert done.returncode == 2
        assert "no Python 3.11 or newer" in done.stderr and "hint: " in done.stderr
        assert not (tmp_path / "venv").exists()


def test_versions_agree() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert effcli.__version__ == PROJECT["project"]["version"] == cited["version"]
    assert cited["repository-code"] == PROJECT["project"]["urls"]["Source"]
    assert cited["license"] == PROJECT["project"]["license"]


def test_the_pythons_of_ci_are_those_of_the_package() -> None:
    tested = WORKFLOW["jobs"]["test"]["strategy"]["matrix"]["python"]
    said = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["project"]["classifiers"]))
    assert tested == said
    assert PROJECT["project"]["requires-python"] == f">={tested[0]}"


@pytest.mark.parametrize("name", ["bug", "feature"])
def test_issue_forms_have_what_github_asks_for(name: str) -> None:
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / f"{name}.yml").read_text(encoding="utf-8"))
    assert form.keys() >= {"name", "description", "body"}
    ids = [field["id"] for field in form["body"]]
    assert len(set(ids)) == len(ids)
    assert all(
        field["type"] in {"textarea", "input"} and field["attributes"]["label"] for field in form["body"]
    )
