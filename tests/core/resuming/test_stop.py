from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from effcli.core.resuming.stop import StopSignal


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_raises_the_flag_and_the_second_interrupts(
    number: signal.Signals, warnings_logged: list[str]
) -> None:
    handlers = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    with StopSignal() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
        assert warnings_logged == ["stopping at the next safe point; a second signal stops at once"]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_handlers_are_restored_after_an_error() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ValueError, match="x"), StopSignal():
        assert signal.getsignal(signal.SIGINT) != before
        raise ValueError("x")
    assert signal.getsignal(signal.SIGINT) == before


def test_a_handler_that_python_does_not_know_becomes_the_default() -> None:
    before = signal.getsignal(signal.SIGTERM)
    stop = StopSignal()
    with stop:
        stop._previous[signal.SIGTERM] = None
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    signal.signal(signal.SIGTERM, before)


def test_outside_the_main_thread_nothing_is_installed() -> None:
    before, seen = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with StopSignal() as stop:
            seen.append((signal.getsignal(signal.SIGINT) == before, stop.requested))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(True, False)]


SLOW_LIBRARY = """
import time

print("importing", flush=True)
for _ in range(10):
    try:
        time.sleep(0.05)
    except BaseException:
        print("swallowed")
print("imported", flush=True)
"""
PROGRAM = """
import time
from effcli.core.resuming.stop import interrupts_after_imports

try:
    with interrupts_after_imports():
        import slow_library
        time.sleep(20)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_import_is_not_cut_short(number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "slow_library.py").write_text(SLOW_LIBRARY)
    (tmp_path / "program.py").write_text(PROGRAM)
    process = subprocess.Popen([sys.executable, tmp_path / "program.py"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    process.send_signal(number)
    assert process.communicate(timeout=15)[0].splitlines() == ["imported", "interrupted"]
