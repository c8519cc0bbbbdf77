"""Frames by the numbers of their names: ``49-127``, ``49-80,90-127`` or, of several sequences, ``0000:49-127``."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

_RANGE = re.compile(r"(?:(?P<sequence>[^:,\s]+):)?(?P<first>\d{1,18})(?:-(?P<last>\d{1,18}))?$")


@dataclass(frozen=True)
class FrameRange:
    """Frames in a row.

    Attributes:
        first, last: numbers, both included.
        sequence: whose frames they are; None: of the only one there is.
    """

    first: int
    last: int
    sequence: str | None = None

    def __str__(self) -> str:
        name = "" if self.sequence is None else f"{self.sequence}:"
        return f"{name}{self.first}-{self.last}"

    def overlaps(self, other: FrameRange) -> bool:
        """Whether both have a frame in common."""
        return self.sequence == other.sequence and self.first <= other.last and other.first <= self.last


def parse_frames(text: str) -> tuple[FrameRange, ...]:
    """The ranges of a list with commas.

    Raises:
        ValueError: it is not such a list, a range is empty, two overlap, or only some name their sequence.
    """
    found = tuple(_parse_range(part.strip()) for part in text.split(","))
    if len({one.sequence is None for one in found}) > 1:
        raise ValueError(f"name the sequence of every range, or of none: {text!r}")
    for one, other in itertools.combinations(found, 2):
        if one.overlaps(other):
            raise ValueError(f"{one} and {other} overlap")
    return found


def _parse_range(text: str) -> FrameRange:
    match = _RANGE.match(text)
    if match is None:
        raise ValueError(f"expected FROM-TO or SEQUENCE:FROM-TO, such as 49-127 or 0000:49-127, not {text!r}")
    first = int(match["first"])
    found = FrameRange(first, first if match["last"] is None else int(match["last"]), match["sequence"])
    if found.last < found.first:
        raise ValueError(f"{text} is empty: it ends before it begins")
    return found
