"""A thread that writes while the stream goes on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from effcli.core.runtime import use_one_thread

MOST_WAITING = 16
"""Pieces of work that may wait; when they are as many, :meth:`Background.do` blocks, so none is left out."""


class Background:
    """Does one piece of work after another in a thread of its own; leaving the context waits for all of them.

    What a piece of work raises is raised by a later call of :meth:`do`, or when the context is left.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "writer", initializer=use_one_thread)
        self._waiting: deque[Future[None]] = deque()

    def do(self, work: Callable[[], None]) -> None:
        """Let a piece of work be done."""
        while self._waiting and (len(self._waiting) >= MOST_WAITING or self._waiting[0].done()):
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(work))

    def finish(self) -> None:
        """Wait until all is done."""
        while self._waiting:
            self._waiting.popleft().result()

    def __enter__(self) -> Background:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        try:
            if kind is None:
                self.finish()
        finally:
            self._pool.shutdown(cancel_futures=True)
