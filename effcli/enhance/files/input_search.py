"""The pictures below a folder that are to be enhanced, in natural order, without what earlier runs made."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

from effcli.core.errors import InputError, UsageError
from effcli.data.picture_folders import list_pictures
from effcli.enhance.files.jobs import Failure


def images_in(
    folder: Path, output: Path, suffix: str, failures: list[Failure], left_out: Counter[str]
) -> list[Path]:
    """The images below a folder, in natural order, without those that are outputs."""
    own_output = os.path.realpath(output)
    if os.path.realpath(folder) == own_output:
        hint = "name another folder with -o"
        raise UsageError("the folder would be its own output", place=str(folder), hint=hint)
    try:
        found = list_pictures(folder)
    except InputError as error:
        failures.append(Failure(folder, error))
        return []
    failures += [Failure(Path(error.place or folder), error) for error in found.unreadable]
    left_out.update(found.left_out)
    files = [file for file in found.files if not _is_below(file, own_output)]
    originals = {file.parent: set[str]() for file in files}
    for file in files:
        originals[file.parent] |= {file.stem, file.name}
    own = [file for file in files if not _is_made(file, folder, suffix, originals[file.parent])]
    return sorted(own, key=lambda file: _walking_order(file.relative_to(folder)))


def _is_below(file: Path, folder: str) -> bool:
    """Whether a file is in a folder, given by its real path, or below it."""
    return Path(os.path.realpath(file.parent)).is_relative_to(folder)


def _is_made(file: Path, folder: Path, suffix: str, originals: set[str]) -> bool:
    """Whether the name of a file, or of a folder that it is in, is that of an output beside its original."""
    if not suffix:
        return False
    if file.stem.endswith(suffix) and file.stem.removesuffix(suffix) in originals:
        return True
    above = file.parents[: len(file.relative_to(folder).parts) - 1]
    return any(
        one.name.endswith(suffix) and one.with_name(one.name.removesuffix(suffix)).is_dir()
        for one in above
        if one.name != suffix
    )


def _walking_order(path: Path) -> list[tuple[int, tuple[list[tuple[str, int]], str]]]:
    """Sort key of a path inside a folder: its files, then its sub-folders, each in natural order."""
    *folders, name = path.parts
    return [*((1, natural(one)) for one in folders), (0, natural(name))]


def natural(name: str) -> tuple[list[tuple[str, int]], str]:
    """Sort key that puts ``2.png`` before ``10.png``."""
    parts = re.findall(r"(\D*)(\d*)", name)
    return [(text.casefold(), int(digits or 0)) for text, digits in parts], name
