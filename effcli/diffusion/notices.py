"""What a user should know about how a model is read: on stderr once per process, in a run's log every time."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

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
    """Without the library's progress bars and warnings, nor those of transformers: what they say is checked here."""
    from diffusers.utils import logging as library

    libraries = [library]
    if find_spec("transformers") is not None:
        from transformers.utils import logging as of_texts

        libraries.append(of_texts)
    before = [(one, one.get_verbosity(), one.is_progress_bar_enabled()) for one in libraries]
    for one in libraries:
        one.set_verbosity_error()
        one.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        for one, level, bars in before:
            one.set_verbosity(level)
            if bars:
                one.enable_progress_bar()
