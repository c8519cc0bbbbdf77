"""Pictures one after another in one file: GIF, WebP or MP4."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from effcli.core.errors import RunError, UsageError
from effcli.core.files import atomic_path

ENDINGS = (".gif", ".webp", ".mp4")


def check_video(path: Path) -> None:
    """Make sure that this kind of file can be written here.

    Raises:
        UsageError: the ending is none of ours, or a part is not installed.
    """
    if path.suffix.lower() not in ENDINGS:
        raise UsageError(
            f"unknown file extension {path.suffix!r}", place=str(path), hint=f"use {', '.join(ENDINGS)}"
        )
    if path.suffix.lower() == ".mp4":
        try:
            import av  # noqa: F401
        except ImportError:
            raise UsageError(
                ".mp4 needs PyAV", place=str(path), hint="pip install 'effcli[video]', or a .gif"
            ) from None


def write_video(path: Path, pictures: Iterable[Image.Image], fps: float) -> None:
    """Write pictures as a moving one: GIF, WebP or MP4 (H.264).

    Raises:
        RunError: there are none, or the file cannot be written.
    """
    coming = iter(pictures)
    first = next(coming, None)
    if first is None:
        raise RunError("there was no picture to write", place=str(path))
    pictures = chain([first], coming)
    with atomic_path(path) as temporary:
        if path.suffix.lower() == ".mp4":
            _write_mp4(temporary, pictures, fps)
            return
        kind = path.suffix.lower()[1:].upper()
        frames = [
            frame.quantize(128, dither=Image.Dither.NONE) if kind == "GIF" else frame for frame in pictures
        ]
        options: dict[str, Any] = {"quality": 80} if kind == "WEBP" else {"optimize": False}
        frames[0].save(
            temporary,
            kind,
            save_all=True,
            append_images=frames[1:],
            duration=round(1000 / fps),
            loop=0,
            **options,
        )


def _write_mp4(path: Path, pictures: Iterable[Image.Image], fps: float) -> None:
    from fractions import Fraction

    import av

    with av.open(str(path), "w", format="mp4") as container:
        stream: Any = None
        for picture in pictures:
            even = picture.crop((0, 0, picture.width // 2 * 2, picture.height // 2 * 2))
            if stream is None:
                stream = container.add_stream("h264", rate=Fraction(fps).limit_denominator(1001))
                stream.width, stream.height, stream.pix_fmt = even.width, even.height, "yuv420p"
            pixels = np.asarray(even)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        if stream is not None:
            container.mux(stream.encode())
