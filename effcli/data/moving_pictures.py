"""Pictures one after another in one file: GIF, WebP or MP4."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from effcli.core.errors import RunError, UsageError
from effcli.core.files import atomic_path

ENDINGS = (".gif", ".webp", ".mp4")
_TICK_S = Fraction(1, 90_000)
"""Unit of the times in MP4."""


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
    write_timed_video(path, ((picture, number / fps) for number, picture in enumerate(pictures)), fps)


def write_timed_video(path: Path, pictures: Iterable[tuple[Image.Image, float]], fps: float) -> None:
    """As :func:`write_video`, each picture with its moment in seconds, which increases; the last stays for 1 / fps.

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
        timed = [
            (frame.quantize(128, dither=Image.Dither.NONE) if kind == "GIF" else frame, moment_s)
            for frame, moment_s in pictures
        ]
        frames, moments_s = [frame for frame, _ in timed], [moment_s for _, moment_s in timed]
        last_s = moments_s[-1] + 1 / fps
        options: dict[str, Any] = {"quality": 80} if kind == "WEBP" else {"optimize": False}
        frames[0].save(
            temporary,
            kind,
            save_all=True,
            append_images=frames[1:],
            duration=[round(1000 * (b - a)) for a, b in pairwise([*moments_s, last_s])],
            loop=0,
            **options,
        )


def _write_mp4(path: Path, pictures: Iterable[tuple[Image.Image, float]], fps: float) -> None:
    import av

    with av.open(str(path), "w", format="mp4") as container:
        stream: Any = None
        first_s = 0.0
        for picture, moment_s in pictures:
            even = picture.crop((0, 0, picture.width // 2 * 2, picture.height // 2 * 2))
            if stream is None:
                stream = container.add_stream("h264", rate=Fraction(fps).limit_denominator(1001))
                stream.width, stream.height, stream.pix_fmt = even.width, even.height, "yuv420p"
                stream.codec_context.time_base = _TICK_S
                stream.options = {"bf": "0"}  # else the file ends before frames that are far apart
                first_s = moment_s
            frame = av.VideoFrame.from_ndarray(np.asarray(even), format="rgb24")
            frame.pts, frame.time_base = round((moment_s - first_s) / _TICK_S), _TICK_S
            container.mux(stream.encode(frame))
        if stream is not None:
            container.mux(stream.encode())
