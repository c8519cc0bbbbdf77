"""Sets of small images, with labels where there are any: IDX files, packed .npz, folders of pictures, and one in the
package, ``builtin:fashion-images``.

A training batch is a pure function of (seed, step), so that a resumed or distributed run sees the same images as an
uninterrupted one of a single process.
"""

from __future__ import annotations

import contextlib
import gzip
import itertools
import logging
import math
import struct
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from effcli.core.errors import InputError
from effcli.core.progress import NOTICE
from effcli.core.runtime import Runtime
from effcli.core.tensor_file import BUILTIN_PREFIX
from effcli.data.array_sets import NPZ_HINT, array_names, read_arrays, read_labels
from effcli.data.epochs import draws_of, item_of
from effcli.data.images import identify, read_image
from effcli.data.picture_folders import ClassFolders, class_folders, has_part, need_classes
from effcli.data.published_sets import PUBLISHED, load_published, published_source
from effcli.data.stored_files import Split
from effcli.data.unreadable_pictures import allow_unreadable

_IDX_NAMES: dict[Split, str] = {"train": "train", "eval": "t10k"}
_NPZ_NAMES: dict[Split, tuple[str, ...]] = {"train": ("train",), "eval": ("eval", "test")}
_LAYOUT_HINT = (
    "give a folder of pictures (one sub-folder per class), a folder of IDX files, a packed .npz, or "
    "builtin:fashion-images"
)
_ORDER_STREAM = 3
_MOST_SIZES = 2000
"""Pictures of which the headers are read to find the usual size."""
_DECODED_BYTES_LIMIT = 8 * 1024**3


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageSet:
    """Images of one size.

    Attributes:
        images: uint8 ``[N, C, S, S]``, C is 1 or 3.
        labels: int64 ``[N]``; all 0 where the source has no classes.
        classes: the names of the classes; at least one.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return self.images.shape[0]

    def rows(self, chosen: Tensor) -> ImageSet:
        """Some of the images: by their numbers, or by a mask."""
        return ImageSet(self.images[chosen], self.labels[chosen], self.classes)

    def batch_indices(
        self, step: int, *, batch_size: int, seed: int, rank: int = 0, world: int = 1
    ) -> np.ndarray:
        """Rank ``rank``'s share of the images of step ``step``: a new permutation each epoch, every batch full.

        Raises:
            UsageError: ``batch_size`` cannot be shared out evenly.
        """
        draws = draws_of(step, batch_size, rank=rank, world=world)
        return np.array([item_of(draw, len(self), _ORDER_STREAM, seed)[1] for draw in draws])

    def batch(
        self, step: int, batch_size: int, runtime: Runtime, *, seed: int, flip: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """This rank's images of step ``step``, float32 ``[B, C, S, S]`` in -1..1, and their labels ``[B]``.

        A share ``flip`` of them, 0..1, is mirrored; which ones follows from (seed, step) alone.
        """
        rank = runtime.rank
        rows = self.batch_indices(step, batch_size=batch_size, seed=seed, rank=rank, world=runtime.world)
        x = to_range(self.images[rows])
        return mirrored_rows(x, step, batch_size, runtime, seed=seed, share=flip), self.labels[rows]


def mirrored_rows(
    x: Tensor, step: int, batch_size: int, runtime: Runtime, *, seed: int, share: float
) -> Tensor:
    """This rank's images ``[B, C, H, W]`` of step ``step``, a share of all ``batch_size`` of them mirrored."""
    if not share:
        return x
    mirrored = np.random.default_rng((5, seed, step)).random(batch_size) < share
    own = torch.from_numpy(mirrored[runtime.rank * len(x) : (runtime.rank + 1) * len(x)])
    return torch.where(own[:, None, None, None], x.flip(-1), x)


def to_range(images: Tensor) -> Tensor:
    """uint8 0..255 as float32 in -1..1, the range of diffusion models."""
    return images.float().div_(127.5).sub_(1)


