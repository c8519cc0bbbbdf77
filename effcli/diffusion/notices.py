"""What a user should know about how a model is read: on stderr once per process, in a run's log every time."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from effcli.core.progress import NOTICE

log = logging.getLogger(__name__)
_said: set[str] = set()


def say_once(place: str, line: str) -> None:
    """Log ``PLACE: LINE`` as a notice; where that was said before, for the run's log alone."""
    text = f"{place}: {line}"
    log.log(logging.INFO if text in _said else NOTICE, "%s", text)
    _said.add(text)


@contextmanager
def quiet_diffusers() -> Iterator[None]:
    """Without the library's progress bars and warnings: what they say is checked here."""
    from diffusers.utils import logging as library

    level, bars = library.get_verbosity(), library.is_progress_bar_enabled()
    library.set_verbosity_error()
    library.disable_progress_bar()
    try:
        yield
    finally:
        library.set_verbosity(level)
        if bars:
            library.enable_progress_bar()
