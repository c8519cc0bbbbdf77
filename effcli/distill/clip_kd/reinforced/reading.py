"""Reading reinforced data: the pairs, the crops, and the stored embeddings of a batch."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from effcli.core.errors import InputError
from effcli.core.text import counted
from effcli.data.stored_files import StoredFile, index_tar
from effcli.distill.clip_kd.captions.caption_set import CaptionSet
from effcli.distill.clip_kd.captions.tars import read_tars
from effcli.distill.clip_kd.reinforced.format import (
    ABOUT,
    CAPTIONS,
    NPY_HEADER_BYTES,
    VIEWS,
    ReinforcedHeader,
    StoredEmbeddings,
    read_header,
)

_HINT = "write the data again with `effcli distill reinforce`"


def read_reinforced(folder: Path) -> CaptionSet:
    """The pairs of a folder, each with the place of its embeddings; their sizes are checked, not yet their values.

    Raises:
        InputError: a shard is missing, truncated or lacks something that the header promises.
    """
    header = read_header(folder)
    for shard in header.shards:
        _check_shard(folder / shard.name, shard.size_bytes)
    found = read_tars([folder / shard.name for shard in header.shards], "train")
    n_images = sum(shard.images for shard in header.shards)
    if len(found) != n_images or found.left_out:
        raise InputError(
            f"holds {len(found)} of its {counted(n_images, 'pair')}", place=str(folder), hint=_HINT
        )
    members = {
        (shard.name, file.member): file for shard in header.shards for file in index_tar(folder / shard.name)
    }
    stored = [
        _stored(image, texts, header, members)
        for image, texts in zip(found.images, found.captions, strict=True)
        if isinstance(image, StoredFile)
    ]
    return replace(found, stored=tuple(stored))


def _check_shard(file: Path, size_bytes: int) -> None:
    if not file.is_file():
        raise InputError("a shard is missing", place=str(file), hint=_HINT)
    if (size := file.stat().st_size) != size_bytes:
        raise InputError(f"has {size:,} bytes instead of {size_bytes:,}", place=str(file), hint=_HINT)


def _stored(
    image: StoredFile, texts: tuple[str, ...], header: ReinforcedHeader, members: dict[Any, StoredFile]
) -> StoredEmbeddings:
    key = str(PurePosixPath(image.member or "").with_suffix(""))
    try:
        about, views, captions = (members[image.path.name, key + end] for end in (ABOUT, VIEWS, CAPTIONS))
    except KeyError as error:
        raise InputError(f"lacks {error.args[0][1]}", place=str(image.path), hint=_HINT) from None
    for file, n_rows in ((views, header.views), (captions, len(texts))):
        if file.size_bytes != NPY_HEADER_BYTES + n_rows * sum(header.dims) * 2:
            raise InputError(f"does not hold {n_rows} embeddings", place=file.place, hint=_HINT)
    return StoredEmbeddings(about, views, captions)


def box_of(stored: StoredEmbeddings, view: int) -> tuple[int, int, int, int] | None:
    """The stored crop of a view; None for the whole image.

    Raises:
        InputError: there is none.
    """
    try:
        box = json.loads(stored.about.read())["views"][view]
        if box is None:
            return None
        left, top, right, bottom = (int(value) for value in box)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise InputError(
            f"has no crop of view {view}: {error}", place=stored.about.place, hint=_HINT
        ) from None
    if not (0 <= left < right and 0 <= top < bottom):
        raise InputError(f"the crop of view {view} is empty", place=stored.about.place, hint=_HINT)
    return left, top, right, bottom


def stored_rows(
    files: list[StoredFile], rows: list[int], dims: tuple[int, ...], device: torch.device
) -> list[Tensor]:
    """Row ``rows[i]`` of the embeddings in ``files[i]``, by teacher: unit length, float32 ``[n, D]`` each.

    Raises:
        InputError: a file does not hold such embeddings.
    """
    values = np.stack([_row(file, row, sum(dims)) for file, row in zip(files, rows, strict=True)])
    wide = torch.from_numpy(values.astype(np.float32)).to(device)
    return [F.normalize(one, dim=1) for one in wide.split(dims, dim=1)]


def _row(file: StoredFile, row: int, width: int) -> np.ndarray:
    try:
        values: np.ndarray = np.load(io.BytesIO(file.read()), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InputError(f"cannot be read: {error}", place=file.place, hint=_HINT) from None
    if values.dtype != np.float16 or values.ndim != 2 or values.shape[1] != width or row >= len(values):
        raise InputError(
            f"holds {values.dtype} {values.shape}, not embeddings of width {width}",
            place=file.place,
            hint=_HINT,
        )
    if not np.isfinite(values[row]).all():
        raise InputError("holds embeddings that are not finite", place=file.place, hint=_HINT)
    own: np.ndarray = values[row]
    return own
