"""Writing reinforced data: see :mod:`effcli.distill.clip_kd.reinforced.format`."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from effcli.core.errors import InputError, RunError
from effcli.core.files import atomic_path, write_text
from effcli.data.stored_files import StoredFile
from effcli.distill.clip.views import Box, crop_box
from effcli.distill.clip_kd.captions.caption_set import CaptionSet, EncodedImage, one_line
from effcli.distill.clip_kd.captions.tars import CLASS_NAMES_FILE
from effcli.distill.clip_kd.reinforced.format import (
    ABOUT,
    CAPTIONS,
    HEADER_FILE,
    VIEWS,
    ReinforcedHeader,
    ReinforcedShard,
    ReinforcedTeacher,
    header_text,
)

_MAGIC = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"RIFF": ".webp"}
_TAR_BYTES_PER_SAMPLE = 6 * (tarfile.BLOCKSIZE + tarfile.BLOCKSIZE // 2)

Kept = tuple[Sequence[np.ndarray], np.ndarray]
"""A teacher's embeddings of all views, ``[N, D]`` each, and of all captions, ``[M, D]``."""


def write_reinforced(
    folder: Path,
    pairs: CaptionSet,
    kept: Sequence[Kept],
    teachers: Sequence[ReinforcedTeacher],
    shard_images: int,
    check_stop: Callable[[], None],
) -> ReinforcedHeader:
    """Write the shards, then the header.

    Args:
        folder: that exists.
        pairs: the set, of which every image can be read.
        kept: the embeddings of each teacher.
        teachers: what the header says of each.
        shard_images: images of a shard, at most.
        check_stop: leaves, between shards, where a signal came.

    Raises:
        InputError: an image cannot be read.
        RunError: the disk has not enough space, or cannot be written.
    """
    _check_space(folder, pairs, kept)
    views = [np.concatenate(one, axis=1) for one in zip(*(v for v, _ in kept), strict=True)]
    captions = np.concatenate([c for _, c in kept], axis=1)
    if pairs.classes:
        write_text(folder / CLASS_NAMES_FILE, "\n".join(pairs.classes) + "\n")
    _, first = pairs.texts()
    shards = []
    for number, start in enumerate(range(0, len(pairs), shard_images)):
        check_stop()
        rows = range(start, min(start + shard_images, len(pairs)))
        file = folder / f"shard-{number:05d}.tar"
        with atomic_path(file) as temporary, tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
            for row in rows:
                texts = range(int(first[row]), int(first[row + 1]))
                _add_sample(tar, pairs, row, views, captions[texts.start : texts.stop])
        shards.append(ReinforcedShard(name=file.name, images=len(rows), size_bytes=file.stat().st_size))
    header = ReinforcedHeader(
        format="effcli.reinforced", version="1", views=len(views), teachers=list(teachers), shards=shards
    )
    write_text(folder / HEADER_FILE, header_text(header))
    return header


def needed_bytes(pairs: CaptionSet, embedding_bytes: int) -> int:
    """About how large the shards become."""
    sizes = [
        len(one) if isinstance(one, bytes) else one.size_bytes if one.member else one.path.stat().st_size
        for one in pairs.images
    ]
    return sum(sizes) + embedding_bytes + _TAR_BYTES_PER_SAMPLE * len(pairs)


def boxes_of_views(pairs: CaptionSet, image: int, n_views: int) -> list[Box | None]:
    """The crops that the views of an image are; None for the whole image, the only view where there is one."""
    if n_views == 1:
        return [None]
    picture = pairs.image(image)
    return [crop_box(picture, image, view) for view in range(n_views)]


def _add_sample(
    tar: tarfile.TarFile, pairs: CaptionSet, row: int, views: Sequence[np.ndarray], captions: np.ndarray
) -> None:
    key = f"{row:09d}"
    texts, image = [one_line(text) for text in pairs.captions[row]], pairs.images[row]
    boxes = boxes_of_views(pairs, row, len(views))
    about = json.dumps({"captions": texts, "views": boxes}, ensure_ascii=False)
    data = image if isinstance(image, bytes) else image.read()
    _add(tar, key + _extension(image, data), data)
    _add(tar, key + ".txt", "\n".join(texts).encode())
    if pairs.labels:
        _add(tar, key + ".cls", str(pairs.labels[row]).encode())
    _add(tar, key + ABOUT, about.encode())
    _add(tar, key + VIEWS, _npy(np.stack([one[row] for one in views])))
    _add(tar, key + CAPTIONS, _npy(captions))


def _extension(image: EncodedImage, data: bytes) -> str:
    if isinstance(image, StoredFile):
        return PurePosixPath(image.member or image.path.name).suffix.lower()
    found = next((extension for magic, extension in _MAGIC.items() if data.startswith(magic)), None)
    if found is None:
        raise InputError("an image is neither PNG, JPEG nor WebP")
    return found


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)  # time 0 and no owner: the same data give the same bytes
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def _npy(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.ascontiguousarray(values, np.float16), allow_pickle=False)
    return stream.getvalue()


def _check_space(folder: Path, pairs: CaptionSet, kept: Sequence[Kept]) -> None:
    needed = needed_bytes(pairs, sum(c.nbytes + sum(one.nbytes for one in v) for v, c in kept))
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise RunError(
            f"the shards need {needed / 1e6:,.0f} MB, the disk has {free / 1e6:,.0f} MB", place=str(folder)
        )
