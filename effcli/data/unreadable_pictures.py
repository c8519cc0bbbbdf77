"""Pictures of a set that cannot be read: found before work begins, left out where that does no harm, and said."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from effcli.core.errors import InputError
from effcli.data.image_opening import Source
from effcli.data.images import check_picture

log = logging.getLogger(__name__)

MOST_UNREADABLE = 0.01
"""The largest share of pictures to learn from that is left out; one picture always may be."""

MOST_CHECKED = 20_000
"""The largest set whose files are all opened before work begins, which takes some seconds."""

_MOST_NAMED = 3


def find_unreadable(files: Sequence[Source]) -> dict[int, InputError]:
    """What is wrong with which of the files; nothing for a set that is too large to open every file."""
    errors = {}
    for number, file in enumerate(files if len(files) <= MOST_CHECKED else ()):
        try:
            check_picture(file)
        except InputError as error:
            errors[number] = error
    return errors


def allow_unreadable(errors: Sequence[InputError], n: int, place: str, *, decides: bool) -> None:
    """Say which pictures are left out, or refuse a set of which too many would be.

    Args:
        errors: one for each that cannot be read.
        n: of all pictures.
        place: the set.
        decides: the pictures decide a result, so that none may be left out.

    Raises:
        InputError: one decides a result, or more than :data:`MOST_UNREADABLE` cannot be read.
    """
    if not errors:
        return
    n_bad, first = len(errors), errors[0]
    if n_bad == 1 and (decides or n == 1):
        raise first
    if decides or n_bad > max(1, MOST_UNREADABLE * n) or n_bad == n:
        raise InputError(
            f"{n_bad} of {n} pictures cannot be read, the first: {first}",
            place=place,
            hint=first.hint or "remove them, or replace them by whole ones",
        )
    for error in errors[:_MOST_NAMED]:
        log.warning("left out: %s", error)
    if n_bad > _MOST_NAMED:
        log.warning("left out: %d more pictures that cannot be read", n_bad - _MOST_NAMED)
