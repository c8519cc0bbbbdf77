"""What outputs are called: by their inputs, by ``--format``, and apart from each other."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import TypeAlias

from effcli.core.errors import InputError, UsageError
from effcli.enhance.files.jobs import Failure
from effcli.enhance.files.picture_files import FORMATS, format_of
from effcli.enhance.files.remote import Location, RemotePath, kind_of, location

Pair: TypeAlias = tuple[Location, Location]
"""A source and its destination."""


def is_folder(path: Location) -> bool:
    """Whether a folder is there; False, too, for a name too long to exist."""
    try:
        return kind_of(path) == "directory" if isinstance(path, RemotePath) else path.is_dir()
    except OSError:
        return False


def output_name(source: Location, suffix: str, format: str | None) -> str:
    """Name of an output, with the extension of the source where that says the format to write."""
    own = format_of(source)
    if own is not None and format in (None, own):
        return source.stem + suffix + source.suffix
    extension = next(key for key, value in FORMATS.items() if value == (format or "PNG"))
    return (source.name if own is None else source.stem) + suffix + extension


def names_folder(output: str) -> bool:
    """Whether an ``output`` for one file is a folder."""
    return output.endswith(("/", os.sep)) or is_folder(location(output))


def checked_suffix(output: str, format: str | None) -> Location:
    """The output file, when its suffix says a format that can be written, and no other than ``format``."""
    path = location(output)
    written = format_of(path)
    if written is None:
        hint = f"supported: {' '.join(FORMATS)}; a folder ends in /"
        raise UsageError(f"suffix {path.suffix!r} is not an image format", place=output, hint=hint)
    if format not in (None, written):
        raise UsageError(f"the name says {written}, but --format says {format}", place=output)
    return path


def with_own_outputs(
    pairs: list[Pair],
) -> tuple[list[Pair], list[Failure]]:
    """Give inputs that would become one file their whole names: a.jpg becomes a.jpg.png where there is an a.webp.

    One that keeps its name anyway (a.png) keeps it. Of an input that was named twice the first counts. Inputs that
    still share an output, as they have one name, fail.
    """
    once = list({(_real(source), _place(to)): (source, to) for source, to in reversed(pairs)}.values())
    count = Counter(_place(destination) for _, destination in once)
    named: list[Pair] = []
    for source, destination in reversed(once):
        if count[_place(destination)] > 1 and source.name != destination.name:
            added = destination.stem.removeprefix(source.stem)
            destination = destination.with_name(source.name + added + destination.suffix)
        named.append((source, destination))
    owners: dict[str, list[Pair]] = {}
    for source, destination in named:
        owners.setdefault(_place(destination), []).append((source, destination))
    alone = [pair for pair in named if len(owners[_place(pair[1])]) == 1]
    return alone, [
        _shared(source, sharing) for sharing in owners.values() if len(sharing) > 1 for source, _ in sharing
    ]


def _shared(source: Location, sharing: list[Pair]) -> Failure:
    """Why one of several inputs with one output is not done."""
    others = " and ".join(str(other) for other, _ in sharing if other != source)
    message = f"would become {sharing[0][1]}, as {others} would"
    hint = "use another output folder, or run them separately"
    return Failure(source, InputError(message, place=str(source), hint=hint))


def _real(source: Location) -> str:
    return str(source) if isinstance(source, RemotePath) else os.path.realpath(source)


def _place(destination: Location) -> str:
    """Where an output would be, through links, in the case that the system takes for one."""
    if isinstance(destination, RemotePath):
        return str(destination)
    return os.path.normcase(Path(os.path.realpath(destination.parent), destination.name))
