"""Ctrl-C that another error hides."""

from __future__ import annotations

import json
import signal
import threading
from contextlib import nullcontext, suppress

import pytest
from effcli.cli import main as command_line

from effcli.core.resuming import stop


@pytest.fixture(autouse=True)
def not_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stop, "_interrupted", threading.Event())


class Interrupted:
    def __set_name__(self, owner: type, name: str) -> None:
        raise KeyboardInterrupt


def cut_short(standalone_mode: bool) -> None:
    try:
        type("Library", (), {"field": Interrupted()})  # a RuntimeError in Python 3.11
    except (RuntimeError, KeyboardInterrupt) as error:
        raise ImportError("the library is broken") from error


def test_it_is_still_an_interruption(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command_line, "app", cut_short)
    monkeypatch.setattr("sys.argv", ["effcli", "enhance", "a.png", "--json"])
    monkeypatch.setattr(command_line, "interrupts_after_imports", nullcontext)
    with pytest.raises(SystemExit) as leaving:
        command_line.main()
    out, err = capsys.readouterr()
    assert leaving.value.code == 130
    assert json.loads(out)["error"]["code"] == "interrupted"
    assert err == "error: interrupted\n"


def test_an_error_that_a_library_made_of_it_is_one_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """safetensors, in Rust, keeps nothing of the cause."""

    def lost(standalone_mode: bool) -> None:
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        raise OSError("Unable to load weights")

    monkeypatch.setattr(command_line, "app", lost)
    monkeypatch.setattr("sys.argv", ["effcli", "enhance", "a.png"])
    with pytest.raises(SystemExit) as leaving:
        command_line.main()
    assert leaving.value.code == 130
    assert capsys.readouterr().err == "error: interrupted\n"


def test_any_other_error_stays_what_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(standalone_mode: bool) -> None:
        raise ImportError("the library is broken")

    monkeypatch.setattr(command_line, "app", broken)
    monkeypatch.setattr("sys.argv", ["effcli", "enhance", "a.png"])
    monkeypatch.setattr(command_line, "interrupts_after_imports", nullcontext)
    with pytest.raises(SystemExit) as leaving:
        command_line.main()
    assert leaving.value.code == 1
    assert "ImportError: the library is broken" in capsys.readouterr().err
