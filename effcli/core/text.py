"""Text on its way to a terminal or a picture: that of others (names of files and classes, captions), and counts."""

from __future__ import annotations

import unicodedata

_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Control characters, those that turn the direction of text, halves of pairs, and separators of lines."""

_JOINER = "\u200d"
"""Part of many emoji, and harmless."""


def counted(n: int, thing: str, things: str | None = None) -> str:
    """``1 picture``, ``2 pictures``; ``things`` is the plural where that is not ``thing`` with an s."""
    return f"{n} {thing}" if n == 1 else f"{n} {things or thing + 's'}"


def printable(text: str) -> str:
    """``text`` with what a terminal would obey instead of showing written out: ``\\x1b``, ``\\n``, ``\\udce4``."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_written_out(letter) for letter in text)


def _written_out(letter: str) -> str:
    if letter == _JOINER or unicodedata.category(letter) not in _HIDDEN:
        return letter
    return letter.encode("unicode_escape", "surrogatepass").decode("ascii")
