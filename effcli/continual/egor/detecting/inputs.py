"""What `effcli continual detect` looks at, and where what it writes goes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from effcli.core.errors import InputError, UsageError
from effcli.core.files import check_new_file, check_writable
from effcli.data.image_opening import Source
from effcli.data.moving_pictures import ENDINGS as FILM_ENDINGS
from effcli.data.moving_pictures import check_video
from effcli.data.picture_folders import pictures_in
from effcli.data.video.names import is_video_name

Format: TypeAlias = Literal["drawn", "coco", "yolo"]

PIPE = "-"
PICTURE_ENDINGS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
"""Of drawn pictures, and what Pillow calls them."""


@dataclass(frozen=True)
class DetectInput:
    """A picture or a video.

    Attributes:
        source: what is read: a file, or the content of one.
        name: as messages and results name it.
        inner: its path inside an output folder, with its extension.
    """

    source: Source
    name: str
    inner: Path

    @property
    def is_video(self) -> bool:
        """Whether its name is that of a video."""
        return isinstance(self.source, Path) and is_video_name(self.source)


def find_inputs(places: Sequence[str], pipe: bytes | None) -> list[DetectInput]:
    """The files among places, and the pictures in folders among them, at any depth, in order.

    Args:
        places: files, folders, or ``-``.
        pipe: what came through it, where ``-`` is among them.

    Raises:
        InputError: a place is not there, or a folder holds no images.
    """
    found: list[DetectInput] = []
    for place in places:
        path = Path(place)
        if place == PIPE:
            found.append(DetectInput(pipe or b"", "stdin", Path("stdin.png")))
        elif path.is_dir():
            found += [DetectInput(file, str(file), file.relative_to(path)) for file in pictures_in(path)]
        elif path.is_file():
            found.append(DetectInput(path, place, Path(path.name)))
        else:
            raise InputError("no such file or folder", place=place)
    return found


def check_outputs(
    inputs: Sequence[DetectInput], output: str | None, form: Format, *, force: bool
) -> list[Path | None]:
    """Make sure, before any work, that all can be written, each to its own file.

    Args:
        inputs: what is looked at.
        output: a folder, a file, ``-`` for stdout, or None.
        form: what is written.
        force: files that are there are overwritten.

    Returns:
        For each input the file that is written for it; None where there is none.

    Raises:
        UsageError: two would be the same file, one is there already or would be an input, or the output is not of a
            kind that the form can be written to.
    """
    if form != "drawn" and any(one.is_video for one in inputs):
        raise UsageError(f"{form} is for pictures, not for videos", place="--format")
    if form == "coco":
        _refuse_one_name(inputs)
    if output is None or (output == PIPE and form != "yolo"):
        return _without_files(inputs, output, form)
    if form == "yolo":
        if output == PIPE or Path(output).is_file() or Path(output).suffix == ".txt":
            raise UsageError("YOLO labels are a folder: name one", place=output)
        paths: list[Path | None] = _in_output(inputs, Path(output), "labels")
    elif form == "coco":
        check_new_file(coco_file(output), force=force)
        return [None] * len(inputs)
    elif Path(output).suffix and not Path(output).is_dir():
        paths = [_single(inputs, Path(output))]
    else:
        paths = _in_output(inputs, Path(output), "")
    _check_files(inputs, paths, force=force)
    return paths


def _refuse_one_name(inputs: Sequence[DetectInput]) -> None:
    """Refuse pictures that would have one name in COCO's file: readers take their boxes together."""
    names: dict[Path, str] = {}
    for one in inputs:
        if one.inner in names:
            raise UsageError(
                f"{names[one.inner]} and {one.name} would both be called {one.inner} in COCO's file",
                place="--format",
                hint="give the folder that holds both",
            )
        names[one.inner] = one.name


def coco_file(output: str) -> Path:
    """Where COCO's JSON goes: the file, or ``annotations.json`` in the folder."""
    path = Path(output)
    return path if path.suffix.lower() == ".json" and not path.is_dir() else path / "annotations.json"


def _without_files(inputs: Sequence[DetectInput], output: str | None, form: Format) -> list[Path | None]:
    if len(inputs) > 1 and (form == "yolo" or (output == PIPE and form == "drawn")):
        raise UsageError(f"{len(inputs)} inputs need a folder", place="--output", hint="-o DIR")
    if output == PIPE and form == "drawn" and inputs[0].is_video:
        raise UsageError("a video is not written to a pipe", place="--output", hint="-o FILE.mp4")
    return [None] * len(inputs)


def _single(inputs: Sequence[DetectInput], path: Path) -> Path:
    if len(inputs) > 1:
        raise UsageError(f"{len(inputs)} inputs need a folder, not a file", place=str(path))
    known = FILM_ENDINGS if inputs[0].is_video else tuple(PICTURE_ENDINGS)
    if path.suffix.lower() not in known:
        raise UsageError(
            f"unknown file extension {path.suffix!r}", place=str(path), hint=f"use {', '.join(known)}"
        )
    return path


def _in_output(inputs: Sequence[DetectInput], folder: Path, inside: str) -> list[Path | None]:
    """Files in a folder; pictures that would have the same name keep their extension in it."""
    endings = [".mp4" if one.is_video else ".txt" if inside else ".png" for one in inputs]
    plain = [one.inner.with_suffix(ending) for one, ending in zip(inputs, endings, strict=True)]
    n = Counter(plain)
    whole = [
        one.inner.with_name(one.inner.name + ending) for one, ending in zip(inputs, endings, strict=True)
    ]
    return [folder / inside / (a if n[a] == 1 else b) for a, b in zip(plain, whole, strict=True)]


def _check_files(inputs: Sequence[DetectInput], paths: Sequence[Path | None], *, force: bool) -> None:
    sources = {one.source.resolve() for one in inputs if isinstance(one.source, Path)}
    taken: dict[Path, str] = {}
    for one, path in zip(inputs, paths, strict=True):
        assert path is not None
        if path in taken:
            raise UsageError(f"{taken[path]} and {one.name} would have the same name", place=str(path))
        taken[path] = one.name
        if path.resolve() in sources:
            raise UsageError("is an input", place=str(path), hint="choose another folder")
        if path.exists() and not force:
            raise UsageError("already exists", place=str(path), hint="--force overwrites it")
        if one.is_video:
            check_video(path)
    for folder in {path.parent for path in taken}:
        check_writable(folder)
