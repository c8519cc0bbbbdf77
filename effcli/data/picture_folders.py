"""Folders of pictures: which files count, which parts and classes their sub-folders are, and what is left out.

Hidden and system files never count, links are followed. What else is not a picture is counted by extension and said
once, so that nothing is missing without a word.
"""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Literal, TypeAlias

from effcli.core.errors import InputError
from effcli.core.text import counted
from effcli.data.camera_raw import ENDINGS as RAW_ENDINGS
from effcli.data.camera_raw import INSTALL, can_develop
from effcli.data.image_opening import register_heif
from effcli.data.stored_files import Split

log = logging.getLogger(__name__)

Part: TypeAlias = Literal["train", "val", "test"]

PART_NAMES: dict[Part, tuple[str, ...]] = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("eval", "evaluation", "test", "testing"),
}
"""What the parts of a set are called, in any case."""

_PREFERRED: dict[Split, tuple[str, ...]] = {
    "train": PART_NAMES["train"],
    "eval": ("eval", "evaluation", *PART_NAMES["val"], "test", "testing"),
}
_PICTURE_ENDINGS = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif"}
    | {".ppm", ".pgm", ".pbm", ".pnm"}
)
_HEIC_ENDINGS = frozenset({".heic", ".heif", ".hif"})
_SYSTEM_NAMES = frozenset(
    {
        "__macosx",
        "@eadir",
        "$recycle.bin",
        "system volume information",
        "thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
    }
)
_NO_ENDING = "without an extension"
_MEASURING = {"train": "to learn from", "eval": "to measure on"}


@dataclass(frozen=True)
class FoundPictures:
    """The pictures below a folder.

    Attributes:
        folder: where they were looked for.
        files: in the order of their paths.
        left_out: how many other files there are, by extension; hidden and system files are not counted.
        unreadable: folders that may not be searched.
    """

    folder: Path
    files: tuple[Path, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)
    unreadable: tuple[InputError, ...] = ()


@dataclass(frozen=True)
class ClassFolders:
    """The pictures of one part of a folder.

    Attributes:
        folder: the part's own folder.
        files: in the order of their paths.
        labels: the class of each; empty where there are no classes.
        classes: names of the sub-folders that hold pictures, in order; empty where there are none.
    """

    folder: Path
    files: tuple[Path, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]


def is_hidden(name: str) -> bool:
    """Whether this is the name of a hidden or system file or folder: ``._x.jpg``, ``__MACOSX``, ``Thumbs.db``."""
    return name.startswith(".") or name.lower() in _SYSTEM_NAMES


def is_picture_name(path: str) -> bool:
    """Whether a file with this path inside a folder or tar is taken for a picture."""
    parts = [part for part in PurePosixPath(path).parts if part not in (".", "..", "/")]
    return not any(map(is_hidden, parts)) and _ending(path) in _readable_endings()


def part_of(name: str) -> Part | None:
    """The part that a folder of this name is: ``Training`` is ``train``."""
    return next((part for part, names in PART_NAMES.items() if name.lower() in names), None)


def part_in(name: str) -> Part | None:
    """The part that occurs in a name as a word: ``instances_val2017`` is of ``val``."""
    return next((part for word in re.findall(r"[a-z]+", name.lower()) if (part := part_of(word))), None)


def by_preference(names: Iterable[str], split: Split, place: str | Path = "") -> list[str]:
    """Of names of parts those that can stand for a split, the one to use first; with ``place`` the rest is said."""
    order = _PREFERRED[split]
    found = sorted(
        (name for name in names if name.lower() in order), key=lambda n: (order.index(n.lower()), n)
    )
    if place and len(found) > 1:
        rest = " and ".join(f"{name}/" for name in found[1:])
        say_once(f"{place}: {found[0]}/ is used {_MEASURING[split]}, not {rest}")
    return found