def to_bytes(images: Tensor) -> Tensor:
    """Floats in -1..1 as uint8 0..255, clipped and rounded."""
    return images.float().add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)


def load_images(
    source: str | Path,
    split: Split,
    *,
    side: int,
    channels: Literal[1, 3],
    root: str | None = None,
    with_classes: bool = False,
) -> ImageSet:
    """Read a set; its images are resized (antialiased) so that the shorter side is ``side``, and cropped to squares.

    Args:
        source: a folder with IDX files as MNIST and Fashion-MNIST come; an .npz with ``<split>_jpeg``/``_png``,
            ``<split>_offsets`` and ``<split>_labels``; a folder of pictures, with ``train/`` and ``eval/`` (or other
            usual names) or without, one sub-folder per class; ``builtin:NAME``; or the name of a published set.
        split: which part; a folder of pictures without parts is used whole.
        side: of the result, in pixels.
        channels: 1 for grey, 3 for RGB.
        root: where published sets lie or are downloaded to; None is a folder in the user's cache.
        with_classes: refuse a folder of pictures that has no class folders.

    Raises:
        InputError: nothing is there, it has no classes where it needs some, or it cannot be read. Of the pictures of a
            folder to learn from a few may be damaged: they are left out and named in the log.
    """
    if published := published_source(source, root):
        encoded = load_published(published, split)
        squares = torch.cat([square(part, side, channels) for part in encoded.images.split(4096)])
        return ImageSet(squares, encoded.labels, encoded.classes)
    path = _existing(source)
    if path.is_file():
        return _read_npz(path, split, side, channels)
    if idx := _idx_files(path, split):
        return _read_idx(idx[0], side, channels)
    found = class_folders(path, split)
    return _read_folder(need_classes(found) if with_classes else found, split, side, channels)


def check_images(source: str | Path, split: Split) -> None:
    """Make sure, before hours of work, that :func:`load_images` will find images; none is decoded.

    Raises:
        InputError: nothing is there.
    """
    path = _existing(source)
    if path.is_dir() and not _idx_files(path, split):
        class_folders(path, split)


def image_shape(source: str | Path, split: Split) -> tuple[int, Literal[1, 3]]:
    """The side and the channels that suit a set's images.

    Returns:
        The shorter side of the first one (that can be read),
        and 3 channels where one of the first, the middle and the last has colours.

    Raises:
        InputError: nothing is there, or it cannot be read.
    """
    if published := published_source(source):
        return PUBLISHED[published.name], 3
    path = _existing(source)
    if path.is_file():
        with _opened_npz(path) as content:
            if array_names(content, split):
                images = read_arrays(content, split, str(path))[0]
                return min(images.shape[2:]), 3 if images.shape[1] == 3 else 1
        encoded = _npz_part(path, split)[0]
        some = [_decode(path, row, encoded[row]) for row in _three_of(len(encoded))]
    elif idx := _idx_files(path, split):
        return min(read_idx(idx[0]).shape[1:]), 1
    else:
        some = _three_pictures(class_folders(path, split).files)
    has_colours = any(bool((image != image[:1]).any()) for image in some)
    return min(some[0].shape[1:]), 3 if has_colours else 1


