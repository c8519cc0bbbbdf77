"""Progress bars: on stderr, only on a terminal."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from effcli.core.text import printable

NOTICE = 25
"""Level of log lines that people wait for: shown unless they asked for silence; between INFO and WARNING."""


@contextlib.contextmanager
def progress_bar(
    description: str, total: int, start: int = 0, unit: str = "", *, show: bool
) -> Iterator[Callable[[], None]]:
    """Yield a function that moves the bar by one; without ``show`` or a terminal there is no bar.

    Args:
        description: what is going on.
        total: the number of steps.
        start: steps done before.
        unit: what is counted, shown after the numbers.
    """
    if not show or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(printable(description), total=total, completed=start)
        yield lambda: bar.advance(task)
