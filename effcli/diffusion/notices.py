"""What a user should know about how a model is read: on stderr once per process, in a run's log every time."""

from __future__ import annotations

import logging

from effcli.core.progress import NOTICE

log = logging.getLogger(__name__)
_said: set[str] = set()


def say_once(place: str, line: str) -> None:
    """Log ``PLACE: LINE`` as a notice; where that was said before, for the run's log alone."""
    text = f"{place}: {line}"
    log.log(logging.INFO if text in _said else NOTICE, "%s", text)
    _said.add(text)
