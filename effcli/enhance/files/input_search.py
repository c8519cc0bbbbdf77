"""The pictures below a folder that are to be enhanced, in natural order, without what earlier runs made."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path, PurePath

from effcli.core.errors import InputError, UsageError
from effcli.data.picture_folders import is_hidden, is_picture_name, list_pictures
from effcli.enhance.files.jobs import Failure
from effcli.enhance.files.remote import Location, RemotePath, list_files


def images_in(
    folder: Location, output: Location, suffix: str, failures: list[Failure], left_out: Counter[str]
) -> list[tuple[Location, PurePath]]:
    """The images below a folder, each with its path inside it, in natural order, without those that are outputs."""
    if isinstance(folder, RemotePath):
        remote = _remote_images(folder, output, suffix, failures, left_out)
        return [(file, file.relative_to(folder)) for file in remote]
    local = _local_images(folder, output, suffix, failures, left_out)
    return [(file, file.relative_to(folder)) for file in local]


def _remote_images(
    folder: RemotePath, output: Location, suffix: str, failures: list[Failure], left_out: Counter[str]
) -> list[RemotePath]:
    if str(folder) == str(output):
        hint = "name another folder with -o"
        raise UsageError("the folder would be its own output", place=str(folder), hint=hint)
    images = []
    for file in list_files(folder):
        name = file.relative_to(folder)
        if str(file).startswith(f"{output}/"):
            continue
        if ".." in name.parts:
            failures.append(Failure(file, InputError("has .. in its name", place=str(file))))
        elif is_picture_name(str(name)):
            images.append(file)
        elif not any(map(is_hidden, name.parts)):
            left_out[file.suffix.lower() or "without an extension"] += 1
    originals = {(file.parent, name) for file in images for name in (file.stem, file.name)}
    own = [
        file
        for file in images
        if not (file.stem.endswith(suffix) and (file.parent, file.stem.removesuffix(suffix)) in originals)
        or not suffix
    ]
    return sorted(own, key=lambda file: _walking_order(file.relative_to(folder)))


def _local_images(
    folder: Path, output: Location, suffix: str, failures: list[Failure], left_out: Counter[str]
) -> list[Path]:
    own_output = "" if isinstance(output, RemotePath) else os.path.realpath(output)
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
    return bool(folder) and Path(os.path.realpath(file.parent)).is_relative_to(folder)


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


def _walking_order(path: PurePath) -> list[tuple[int, tuple[list[tuple[str, int]], str]]]:
    """Sort key of a path inside a folder: its files, then its sub-folders, each in natural order."""
    *folders, name = path.parts
    return [*((1, natural(one)) for one in folders), (0, natural(name))]


def natural(name: str) -> tuple[list[tuple[str, int]], str]:
    """Sort key that puts ``2.png`` before ``10.png``."""
    parts = re.findall(r"(\D*)(\d*)", name)
    return [(text.casefold(), int(digits or 0)) for text, digits in parts], name