def list_pictures(folder: Path, *, recursive: bool = True) -> FoundPictures:
    """Find the pictures in a folder and, unless told otherwise, below it.

    Links to files and folders are followed, but not back into a folder that is being searched; one that leads nowhere
    is listed, so that reading it fails by name.

    Raises:
        InputError: the folder itself may not be searched, or is not there.
    """
    found: list[Path] = []
    left_out: Counter[str] = Counter()
    unreadable: list[InputError] = []
    waiting = [(folder, frozenset[tuple[int, int]]())]
    while waiting:
        place, above = waiting.pop()
        try:
            with os.scandir(place) as entries:
                visible = [entry for entry in entries if not is_hidden(entry.name)]
            status = place.stat()
        except OSError as error:
            unreadable.append(InputError(f"cannot be searched: {error.strerror}", place=str(place)))
            continue
        chain = above | {(status.st_dev, status.st_ino)}
        for entry in visible:
            if not _is_folder(entry):
                kind = _kind(entry)
                found += [place / entry.name] if kind is None else []
                left_out.update([] if kind is None else [kind])
            elif not recursive:
                left_out["sub-folders"] += 1
            elif not (entry.is_symlink() and _identity(entry) in chain):
                waiting.append((place / entry.name, chain))
    if len(unreadable) == 1 and unreadable[0].place == str(folder):
        raise unreadable[0]
    return FoundPictures(folder, tuple(sorted(found)), dict(left_out), tuple(unreadable))


def left_out_text(left_out: Mapping[str, int]) -> str:
    """``3 .heic (pip install 'effcli[heic]'), 1 .txt``; empty where nothing is left out."""
    hint = dict.fromkeys(_HEIC_ENDINGS, " (pip install 'effcli[heic]')") | dict.fromkeys(
        RAW_ENDINGS, f" ({INSTALL})"
    )
    ordered = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{n} {ending}{hint.get(ending, '')}" for ending, n in ordered if n)


def say_left_out(found: FoundPictures, *, used: Collection[str] = ()) -> None:
    """Say once which files of a folder are left out.

    Args:
        found: the listing.
        used: extensions of files that are read for something else, such as captions.

    Raises:
        InputError: a folder may not be searched.
    """
    if found.unreadable:
        raise found.unreadable[0]
    if text := left_out_text({ending: n for ending, n in found.left_out.items() if ending not in used}):
        say_once(f"{found.folder}: left out: {text}")


def pictures_in(folder: Path) -> list[Path]:
    """The pictures in a folder, at any depth, in order; what is left out is said.

    Raises:
        InputError: there is none, or a folder may not be searched.
    """
    found = list_pictures(folder)
    if not found.files:
        text = left_out_text(found.left_out)
        raise InputError("no images in it" + (f" (left out: {text})" if text else ""), place=str(folder))
    say_left_out(found)
    return list(found.files)


@cache
def say_once(text: str) -> None:
    """Log a warning the first time that it is given."""
    log.warning("%s", text)


def part_folders(folder: Path, split: Split, *, say: bool = False) -> list[Path]:
    """The sub-folders that can be a split, the one to use first; none in a folder without parts.

    Raises:
        InputError: a single sub-folder has the name of a part, and may as well be one class among others.
    """
    inside = _sub_folders(folder)
    parts = [one for one in inside if part_of(one.name)]
    others = [one for one in inside if not part_of(one.name)]
    if len(parts) == 1 and not _sub_folders(parts[0]) and any(map(_holds_pictures, others)):
        raise InputError(
            f"{parts[0].name}/ may be a part of the set or a class beside {others[0].name}/",
            place=str(folder),
            hint=f"give {parts[0]} to use it alone; if it is a class, rename it",
        )
    names = by_preference([one.name for one in parts], split, folder if say else "")
    return [folder / name for name in names]


def has_part(folder: Path, split: Split) -> bool:
    """Whether a folder has a sub-folder for a split."""
    return bool(part_folders(folder, split))


def part_folder(folder: Path, split: Split) -> Path:
    """The folder of a split: a sub-folder with its name, or the folder itself where it has no parts.

    What lies beside the parts is said to be left out.

    Raises:
        InputError: there are parts, but not this one.
    """
    found = part_folders(folder, split, say=True)
    parts = [one.name for one in _sub_folders(folder) if part_of(one.name)]
    if not parts:
        return folder
    if not found:
        raise InputError(
            f"has {' and '.join(f'{name}/' for name in parts)}, but no part {_MEASURING[split]}",
            place=str(folder),
            hint=f"name it one of {', '.join(_PREFERRED[split])}, or give the folder of a part itself",
        )
    beside = [
        f"{one.name}/" for one in _sub_folders(folder) if not part_of(one.name) and _holds_pictures(one)
    ]
    n_stray = len(list_pictures(folder, recursive=False).files)
    if beside or n_stray:
        beside += [counted(n_stray, "picture")] if n_stray else []
        say_once(f"{folder}: left out, as it lies beside the parts: {', '.join(beside)}")
    return found[0]


