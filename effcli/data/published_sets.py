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

_TINY = "tiny-imagenet-200"
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


def load_published(name: str, split: Literal["train", "eval"], root: str | None = None) -> PublishedSet:
    """Read one of :data:`PUBLISHED`.

    Args:
        name: which.
        split: which part; ``eval`` of Tiny-ImageNet are its 10,000 validation images, as in all papers.
        root: the folder with ``cifar-10-batches-py``, ``cifar-100-python`` or ``tiny-imagenet-200`` in it.

    Raises:
        InputError: it is neither there nor can it be downloaded.
    """
    folder = Path(root) if root else cache_folder("data")
    try:
        if name == "tiny-imagenet":
            return _load_tiny(folder, split)
        return _load_cifar(name, folder, split)
    except (
        OSError,
        RuntimeError,
        EOFError,
        KeyError,
    ) as error:  # torchvision's, of the network and of damaged files
        reason = " ".join(str(error).split())
        raise InputError(
            f"is not in {folder} and cannot be downloaded: {reason}",
            place=name,
            hint="-s data.root=FOLDER names the folder that it was unpacked in",
        ) from None


def _load_cifar(name: str, folder: Path, split: str) -> PublishedSet:
    from torchvision import datasets

    kind = datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100
    is_there = (folder / kind.base_folder).is_dir()
    found: Any = kind(str(folder), train=split == "train", download=not is_there)
    images = torch.from_numpy(np.ascontiguousarray(found.data)).permute(0, 3, 1, 2).contiguous()
    return PublishedSet(images, torch.tensor(found.targets), tuple(found.classes))


def _load_tiny(folder: Path, split: str) -> PublishedSet:
    top = folder / _TINY
    if not top.is_dir():
        from torchvision.datasets.utils import download_and_extract_archive

        download_and_extract_archive(_TINY_ADDRESS, str(folder))
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
