"""Images as plain arrays in an .npz, as MedMNIST, Keras and many others save them."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effcli.core.errors import InputError
from effcli.core.text import counted
from effcli.data.picture_folders import say_once
from effcli.data.stored_files import SPLITS, Split

_PARTS: dict[Split, tuple[str, ...]] = {
    "train": ("train",),
    "eval": ("eval", "val", "valid", "validation", "test"),
}
NPZ_HINT = "name the arrays train_images and train_labels, or x_train and y_train (test_images, x_test to measure on)"
_MOST_CLASSES = 1_000_000
_NAMES = (("{}_images", "{}_labels"), ("x_{}", "y_{}"), ("X_{}", "y_{}"))

_KNOWN_NAMES = frozenset(
    name.format(part) for parts in _PARTS.values() for part in parts for pair in _NAMES for name in pair
)


def array_names(content: Mapping[str, Any], split: Split) -> list[tuple[str, str]]:
    """The names of the arrays of images and labels that can stand for a split, those to use first."""
    return [
        (images.format(part), labels.format(part))
        for part in _PARTS[split]
        for images, labels in _NAMES
        if images.format(part) in content
    ]


def read_arrays(
    content: Mapping[str, Any], split: Split, place: str
) -> tuple[NDArray[np.uint8], NDArray[np.int64] | None, tuple[str, ...]]:
    """The images and labels of one part.

    Args:
        content: the arrays of an .npz that :func:`array_names` finds some of.
        split: which part.
        place: the file.

    Returns:
        uint8 ``[N, C, H, W]``, C 1 or 3; labels ``[N]``, None where there are none; and the names of the classes: of
        all parts, so that a part that lacks one numbers the others alike.

    Raises:
        InputError: the part is not there, or of another shape or type.
    """
    found = array_names(content, split)
    if not found:
        raise InputError(f"has no part to {_USE[split]}, only {', '.join(content)}", place=place)
    if len(found) > 1:
        rest = " and ".join(images for images, _ in found[1:])
        say_once(f"{place}: {found[0][0]} is used to {_USE[split]}, not {rest}")
    if unused := sorted(set(content) - _KNOWN_NAMES):
        say_once(f"{place}: left out: {', '.join(unused)}")
    images = _images(_array(content, found[0][0], place), f"{place}, {found[0][0]}")
    if found[0][1] not in content:
        return images, None, ("",)
    labels = read_labels(_array(content, found[0][1], place), len(images), f"{place}, {found[0][1]}")
    other = [name for part in SPLITS for _, name in array_names(content, part) if name in content]
    largest = max(
        (_largest_label(_array(content, name, place), f"{place}, {name}") for name in other), default=0
    )
    return images, labels, tuple(map(str, range(1 + largest)))


def _array(content: Mapping[str, Any], name: str, place: str) -> NDArray[Any]:
    """An array of an .npz, which is decompressed only now."""
    try:
        values: NDArray[Any] = content[name]
    except ValueError as error:
        reason = "holds Python objects, which are not read" if "pickle" in str(error) else str(error)
        raise InputError(reason, place=f"{place}, {name}", hint="save a plain array") from None
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"is damaged: {error}", place=f"{place}, {name}") from None
    return values


def _largest_label(values: NDArray[Any], place: str) -> int:
    """The largest label of a part; 0 where there is none."""
    if values.dtype.kind not in "iu":
        raise InputError(f"labels of {values.dtype}; supported: integers", place=place)
    largest = int(np.max(values, initial=0))
    if largest >= _MOST_CLASSES:
        raise InputError(
            f"label {largest} of image {int(values.argmax())}; supported: 0 to {_MOST_CLASSES - 1}",
            place=place,
            hint="number the classes from 0",
        )
    return largest


_USE: dict[Split, str] = {"train": "learn from", "eval": "measure on"}


def read_labels(
    values: NDArray[Any], n_images: int, place: str, n_classes: int | None = None
) -> NDArray[np.int64]:
    """Class numbers ``[N]`` from an array ``[N]`` or ``[N, 1]``.

    Raises:
        InputError: they are not whole numbers from 0 (below ``n_classes``), or not one per image.
    """
    if values.shape not in {(n_images,), (n_images, 1)}:
        is_table = values.ndim == 2 and len(values) == n_images
        several = "; several labels per image are not supported" if is_table else ""
        raise InputError(
            f"labels of shape {values.shape} for {counted(n_images, 'image')}{several}",
            place=place,
            hint="one-hot labels: store their argmax(1)" if is_table else None,
        )
    if values.dtype.kind not in "iu":
        raise InputError(f"labels of {values.dtype}; supported: integers", place=place)
    labels = values.reshape(-1).astype(np.int64)
    wrong = (labels < 0) | (labels >= (n_classes if n_classes is not None else np.iinfo(np.int32).max))
    if wrong.any():
        known = "" if n_classes is None else f"; there are {n_classes} names of classes"
        raise InputError(f"label {labels[wrong][0]} of image {np.flatnonzero(wrong)[0]}{known}", place=place)
    return labels


def _images(values: NDArray[Any], place: str) -> NDArray[np.uint8]:
    if values.dtype != np.uint8:
        raise InputError(f"images of {values.dtype}; supported: uint8, 0..255", place=place)
    if not values.size:
        raise InputError(f"no images in it: an array of shape {values.shape}", place=place)
    if values.ndim == 3:
        return values[:, None]
    if values.ndim == 4 and values.shape[3] in (1, 3):
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2))
    if values.ndim == 4 and values.shape[1] in (1, 3):
        return values
    raise InputError(
        f"images of shape {values.shape}; supported: [N, H, W], [N, H, W, 1|3] and [N, 1|3, H, W]",
        place=place,
    )
