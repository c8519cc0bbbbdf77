"""Text files with captions: their encoding, and which column or key is which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from effcli.core.errors import InputError

IMAGE_COLUMNS = ("filepath", "image", "file_name", "filename", "path", "file", "image_path")
CAPTION_COLUMNS = ("title", "caption", "text", "captions")
IMAGE_KEY, CAPTION_KEY = "data.image_column", "data.caption_column"
DOWNLOAD_HINT = "download them first, for example with img2dataset, and give its folder"


def choose_column(
    place: str, names: Sequence[str], asked: str | None, usual: tuple[str, ...], key: str
) -> str:
    """Which of the names of a table's columns, or of an object's keys, holds images or captions.

    Args:
        place: the file, for messages.
        names: all of them.
        asked: the one that the recipe names.
        usual: those that are looked for where it names none, the best first; case does not matter.
        key: the recipe's key.

    Raises:
        InputError: there is none, or it is there twice.
    """
    what = "images" if key == IMAGE_KEY else "captions"
    lowered = {name.strip().lower(): name for name in names if name}
    found = asked if asked in names else next((lowered[name] for name in usual if name in lowered), None)
    if asked is not None and asked not in names:
        raise InputError(f"has no column {asked!r}", place=place, hint=f"it has {', '.join(names) or 'none'}")
    if found is None:
        raise InputError(
            f"has no column of {what}: {', '.join(names)[:200] or 'it is empty'}",
            place=place,
            hint=f"URLs are not followed: {DOWNLOAD_HINT}"
            if key == IMAGE_KEY and lowered.keys() & {"url", "image_url"}
            else f"name it {usual[0]!r}, or say which it is: -s {key}=NAME",
        )
    if list(names).count(found) > 1:
        raise InputError(f"has {found!r} twice", place=place, hint=f"-s {key}=NAME names another column")
    return found


def captions_of(value: Any) -> list[str] | None:
    """The captions in a value of JSON: a text, a list of them, or an object with one; None where it is another."""
    if isinstance(value, Mapping):
        key = next((name for name in (*CAPTION_COLUMNS, "raw") if name in value), None)
        return None if key is None else captions_of(value[key])
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        parts = [captions_of(one) for one in value]
        return (
            [text for part in parts if part for text in part] if all(p is not None for p in parts) else None
        )
    return None
