"""Where low/normal-light pairs come from: images in folders and tars, found, matched by name and decoded."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, TypeAlias

import numpy as np
import torch
from PIL import Image, ImageOps

from effcli.core.errors import InputError

Split: TypeAlias = Literal["train", "eval"]

SPLITS: tuple[Split, Split] = ("train", "eval")
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm"})

_LAYOUT_HINT = (
    "give a folder or an uncompressed tar with low/ and high/, or train/ and eval/ with both in each"
)


@dataclass(frozen=True)
class ImageFile:
    """One encoded image: a file, or a member of an uncompressed tar given by its place in it."""

    path: Path
    member: str | None = None
    offset_bytes: int = 0
    size_bytes: int = 0

    @property
    def place(self) -> str:
        """The file, and the member inside it, as named in messages."""
        return str(self.path) if self.member is None else f"{self.path}:{self.member}"


@dataclass(frozen=True)
class MatchedFiles:
    """What a source holds: (low, high) files by the name of the pair, and files left without a partner."""

    pairs: Mapping[str, tuple[ImageFile, ImageFile]]
    unmatched: tuple[ImageFile, ...]


def find_pairs(source: Path, split: Split | None) -> MatchedFiles:
    """The pairs of a folder or tar, sorted by name.

    Args:
        source: a folder, or an uncompressed tar, which is read in place.
        split: which half of a source with ``train/`` and ``eval/``; one with ``low/`` and ``high/`` at its
            top is used whole.

    Raises:
        InputError: nothing is there, no such split, no images in ``low/`` or ``high/``, or no common names.
    """
    index = index_images(source)
    if not index:
        raise InputError("no images in low/ and high/", place=str(source), hint=_LAYOUT_HINT)
    tops = top_folders(index)
    if split not in tops and not tops & {"low", "high"}:
        message = f"no {split or 'low'}/ at the top, only {' and '.join(f'{top}/' for top in sorted(tops))}"
        raise InputError(message, place=str(source), hint=_LAYOUT_HINT)
    prefix = f"{split}/" if split in tops else ""
    low, high = (_below(index, f"{prefix}{side}/") for side in ("low", "high"))
    for side, files in (("low", low), ("high", high)):
        if not files:
            raise InputError(f"no images in {prefix}{side}/", place=str(source), hint=_LAYOUT_HINT)
    return _match(source, low, high)


def top_folders(index: Mapping[str, ImageFile]) -> set[str]:
    """The first parts of the names of an index: some of ``low``, ``high``, ``train`` and ``eval``."""
    return {name.split("/", 1)[0] for name in index}


def index_images(source: Path) -> dict[str, ImageFile]:
    """Every image of a folder or tar by its name from ``low``, ``high``, ``train`` or ``eval`` on.

    Raises:
        InputError: the source is missing, may not be read, or is not an uncompressed tar.
    """
    if not source.exists():
        raise InputError("no such file or folder", place=str(source))
    if not source.is_dir():
        return _index_tar(source)
    sides = [source / split / side for split in ("", *SPLITS) for side in ("low", "high")]
    try:
        return {
            path.relative_to(source).as_posix(): ImageFile(path)
            for side in sides
            for path in side.rglob("*")
            if _is_image_name(path.name) and path.is_file()
        }
    except OSError as error:
        raise InputError(
            f"cannot be searched: {error.strerror}", place=str(error.filename or source)
        ) from None


def _index_tar(source: Path) -> dict[str, ImageFile]:
    try:
        with tarfile.open(source, "r:") as archive:
            members = [member for member in archive.getmembers() if member.isreg() and not member.issparse()]
    except (tarfile.TarError, OSError) as error:
        hint = "uncompress a compressed tar first; a single image is no set of pairs"
        raise InputError(f"cannot be read as a tar: {error}", place=str(source), hint=hint) from error
    index: dict[str, ImageFile] = {}
    roots: set[str] = set()
    for member in members:
        parts = PurePosixPath(member.name).parts
        start = next((i for i, part in enumerate(parts) if part in {"low", "high", *SPLITS}), None)
        if start is not None and _is_image_name(parts[-1]):
            roots.add("/".join(parts[:start]))
            index["/".join(parts[start:])] = ImageFile(source, member.name, member.offset_data, member.size)
    if len(roots) > 1:
        folders = ", ".join(f"'{root}/'" for root in sorted(roots))
        raise InputError(f"pairs below several folders: {folders}", place=str(source), hint=_LAYOUT_HINT)
    return index


def _is_image_name(name: str) -> bool:
    return not name.startswith(".") and PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


def _below(index: Mapping[str, ImageFile], prefix: str) -> dict[str, ImageFile]:
    return {name.removeprefix(prefix): file for name, file in index.items() if name.startswith(prefix)}


def _match(source: Path, low: Mapping[str, ImageFile], high: Mapping[str, ImageFile]) -> MatchedFiles:
    """Pair by name, then what is left by stem."""
    partners = {name: name for name in low.keys() & high.keys()}
    low_stems, high_stems = (_by_stem(files, partners) for files in (low, high))
    partners |= {low_stems[stem]: high_stems[stem] for stem in low_stems.keys() & high_stems.keys()}
    if not partners:
        raise InputError(
            f"no name in low/ is also in high/ ('{min(low)}' against '{min(high)}')",
            place=str(source),
            hint="pairs are matched by file name: give both images of a pair the same one",
        )
    taken = set(partners.values())
    unmatched = [low[name] for name in sorted(low.keys() - partners.keys())]
    unmatched += [high[name] for name in sorted(high.keys() - taken)]
    return MatchedFiles(
        {name: (low[name], high[partners[name]]) for name in sorted(partners)}, tuple(unmatched)
    )


def _by_stem(files: Mapping[str, ImageFile], taken: Mapping[str, str]) -> dict[str, str]:
    stems: dict[str, str] = {}
    for name in sorted(files.keys() - taken.keys()):
        stem = str(PurePosixPath(name).with_suffix(""))
        if stem in stems:
            message = f"'{stems[stem]}' and '{name}' are both candidates for one pair"
            raise InputError(
                message, place=files[name].place, hint="keep one of them, or give the pair one full name"
            )
        stems[stem] = name
    return stems


def read_image(file: ImageFile) -> torch.Tensor:
    """Decode an image to uint8 RGB ``[3, H, W]``, turned upright by its orientation tag; alpha is dropped.

    Raises:
        InputError: the file is missing, truncated, no image, too large to be safe, or not of 8 bits a
            channel.
    """
    with _opened(file) as opened:
        if opened.mode == "F" or opened.mode.startswith("I"):
            raise InputError(f"has pixels of type {opened.mode}, not of 8 bits", place=file.place)
        pixels = np.array(ImageOps.exif_transpose(opened).convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def read_sides(file: ImageFile) -> tuple[int, int]:
    """Height and width from the header alone, before any orientation tag is applied.

    Raises:
        InputError: as :func:`read_image`, as far as the header shows it.
    """
    with _opened(file) as opened:
        return opened.height, opened.width


@contextmanager
def _opened(file: ImageFile) -> Iterator[Image.Image]:
    """The image as Pillow opens it; failures inside the block become an InputError that names the file."""
    try:
        with file.path.open("rb") as stream:
            if file.member is None:
                with Image.open(stream) as image:
                    yield image
            else:
                stream.seek(file.offset_bytes)
                with Image.open(io.BytesIO(stream.read(file.size_bytes))) as image:
                    yield image
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise InputError(f"cannot be read as an image: {error}", place=file.place) from error