def usual_shape(source: str | Path, split: Split) -> tuple[int, Literal[1, 3]]:
    """As :func:`image_shape`, but with the median of the shorter sides, which is said where they differ.

    Raises:
        InputError: nothing is there, or none can be read.
    """
    side, channels = image_shape(source, split)
    path = None if published_source(source) else _existing(source)
    if path is None or path.is_file() or _idx_files(path, split):
        return side, channels
    files = class_folders(path, split).files
    sides = sorted(min(sizes) for sizes in _sizes_of(files[:: -(-len(files) // _MOST_SIZES)]))
    median = sides[len(sides) // 2] if sides else side
    if sides and sides[0] != sides[-1]:
        log.log(
            NOTICE, "%s: shorter sides of %d to %d pixels, median %d", source, sides[0], sides[-1], median
        )
    return median, channels


def _sizes_of(files: Iterable[Path]) -> Iterator[tuple[int, int]]:
    """Height and width by the headers of pictures; those that cannot be read are passed over."""
    for file in files:
        with contextlib.suppress(InputError):
            info = identify(file)
            yield info.height, info.width


def _three_of(n: int) -> list[int]:
    return sorted({0, n // 2, n - 1})


def _three_pictures(files: tuple[Path, ...]) -> list[Tensor]:
    """The first, the middle and the last one; those that cannot be read are passed over, unless none can."""
    some = list(_whole(files[row] for row in _three_of(len(files)))) or list(
        itertools.islice(_whole(files), 1)
    )
    return some or [read_image(files[0])]


def _whole(files: Iterable[Path]) -> Iterator[Tensor]:
    for file in files:
        with contextlib.suppress(InputError):
            yield read_image(file)


def has_parts(source: str | Path) -> bool:
    """Whether a source has a part of its own to measure on."""
    if published_source(source):
        return True
    path = _existing(source)
    if path.is_file():
        with _opened_npz(path) as content:
            encoded = any(f"{name}_offsets" in content for name in _NPZ_NAMES["eval"])
            return encoded or bool(array_names(content, "eval"))
    return bool(_idx_files(path, "eval")) or has_part(path, "eval")


def _existing(source: str | Path) -> Path:
    name = str(source)
    if name.startswith(BUILTIN_PREFIX):
        path = Path(str(files("effcli.assets"))) / f"{name.removeprefix(BUILTIN_PREFIX)}.npz"
    else:
        path = Path(source)
    if not path.exists():
        raise InputError("no such file or folder", place=name, hint=_LAYOUT_HINT)
    return path


def _squares(images: Iterator[Tensor], side: int, channels: int) -> Tensor:
    return torch.stack([square(image[None], side, channels)[0] for image in images])


def square(images: Tensor, side: int, channels: int) -> Tensor:
    """uint8 ``[N, 1|3, H, W]`` resized and cropped to uint8 ``[N, channels, side, side]``."""
    height, width = images.shape[-2:]
    if (height, width) != (side, side):
        scale = side / min(height, width)
        size = (max(side, round(height * scale)), max(side, round(width * scale)))
        resized = F.interpolate(images.float(), size, mode="bilinear", antialias=True)
        top, left = (size[0] - side) // 2, (size[1] - side) // 2
        resized = resized[..., top : top + side, left : left + side]
        images = resized.round_().clamp_(0, 255).to(torch.uint8)
    if images.shape[1] == channels:
        return images
    if channels == 3:
        return images.expand(-1, 3, -1, -1).contiguous()
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    return (images.float() * weights).sum(1, keepdim=True).round_().to(torch.uint8)


def _read_idx(images_file: Path, side: int, channels: int) -> ImageSet:
    labels_file = images_file.with_name(images_file.name.replace("images-idx3", "labels-idx1"))
    images = torch.from_numpy(read_idx(images_file))
    labels = torch.from_numpy(read_idx(labels_file)).long()
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise InputError("images and labels do not fit together", place=str(images_file))
    squares = torch.cat([square(part[:, None], side, channels) for part in images.split(4096)])
    classes = tuple(str(label) for label in range(int(labels.max()) + 1))
    return ImageSet(squares, labels, classes)


def read_idx(file: Path) -> np.ndarray:
    """The uint8 array of an IDX file (the format of MNIST), gzipped or not.

    Raises:
        InputError: missing, truncated, or not IDX of unsigned bytes.
    """
    try:
        raw = file.read_bytes()
        data = gzip.decompress(raw) if file.suffix == ".gz" else raw
        zero, kind, n_axes = struct.unpack_from(">HBB", data)
        shape = struct.unpack_from(f">{n_axes}I", data, 4)
    except (OSError, EOFError, struct.error) as error:
        raise InputError(f"cannot be read: {error}", place=str(file)) from None
    start = 4 + 4 * n_axes
    if zero != 0 or kind != 8 or len(data) - start != math.prod(shape):
        raise InputError("is not a whole IDX file of bytes", place=str(file))
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape).copy()


def _read_npz(file: Path, split: Split, side: int, channels: int) -> ImageSet:
    with _opened_npz(file) as content:
        if array_names(content, split):
            arrays, numbers, names = read_arrays(content, split, str(file))
            squares = torch.cat(
                [square(part, side, channels) for part in torch.from_numpy(arrays).split(4096)]
            )
            zeros = np.zeros(len(arrays), np.int64)
            return ImageSet(squares, torch.from_numpy(zeros if numbers is None else numbers), names)
    encoded, labels, classes = _npz_part(file, split)
    images = _squares(itertools.starmap(partial(_decode, file), enumerate(encoded)), side, channels)
    if labels is None:
        return ImageSet(images, torch.zeros(len(images), dtype=torch.long), classes or ("0",))
    known = None if classes is None else len(classes)
    chosen = torch.from_numpy(read_labels(labels, len(images), f"{file}, labels", known))
    return ImageSet(images, chosen, classes or tuple(map(str, range(int(chosen.max()) + 1))))


def _npz_part(file: Path, split: Split) -> tuple[list[bytes], np.ndarray | None, tuple[str, ...] | None]:
    """Encoded images, their labels, and the names of the classes."""
    try:
        with _opened_npz(file) as content:
            prefix = next((name for name in _NPZ_NAMES[split] if f"{name}_offsets" in content), None)
            kind = next((k for k in ("jpeg", "png") if f"{prefix}_{k}" in content), None)
            if prefix is None or kind is None:
                names = ", ".join(content.files)
                raise InputError(
                    f"no {split} images in it, only the arrays {names}", place=str(file), hint=NPZ_HINT
                )
            data, offsets = content[f"{prefix}_{kind}"].tobytes(), content[f"{prefix}_offsets"].tolist()
            labels = content.get(f"{prefix}_labels", None)
            classes = tuple(str(name) for name in content["classes"]) if "classes" in content else None
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"cannot be read as .npz: {error}", place=str(file), hint=_LAYOUT_HINT) from None
    return [data[start:end] for start, end in itertools.pairwise(offsets)], labels, classes


def _opened_npz(file: Path) -> Any:
    """An open .npz: a context manager, and a mapping of its arrays.

    Raises:
        InputError: it is none.
    """
    if not zipfile.is_zipfile(file):
        raise InputError("is not an .npz file", place=str(file), hint=_LAYOUT_HINT)
    try:
        return np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"cannot be read as .npz: {error}", place=str(file), hint=_LAYOUT_HINT) from None


def _decode(file: Path, number: int, encoded: bytes) -> Tensor:
    return read_image(encoded, place=f"{file}, image {number}")


def _idx_files(folder: Path, split: Split) -> list[Path]:
    return sorted(folder.glob(f"{_IDX_NAMES[split]}-images-idx3-ubyte*"))


def _read_folder(found: ClassFolders, split: Split, side: int, channels: int) -> ImageSet:
    files, place = found.files, str(found.folder)
    if len(files) * channels * side * side > _DECODED_BYTES_LIMIT:
        raise InputError(f"{len(files)} images of {side}x{side} do not fit in memory", place=place)
    labels = found.labels or (0,) * len(files)
    images, kept, errors = [], [], []
    for file, label in zip(files, labels, strict=True):
        try:
            images.append(square(read_image(file)[None], side, channels)[0])
            kept.append(label)
        except InputError as error:
            errors.append(error)
    allow_unreadable(errors, len(files), place, decides=split == "eval")
    return ImageSet(torch.stack(images), torch.tensor(kept), found.classes or ("",))