def class_folders(folder: Path, split: Split, *, used: Collection[str] = ()) -> ClassFolders:
    """The pictures of a part of a folder, with the sub-folders of that part as classes.

    Pictures beside class folders, class folders without pictures and files that are not pictures are left out, which
    is said.

    Args:
        folder: with class folders, with parts that have them, or with pictures alone.
        split: which part; a folder without parts is used whole.
        used: extensions of files that are read for something else.

    Raises:
        InputError: no pictures, no such part, or more pictures beside the class folders than in them.
    """
    top = part_folder(folder, split)
    found = list_pictures(top)
    if not found.files:
        text = left_out_text(found.left_out)
        raise InputError(
            "no images in it" + (f" (left out: {text})" if text else ""),
            place=str(top),
            hint="give a folder of pictures, with one sub-folder per class where there are classes",
        )
    say_left_out(found, used=used)
    inside = [file for file in found.files if file.parent != top]
    if not inside:
        return ClassFolders(top, found.files, (), ())
    n_stray = len(found.files) - len(inside)
    names = [file.relative_to(top).parts[0] for file in inside]
    classes = tuple(sorted(set(names)))
    if n_stray > len(inside):
        raise InputError(
            f"{counted(n_stray, 'picture')} lie beside class folders that hold {counted(len(inside), 'picture')}",
            place=str(top),
            hint="sub-folders are classes: move the pictures into them, or the sub-folders away",
        )
    if n_stray:
        say_once(f"{top}: left out: {counted(n_stray, 'picture')} beside the class folders")
    if empty := [one.name for one in _sub_folders(top) if one.name not in classes]:
        say_once(f"{top}: left out: class folders without pictures: {_some(empty)}")
    paths = [file.relative_to(top).parts for file in inside]
    _refuse_parts(top, classes, all(len(path) > 2 for path in paths))
    if deeper := sorted({f"{path[0]}/{path[1]}" for path in paths if len(path) > 2}):
        say_once(f"{top}: pictures in sub-folders of a class folder count for that class: {_some(deeper)}")
    number = {name: place for place, name in enumerate(classes)}
    return ClassFolders(top, tuple(inside), tuple(number[name] for name in names), classes)


def _refuse_parts(folder: Path, classes: Sequence[str], have_folders: bool) -> None:
    """Refuse classes that look like parts: several have their names inside, and there is no other or all have folders.

    Raises:
        InputError: ``train_set`` and ``test_set``, for example.
    """
    alike = [name for name in classes if part_in(name)]
    if len({part_in(name) for name in alike}) > 1 and (have_folders or len(alike) == len(classes)):
        names = ", ".join(f"{name}/ to {part_in(name)}/" for name in alike[:3])
        raise InputError(
            f"{_some([f'{name}/' for name in alike])} look like parts of the set, not like classes",
            place=str(folder),
            hint=f"rename {names}, or, if they are classes, give them other names",
        )


def need_classes(found: ClassFolders) -> ClassFolders:
    """What was found, if it has classes.

    Raises:
        InputError: pictures lie in the folder itself.
    """
    if not found.classes:
        raise InputError(
            "has no classes: its pictures lie in it directly",
            place=str(found.folder),
            hint=f"give a folder with one sub-folder per class; for the one class "
            f"{found.folder.resolve().name!r} the folder above it, {found.folder.resolve().parent}",
        )
    return found


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _ending(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


@cache
def _readable_endings() -> frozenset[str]:
    more = (_HEIC_ENDINGS if register_heif() else frozenset()) | (
        RAW_ENDINGS if can_develop() else frozenset()
    )
    return _PICTURE_ENDINGS | more


def _kind(entry: os.DirEntry[str]) -> str | None:
    """None for a picture, else how it is counted among what is left out."""
    if _ending(entry.name) not in _readable_endings():
        return _ending(entry.name) or _NO_ENDING
    try:
        is_usable = entry.is_file() or entry.is_symlink()  # a link to nothing fails later, by name
    except OSError:
        is_usable = True
    return None if is_usable else "pipes or devices"


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _identity(entry: os.DirEntry[str]) -> tuple[int, int]:
    status = entry.stat()
    return status.st_dev, status.st_ino


def _sub_folders(folder: Path) -> list[Path]:
    try:
        return sorted(one for one in folder.iterdir() if not is_hidden(one.name) and one.is_dir())
    except OSError as error:
        raise InputError(f"cannot be searched: {error.strerror}", place=str(folder)) from None


def _holds_pictures(folder: Path) -> bool:
    return any(True for _ in _pictures_below(folder))


def _pictures_below(folder: Path) -> Iterator[str]:
    for _, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not is_hidden(name)]
        yield from (name for name in names if is_picture_name(name))
