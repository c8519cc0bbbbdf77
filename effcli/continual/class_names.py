"""Names of classes that are easily taken for each other: the same text in two Unicode forms, or in another case."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

import torch

from effcli.data.image_sets import ImageSet
from effcli.data.picture_folders import say_once

_GAP = re.compile(r"(?<=\w)[\s_-]+(?=\w)")
_ZEROS = re.compile(r"(?<!\d)0+(?=\d)")
_MOST_NAMED = 5


def spelled_as(images: ImageSet, known: Sequence[str] = ()) -> ImageSet:
    """The same images, with each name spelled as the first one that is the same text in Unicode.

    Systems write ``é`` as one character or as an e with an accent; names that look the same are one class.

    Args:
        images: a set; two of its own classes may have the same name, and become one.
        known: spellings that go before its own.
    """
    spelling: dict[str, str] = {}
    for name in (*known, *images.classes):
        spelling.setdefault(unicodedata.normalize("NFC", name), name)
    names = [spelling[unicodedata.normalize("NFC", name)] for name in images.classes]
    if tuple(names) == images.classes:
        return images
    classes = tuple(dict.fromkeys(names))
    numbers = torch.tensor([classes.index(name) for name in names])
    return ImageSet(images.images, numbers[images.labels], classes)


def say_alike(names: Iterable[str], known: Iterable[str], place: str) -> None:
    """Warn of names that differ from another one only in case, spaces, hyphens, underscores or leading zeros.

    Args:
        names: of the classes of a set.
        known: of classes that were learned before.
        place: the set.
    """
    first: dict[str, str] = {}
    for name in known:
        first.setdefault(outline_of(name), name)
    pairs = [(other, name) for name in names if (other := first.setdefault(outline_of(name), name)) != name]
    if pairs:
        named = ", ".join(f"{other!r} and {name!r}" for other, name in pairs[:_MOST_NAMED])
        more = f" and {len(pairs) - _MOST_NAMED} more" if len(pairs) > _MOST_NAMED else ""
        say_once(
            f"{place}: counted as different classes, although the names differ only in case, separators or "
            f"leading zeros: {named}{more}"
        )


def outline_of(name: str) -> str:
    """What is left of a name without case, the kind of its separators and leading zeros."""
    text = _GAP.sub(" ", unicodedata.normalize("NFKC", name)).strip().casefold()
    return _ZEROS.sub("", text)
