"""A checksum of pairs: of what the images and captions are, not of where they lie.

Reading every image takes a while, so the checksum of a set is remembered under what the file system says of its files:
paths, sizes, and the times at which content and inode were changed. What was changed is read again, and the same
images elsewhere have the same checksum.
"""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

from effcli.core.errors import InputError
from effcli.core.files import make_folder, write_text
from effcli.data.stored_files import StoredFile
from effcli.distill.clip_kd.captions.caption_set import CaptionSet, EncodedImage

_SETTLED_NS = 2 * 10**9
"""Files that changed later than so long before they were looked at may change again at the same time of the clock."""

_LENGTH = 64


def checksum(pairs: CaptionSet, memory: Path | None = None, *, remember: bool = True) -> str:
    """A checksum of all bytes of all images and captions, in their order.

    Args:
        pairs: the set.
        memory: folder of remembered checksums; None: nothing is remembered.
        remember: whether to write to it, and not only to look there.

    Raises:
        InputError: an image cannot be read.
    """
    looked_at = time.time_ns()
    seen, newest = _state(pairs)
    file = None if memory is None or newest > looked_at - _SETTLED_NS else memory / f"{seen}.txt"
    if file is not None and (known := _remembered(file)):
        return known
    digest = hashlib.sha256()
    for image, captions in zip(pairs.images, pairs.captions, strict=True):
        digest.update(hashlib.sha256(image if isinstance(image, bytes) else image.read()).digest())
        digest.update(_joined(captions))
    if file is not None and remember:
        make_folder(file.parent)
        write_text(file, digest.hexdigest() + "\n")
    return digest.hexdigest()


def _state(pairs: CaptionSet) -> tuple[str, int]:
    """A checksum of what the file system says, and the newest change in nanoseconds since 1970."""
    digest, newest = hashlib.sha256(), 0
    states: dict[Path, str] = {}
    for image, captions in zip(pairs.images, pairs.captions, strict=True):
        if isinstance(image, StoredFile) and image.path not in states:
            status = _status(image)
            changed = max(status.st_mtime_ns, status.st_ctime_ns)
            newest = max(newest, changed)
            states[image.path] = f"{status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
        digest.update(_named(image, states))
        digest.update(_joined(captions))
    return digest.hexdigest(), newest


def _status(image: StoredFile) -> os.stat_result:
    try:
        return image.path.stat()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", place=image.place) from None


def _named(image: EncodedImage, states: dict[Path, str]) -> bytes:
    if isinstance(image, bytes):
        return hashlib.sha256(image).digest()
    place = f"{image.path.absolute()}\0{image.member}\0{image.offset_bytes}\0{image.size_bytes}"
    return f"{place}\0{states[image.path]}\0".encode(errors="surrogateescape")


def _joined(captions: tuple[str, ...]) -> bytes:
    return ("\0".join(captions) + "\0\0").encode(errors="surrogateescape")


def _remembered(file: Path) -> str | None:
    try:
        text = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return text if len(text) == _LENGTH else None
