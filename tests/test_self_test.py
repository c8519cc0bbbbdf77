"""``effcli doctor --self-test``."""

from __future__ import annotations

import math

import pytest
from effcli.cli.doctor import app
from typer.testing import CliRunner

from effcli import self_test
from effcli.core.registry import TASKS


def test_every_task_has_an_answer() -> None:
    assert list(self_test._ANSWERS) == list(TASKS)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["enhance", "quantize", "continual", "rl-distill"])
def test_the_answers_are_right_here(task: str) -> None:
    checked = self_test._checked(self_test._ANSWERS[task])
    assert checked.is_right, checked.found


def test_what_is_wrong_or_breaks_is_reported_and_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> self_test.KnownAnswer:
        raise OSError("no such\nfile")

    answers = {
        "good": lambda: self_test.KnownAnswer("x", 1.0, 0, 2),
        "off": lambda: self_test.KnownAnswer("x", 3.0, 0, 2),
        "nan": lambda: self_test.KnownAnswer("x", math.nan, 0, 2),
        "broken": broken,
    }
    monkeypatch.setattr(self_test, "_ANSWERS", answers)
    found = self_test.self_test()
    assert [one.is_right for one in found.values()] == [True, False, False, False]
    assert found["off"].found == "x 3, expected 0 to 2"
    assert found["broken"].found == "OSError: no such file"


@pytest.mark.parametrize(("value", "code"), [(1.0, 0), (3.0, 1)])
def test_the_command_prints_it_and_fails_with_it(
    value: float, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = {"enhance": lambda: self_test.KnownAnswer("x", value, 0, 2)}
    monkeypatch.setattr(self_test, "_ANSWERS", answers)
    done = CliRunner().invoke(app, ["--self-test"])
    assert done.exit_code == code, done.output
    assert f"x {value:g}, expected 0 to 2" in done.output and "self_test.enhance.is_right" in done.output
