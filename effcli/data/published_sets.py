"""CIFAR-10, CIFAR-100 and Tiny-ImageNet as they are published: from a folder, or downloaded into it once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from effcli.core.errors import InputError
from effcli.core.files import cache_folder
from effcli.data.images import read_image
from effcli.data.picture_folders import list_pictures

PUBLISHED = {"cifar10": 32, "cifar100": 32, "tiny-imagenet": 64}
"""Names, and the sides of the images in pixels."""

_FOLDERS = {
    "cifar10": "cifar-10-batches-py",
    "cifar100": "cifar-100-python",
    "tiny-imagenet": "tiny-imagenet-200",
}
_FILES = {
    "cifar10": ("data_batch_1", "data_batch_5", "test_batch", "batches.meta"),
    "cifar100": ("train", "test", "meta"),
    "tiny-imagenet": ("wnids.txt", "val/val_annotations.txt"),
}
"""Files by which a folder is known."""
_TINY_ADDRESS = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"


@dataclass(frozen=True)
class PublishedSet:
    """One part of a set.

    Attributes:
        images: uint8 ``[N, 3, S, S]``.
        labels: int64 ``[N]``.
        classes: their names.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]


@dataclass(frozen=True)
class PublishedSource:
    """Where a published set is, or goes.

    Attributes:
        name: one of :data:`PUBLISHED`.
        folder: the folder that it was unpacked to, itself; perhaps not there yet.
    """

    name: str
    folder: Path


def published_source(source: str | Path, root: str | None = None) -> PublishedSource | None:
    """The published set that is meant by its name, by the folder that it was unpacked to, or by the one above.

    Args:
        source: a name, or a folder.
        root: the folder above that of a set that is meant by its name; None: one in the user's cache.

    Returns:
        None where it is something else.
    """
    path = Path(source)
    if source in PUBLISHED and not path.exists():
        above = Path(root) if root else cache_folder("data")
        return PublishedSource(str(source), above / _FOLDERS[str(source)])
    if not path.is_dir():
        return None
    inside = [name for name, folder in _FOLDERS.items() if _is_set(path / folder, name)]
    if len(inside) == 1:
        return PublishedSource(inside[0], path / _FOLDERS[inside[0]])
    own = [name for name in _FOLDERS if _is_set(path, name)]
    return PublishedSource(own[0], path) if own else None


def _is_set(folder: Path, name: str) -> bool:
    return all((folder / file).is_file() for file in _FILES[name])


def load_published(source: PublishedSource, split: Literal["train", "eval"]) -> PublishedSet:
    """Read one of :data:`PUBLISHED`.

    Args:
        source: which, and where; it is downloaded to there if it is not there.
        split: which part; ``eval`` of Tiny-ImageNet are its 10,000 validation images, as in all papers.

    Raises:
        InputError: it is neither there nor can it be downloaded.
    """
    try:
        if source.name == "tiny-imagenet":
            return _load_tiny(source.folder, split)
        return _load_cifar(source.name, source.folder, split)
    except (
        OSError,
        RuntimeError,
        EOFError,
        KeyError,
    ) as error:  # torchvision's, of the network and of damaged files
        reason = " ".join(str(error).split())
        raise InputError(
            f"is not in {source.folder.parent} and cannot be downloaded: {reason}",
            place=source.name,
            hint="-s data.root=FOLDER names the folder that it was unpacked in",
        ) from None


def _load_cifar(name: str, folder: Path, split: str) -> PublishedSet:
    from torchvision import datasets

    published = datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100
    kind: Any = type(
        published.__name__, (published,), {"base_folder": folder.name}
    )  # it may have been renamed
    found = kind(str(folder.parent), train=split == "train", download=not folder.is_dir())
    images = torch.from_numpy(np.ascontiguousarray(found.data)).permute(0, 3, 1, 2).contiguous()
    return PublishedSet(images, torch.tensor(found.targets), tuple(found.classes))


def _load_tiny(top: Path, split: str) -> PublishedSet:
    if not top.is_dir():
        from torchvision.datasets.utils import download_and_extract_archive

        download_and_extract_archive(_TINY_ADDRESS, str(top.parent))
    classes = sorted((top / "wnids.txt").read_text(encoding="utf-8").split())
    if split == "train":
        files = [
            (path, name) for name in classes for path in list_pictures(top / "train" / name / "images").files
        ]
    else:
        rows = (top / "val" / "val_annotations.txt").read_text(encoding="utf-8").splitlines()
        files = [(top / "val" / "images" / row.split("\t")[0], row.split("\t")[1]) for row in rows if row]
    if not files:
        raise InputError("no images in it", place=str(top))
    images = torch.stack([read_image(path) for path, _ in files])
    return PublishedSet(images, torch.tensor([classes.index(name) for _, name in files]), tuple(classes))
