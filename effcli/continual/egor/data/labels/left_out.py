"""Sentences about files that are of a set and are not read, or are read more than once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from effcli.core.text import counted
from effcli.data.picture_folders import part_of


def named(names: Sequence[str], thing: str, things: str, what: str) -> list[str]:
    """``2 pictures without labels, left out: the first is a.jpg``; empty where there are none."""
    if not names:
        return []
    first = names[0] if len(names) == 1 else f"the first is {names[0]}"
    return [f"{counted(len(names), thing, things)} {what}: {first}"]


def shared_with_others(parts: Mapping[str, Sequence[str]], part: str) -> list[str]:
    """Where a part that is measured on has images that are learned from: how many.

    Args:
        parts: part -> its images, by their paths or those of their labels.
        part: the one that is read.
    """
    own = set(parts[part])
    return [
        f"{n} of {counted(len(own), 'image')} in {other}, too: results on them are not results on new images"
        for other, names in parts.items()
        if part_of(other) == "train" and part_of(part) != "train" and (n := len(own & set(names)))
    ]
