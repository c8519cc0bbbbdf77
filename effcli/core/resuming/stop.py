"""Stopping on Ctrl-C and SIGTERM at a moment of our choosing: between imports, between steps."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

log = logging.getLogger(__name__)

IMPORT_POLL_S = 0.05

_interrupted = threading.Event()


def was_interrupted() -> bool:
    """Whether a signal has raised KeyboardInterrupt since the program began (:func:`interrupts_after_imports`).

    Libraries that are written in Rust or C++ make an error of their own of it, in which nothing is left of the cause.
    """
    return _interrupted.is_set()


@contextmanager
def interrupts_after_imports() -> Iterator[None]:
    """Ctrl-C and SIGTERM raise KeyboardInterrupt, but never inside an import: those wait for its end.

    Libraries swallow an exception that comes while they are imported, turn it into another, or (PyTorch, from
    its C++) abort the process. For the main thread of a program whose work this is: afterwards both signals
    end the process at once, and one that still waits is forgotten.
    """
    _interrupted.clear()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, _interrupt_after_imports)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
            signal.signal(number, signal.SIG_DFL)


def _interrupt_after_imports(number: int, frame: FrameType | None) -> None:
    if _is_importing(frame):
        signal.setitimer(signal.ITIMER_REAL, IMPORT_POLL_S)  # SIGALRM comes back here
    elif number == signal.SIGALRM:
        signal.raise_signal(signal.SIGINT)  # to the handler that is installed by now
    else:
        _interrupted.set()
        raise KeyboardInterrupt


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


class StopSignal:
    """A flag that the first Ctrl-C or SIGTERM raises; the second one interrupts at once.

    Use as a context manager around work that asks :attr:`requested` between steps. Outside the main thread
    the handlers cannot be installed, and the flag stays down.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            _interrupted.set()
            raise KeyboardInterrupt
        self.requested = True
        log.warning("stopping at the next safe point; a second signal stops at once")
