"""Images, each with one caption or more, as every form of them is read."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from PIL import Image

from effcli.core.errors import InputError
from effcli.data.images import read_rgb
from effcli.data.stored_files import StoredFile
from effcli.distill.clip_kd.captions.text_files import DOWNLOAD_HINT
from effcli.distill.clip_kd.reinforced.format import StoredEmbeddings

CLASS_CAPTION = "a photo of a {}"
"""The caption of an image that has a class and nothing else."""

EncodedImage: TypeAlias = StoredFile | bytes


@dataclass(frozen=True)
class CaptionSet:
    """Images, each with one caption or more.

    Attributes:
        images: encoded.
        captions: of each image; none is empty.
        labels: the number of each image's class; empty where there are none.
        classes: the names of the classes.
        left_out: what was listed and cannot be used, one line each: missing images, empty captions, rows that do not
            fit.
        stored: where the embeddings of each image and its captions are, of reinforced data; else empty.
        class_templates: sentences about a class, with {} for its name, that are like these captions.
    """

    images: tuple[EncodedImage, ...]
    captions: tuple[tuple[str, ...], ...]
    labels: tuple[int, ...] = ()
    classes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    stored: tuple[StoredEmbeddings, ...] = ()
    class_templates: tuple[str, ...] = (CLASS_CAPTION,)

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
            stored=tuple(self.stored[i] for i in indices) if self.stored else (),
        )

    def texts(self) -> tuple[list[str], np.ndarray]:
        """All captions in the order of the images, and the number of the first one of each image, ``[N + 1]``."""
        counts = np.cumsum([0, *map(len, self.captions)])
        return list(itertools.chain.from_iterable(self.captions)), counts


class CaptionedName(NamedTuple):
    """One caption of one image, as a list or a table has it.

    Attributes:
        place: file and line, or file and entry, for messages.
        image: the image's path as it is written.
        caption: as it is written.
    """

    place: str
    image: str
    caption: str


def of_files(items: Iterable[CaptionedName], folder: Path, left_out: Iterable[str] = ()) -> CaptionSet:
    """Image files with a caption each; those with several captions are named several times.

    Args:
        items: names and captions.
        folder: what relative names are relative to.
        left_out: what was left out before.
    """
    captions: dict[Path, list[str]] = {}
    lines = list(left_out)
    there: dict[Path, bool] = {}
    for place, name, caption in items:
        path = path_of(folder, name)
        if path not in there:
            there[path] = is_file(path)
            if not there[path]:
                lines.append(f"{place}: no such image: {path}")
        if not there[path]:
            continue
        if not caption.strip():
            lines.append(f"{place}: empty caption: {path}")
            continue
        captions.setdefault(path, []).append(one_line(caption))
    images = tuple(StoredFile(path) for path in captions)
    return CaptionSet(images, tuple(map(tuple, captions.values())), left_out=tuple(lines))


def path_of(folder: Path, name: str) -> Path:
    """The path of an image by its name in a list, in which Windows writes ``im\\0.png``."""
    path = folder / name
    if "\\" in name and not is_file(path):
        other = folder / name.replace("\\", "/")
        return other if is_file(other) else path
    return path


def is_file(path: Path) -> bool:
    """Whether there is a file; a name that no file system takes is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def one_line(caption: str) -> str:
    """A caption without line breaks and repeated spaces."""
    return " ".join(caption.split())


def need_paths(items: Sequence[CaptionedName]) -> None:
    """Refuse lists of addresses, of which nothing is downloaded.

    Raises:
        InputError: the first image is a URL.
    """
    if items and items[0].image.startswith(("http://", "https://")):
        raise InputError(
            f"names images by URL: {items[0].image[:80]}",
            place=items[0].place,
            hint=DOWNLOAD_HINT,
        )


def image_folder(items: Sequence[CaptionedName], candidates: Sequence[Path]) -> Path:
    """The first of several folders in which one of the first images lies; the first one where none does."""
    some = items[:: max(1, len(items) // 20)][:20]
    return next(
        (one for one in candidates if any(is_file(path_of(one, item.image)) for item in some)), candidates[0]
    )


def hold_out(pairs: CaptionSet, share: float) -> tuple[CaptionSet, CaptionSet]:
    """The set without about ``share`` of its images, and these; which ones follows from their places and captions."""
    held = [_unit(_key_of(pairs, i)) < share for i in range(len(pairs))]
    if not any(held) or all(held):
        held = [i == 0 for i in range(len(pairs))]
    kept = [i for i, one in enumerate(held) if not one]
    return pairs.select(kept), pairs.select([i for i, one in enumerate(held) if one])


def part_of_set(pairs: CaptionSet, part: str) -> CaptionSet:
    """One of ``N`` parts that share no image, about as large as each other; which ones follows from their places and
    captions.

    Args:
        pairs: the set.
        part: ``K/N``, from ``1/N`` to ``N/N``.
    """
    number, n_parts = map(int, part.split("/"))
    return pairs.select(
        [i for i in range(len(pairs)) if int(_unit(f"part\0{_key_of(pairs, i)}") * n_parts) == number - 1]
    )


def _key_of(pairs: CaptionSet, index: int) -> str:
    image = pairs.images[index]
    name = image.path.name if isinstance(image, StoredFile) and image.member is None else str(index)
    return f"{name}\0{pairs.captions[index][0]}"


def _unit(key: str) -> float:
    digest = hashlib.blake2b(key.encode(errors="surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64
