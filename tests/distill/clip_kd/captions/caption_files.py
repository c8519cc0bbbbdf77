"""Small pictures, and tars of them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from effcli.distill.clip_kd.captions.caption_set import CaptionSet


def encoded(grey: int) -> bytes:
    """A grey PNG."""
    stream = io.BytesIO()
    Image.new("RGB", (6, 4), (grey, grey, grey)).save(stream, "PNG")
    return stream.getvalue()


def save_grey(path: Path, grey: int = 10) -> Path:
    """A grey picture at a place whose folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(grey))
    return path


def save_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    """A tar; a name may come several times."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def greys(pairs: CaptionSet) -> list[int]:
    """The grey value of each image."""
    return [int(pairs.image(i).getpixel((0, 0))[0]) for i in range(len(pairs))]
