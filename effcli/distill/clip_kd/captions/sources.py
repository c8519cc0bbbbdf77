"""Images with captions: CSV files, WebDataset shards, folders with a .txt beside each image, lists in JSON, .npz files.

Classes are read where the source has any (the sub-folders of a folder, the labels of an .npz), for zero-shot
classification; they also caption images that have no caption of their own.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from effcli.core.errors import InputError
from effcli.core.tensor_file import BUILTIN_PREFIX
from effcli.data.images import read_rgb
from effcli.data.picture_folders import (
    ClassFolders,
    FoundPictures,
    by_preference,
    class_folders,
    has_part,
    list_pictures,
    part_folder,
    say_left_out,
)
from effcli.data.stored_files import Split, StoredFile
from effcli.distill.clip_kd.caption_tars import has_part_in, listed, read_tars, shards_of

IMAGE_COLUMNS = ("filepath", "image", "file_name", "filename", "path", "file", "image_path")
CAPTION_COLUMNS = ("title", "caption", "text", "captions")
CLASS_CAPTION = "a photo of a {}"
"""The caption of an image that has a class and nothing else."""

_NPZ_SPLITS: dict[str, tuple[str, ...]] = {"train": ("train",), "eval": ("eval", "test")}
_HINT = (
    "give a CSV with image paths and captions, WebDataset .tar shards, a folder with NAME.txt beside NAME.jpg"
    " or with captions.json, a packed .npz, or builtin:twemoji-captions"
)

EncodedImage: TypeAlias = StoredFile | bytes


@dataclass(frozen=True)
class CaptionSet:
    """Images, each with one caption or more.

    Attributes:
        images: encoded.
        captions: of each image; none is empty.
        labels: the number of each image's class; empty where there are none.
        classes: the names of the classes.
        left_out: what was listed and cannot be used, one line each: missing images, empty captions.
    """

    images: tuple[EncodedImage, ...]
    captions: tuple[tuple[str, ...], ...]
    labels: tuple[int, ...] = ()
    classes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def image(self, index: int) -> Image.Image:
        """Image ``index`` in RGB, upright, what is transparent on white.

        Raises:
            InputError: it cannot be decoded.
        """
        image = self.images[index]
        place = image.place if isinstance(image, StoredFile) else f"image {index}"
        return Image.fromarray(read_rgb(image, on_white=True, place=place))

    def select(self, indices: Sequence[int]) -> CaptionSet:
        """The images at ``indices``, in that order."""
        return replace(
            self,
            images=tuple(self.images[i] for i in indices),
            captions=tuple(self.captions[i] for i in indices),
            labels=tuple(self.labels[i] for i in indices) if self.labels else (),
        )

    def texts(self) -> tuple[list[str], np.ndarray]:
        """All captions in the order of the images, and the number of the first one of each image, ``[N + 1]``."""
        counts = np.cumsum([0, *map(len, self.captions)])
        return list(itertools.chain.from_iterable(self.captions)), counts

    def fingerprint(self) -> str:
        """A checksum of captions and images: of files their names and sizes, of others all their bytes."""
        digest = hashlib.sha256()
        for image, captions in zip(self.images, self.captions, strict=True):
            if isinstance(image, bytes):
                digest.update(hashlib.sha256(image).digest())
            else:
                size = image.size_bytes if image.member else image.path.stat().st_size
                digest.update(f"{image.place}\0{size}\0".encode(errors="surrogateescape"))
            digest.update("\0".join(captions).encode())
        return digest.hexdigest()


def load_captions(
    source: str | Path, split: Split, *, image_column: str | None = None, caption_column: str | None = None
) -> CaptionSet:
    """Read a set.

    Args:
        source: a .csv or .tsv file; a .tar, several as ``a-{000..012}.tar``, or a folder of them; a folder or tar with
            ``captions_<split>.json`` or ``captions.json`` (a list of ``file_name`` and ``caption``); a folder of images
            with ``NAME.txt`` beside each, or with sub-folders that are classes; an .npz with
            ``<split>_png``/``_jpeg``, ``<split>_offsets`` and ``<split>_captions`` or ``<split>_labels``; or
            ``builtin:NAME``.
        split: which part; a source without parts is used whole.
        image_column, caption_column: of a CSV; found by their usual names where they are None.

    Raises:
        InputError: nothing is there, it cannot be read, or it holds no pair.
    """
    name = str(source)
    if name.startswith(BUILTIN_PREFIX):
        name = str(files("effcli.assets") / f"{name.removeprefix(BUILTIN_PREFIX)}.npz")
    shards = shards_of(name)
    path = Path(name)
    if not shards and not path.exists():
        raise InputError("no such file or folder", place=str(source), hint=_HINT)
    if path.suffix == ".npz":
        found = _read_npz(path, split, str(source))
    elif path.is_file() and path.suffix.lower() in {".csv", ".tsv", ".txt"}:
        found = _read_csv(path, image_column, caption_column)
    elif shards:
        images, captions, left_out = read_tars(shards, split)
        found = CaptionSet(images, captions, left_out=left_out)
    elif path.is_dir():
        found = _read_folder(path, split)
    else:
        raise InputError("is not a set of captions", place=str(source), hint=_HINT)
    if not len(found):
        reasons = f": {found.left_out[0]}" if found.left_out else ""
        raise InputError(f"holds no image with a caption{reasons}", place=str(source), hint=_HINT)
    return found


def has_split(source: str | Path, split: Split) -> bool:
    """Whether a source has a part of its own for ``split``."""
    name = str(source)
    path = Path(name)
    if name.startswith(BUILTIN_PREFIX):
        return True
    if path.suffix == ".npz" and path.is_file():
        with np.load(path, allow_pickle=False) as content:
            return any(f"{prefix}_offsets" in content.files for prefix in _NPZ_SPLITS[split])
    if path.is_dir():
        return (path / f"captions_{split}.json").is_file() or has_part(path, split)
    if path.suffix == ".tar" and path.is_file():
        return has_part_in(path, split)
    return False


def hold_out(pairs: CaptionSet, share: float) -> tuple[CaptionSet, CaptionSet]:
    """The set without about ``share`` of its images, and these; which ones follows from their places and captions."""
    held = [_unit(_key_of(pairs, i)) < share for i in range(len(pairs))]
    if not any(held) or all(held):
        held = [i == 0 for i in range(len(pairs))]
    kept = [i for i, one in enumerate(held) if not one]
    return pairs.select(kept), pairs.select([i for i, one in enumerate(held) if one])


def _key_of(pairs: CaptionSet, index: int) -> str:
    image = pairs.images[index]
    name = image.path.name if isinstance(image, StoredFile) and image.member is None else str(index)
    return f"{name}\0{pairs.captions[index][0]}"


def _unit(key: str) -> float:
    digest = hashlib.blake2b(key.encode(errors="surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64


# --- forms -------------------------------------------------------------------------------------------------


def _read_csv(file: Path, image_column: str | None, caption_column: str | None) -> CaptionSet:
    rows = _rows(file)
    header = list(rows[0]) if rows else []
    images = _column(file, header, image_column, IMAGE_COLUMNS, "images")
    captions = _column(file, header, caption_column, CAPTION_COLUMNS, "captions")
    items = [(file.parent / (row[images] or ""), row[captions] or "") for row in rows]
    return _of_files(items)


def _rows(file: Path) -> list[dict[str, str]]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = file.read_bytes()[: error.start].count(b"\n") + 1
        raise InputError(
            "is not UTF-8", place=f"{file}:{line}", hint="iconv -f latin1 -t utf-8 converts it"
        ) from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", place=str(file)) from None
    first = text.split("\n", 1)[0]
    delimiter = max("\t,;|", key=first.count)
    return list(csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, restval=""))


def _column(file: Path, header: list[str], asked: str | None, usual: tuple[str, ...], what: str) -> str:
    lowered = {name.strip().lower(): name for name in header if name}
    if asked is not None:
        if asked in header:
            return asked
        raise InputError(
            f"has no column {asked!r}", place=str(file), hint=f"it has {', '.join(header) or 'none'}"
        )
    found = next((lowered[name] for name in usual if name in lowered), None)
    if found is None:
        key = "data.image_column" if what == "images" else "data.caption_column"
        raise InputError(
            f"has no column of {what}: {', '.join(header) or 'it is empty'}",
            place=str(file),
            hint=f"name it {usual[0]!r}, or say which it is: -s {key}=NAME",
        )
    return found


def _of_files(items: Iterable[tuple[Path, str]]) -> CaptionSet:
    """Of image files with a caption each; those with several captions are named several times."""
    captions: dict[Path, list[str]] = {}
    left_out: list[str] = []
    there: dict[Path, bool] = {}
    for path, caption in items:
        if path not in there:
            there[path] = path.is_file()
            if not there[path]:
                left_out.append(f"{path}: no such image")
        if not there[path]:
            continue
        if not caption.strip():
            left_out.append(f"{path}: empty caption")
            continue
        captions.setdefault(path, []).append(" ".join(caption.split()))
    images = tuple(StoredFile(path) for path in captions)
    return CaptionSet(images, tuple(map(tuple, captions.values())), left_out=tuple(left_out))


def _read_folder(folder: Path, split: Split) -> CaptionSet:
    for name in (f"captions_{split}.json", "captions.json"):
        if (folder / name).is_file():
            pairs = listed(_text(folder / name), str(folder / name))
            parts = by_preference([one.name for one in folder.iterdir() if one.is_dir()], split)
            top = folder / parts[0] if parts else folder
            return _of_files((top / file, caption) for file, caption in pairs)
    images = list_pictures(part_folder(folder, split))
    if any(path.with_suffix(".txt").is_file() for path in images.files):
        return _of_sidecars(images)
    return _of_classes(class_folders(folder, split))


def _of_sidecars(images: FoundPictures) -> CaptionSet:
    say_left_out(images, used={".txt"})
    items, left_out = [], []
    for path in images.files:
        side = path.with_suffix(".txt")
        if side.is_file():
            items += [(path, line) for line in _text(side).splitlines() if line.strip()] or [(path, "")]
        else:
            left_out.append(f"{path}: no {side.name} beside it")
    found = _of_files(items)
    return replace(found, left_out=(*found.left_out, *left_out))


def _of_classes(found: ClassFolders) -> CaptionSet:
    if not found.classes:
        return CaptionSet((), (), left_out=tuple(f"{p}: neither a caption nor a class" for p in found.files))
    classes = tuple(map(_readable, found.classes))
    return CaptionSet(
        tuple(map(StoredFile, found.files)),
        tuple((CLASS_CAPTION.format(classes[label]),) for label in found.labels),
        found.labels,
        classes,
    )


def _readable(name: str) -> str:
    return name.replace("_", " ").strip()


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(
            "is not UTF-8", place=str(file), hint="iconv -f latin1 -t utf-8 converts it"
        ) from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", place=str(file)) from None


def _read_npz(file: Path, split: Split, place: str) -> CaptionSet:
    try:
        with np.load(file, allow_pickle=False) as content:
            prefix = next((p for p in _NPZ_SPLITS[split] if f"{p}_offsets" in content.files), None)
            kind = next((k for k in ("png", "jpeg", "webp") if f"{prefix}_{k}" in content.files), None)
            if prefix is None or kind is None:
                raise InputError(f"has no encoded {split} images", place=place, hint=_HINT)
            data, offsets = content[f"{prefix}_{kind}"].tobytes(), content[f"{prefix}_offsets"].tolist()
            images = tuple(data[start:end] for start, end in itertools.pairwise(offsets))
            return CaptionSet(images, *_texts_of(content, prefix, place))
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"cannot be read as .npz: {error}", place=place, hint=_HINT) from None


def _texts_of(
    content: Any, prefix: str, place: str
) -> tuple[tuple[tuple[str, ...], ...], tuple[int, ...], tuple[str, ...]]:
    """Captions, labels and classes; of emoji their name, their keywords and their name with its category."""
    names = set(content.files)
    labels: tuple[int, ...] = ()
    classes: tuple[str, ...] = ()
    if f"{prefix}_labels" in names and "classes" in names:
        classes = tuple(_readable(str(name)) for name in content["classes"])
        labels = tuple(map(int, content[f"{prefix}_labels"]))
    elif f"{prefix}_category" in names:
        kinds = [content[name] for name in content.files if name.endswith("_category")]
        classes = tuple(sorted({str(name) for kind in kinds for name in kind}))
        labels = tuple(classes.index(str(name)) for name in content[f"{prefix}_category"])
    if f"{prefix}_captions" in names:
        columns = [content[f"{prefix}_captions"]]
        if f"{prefix}_keywords" in names:
            columns.append(content[f"{prefix}_keywords"])
        if f"{prefix}_category" in names:
            columns.append(
                [f"{classes[label]}: {name}" for label, name in zip(labels, columns[0], strict=True)]
            )
        rows = [
            tuple(dict.fromkeys(text for one in row if (text := str(one).strip())))
            for row in zip(*columns, strict=True)
        ]
        return tuple(rows), labels, classes
    if not labels:
        raise InputError("has neither captions nor labels", place=place, hint=_HINT)
    return tuple((CLASS_CAPTION.format(classes[label]),) for label in labels), labels, classes
