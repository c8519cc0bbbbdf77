"""Text on its way to a terminal or a picture: that of others (names of files and classes, captions), and counts."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence

_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Control characters, those that turn the direction of text, halves of pairs, and separators of lines."""

_MOST_LOOKED_AT = 2000

_JOINER = "\u200d"
"""Part of many emoji, and harmless."""


def counted(n: int, thing: str, things: str | None = None) -> str:
    """``1 picture``, ``2 pictures``; ``things`` is the plural where that is not ``thing`` with an s."""
    return f"{n} {thing}" if n == 1 else f"{n} {things or thing + 's'}"


def cut_texts(
    texts: Sequence[str], most: int, n_cut: Callable[[list[str]], int], thing: str, reader: str
) -> str | None:
    """A sentence about texts of which something does not read the end; None where it reads all.

    Only texts with more characters than fit as tokens are counted, of many of them 2,000, evenly.

    Args:
        texts: all of them.
        most: tokens that are read, with two marks.
        n_cut: how many of some texts are cut.
        thing: what a text is, such as a caption.
        reader: what reads them.
    """
    longer = [text for text in texts if len(text) > most - 2]
    some = longer[:: max(1, len(longer) // _MOST_LOOKED_AT)]
    n = n_cut(some) if some else 0
    if not n:
        return None
    of = "" if len(some) == len(longer) else f" of {len(some)} that were looked at"
    return (
        f"{counted(n, thing)}{of}: longer than the {most} tokens of {reader}; what is behind them is left out"
    )


def printable(text: str) -> str:
    """``text`` with what a terminal would obey instead of showing written out: ``\\x1b``, ``\\n``, ``\\udce4``."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_written_out(letter) for letter in text)


def _written_out(letter: str) -> str:
    if letter == _JOINER or unicodedata.category(letter) not in _HIDDEN:
        return letter
    return letter.encode("unicode_escape", "surrogatepass").decode("ascii")
