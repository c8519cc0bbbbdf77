"""Small videos made for tests."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

av = pytest.importorskip("av", reason="videos need PyAV")

SIDE = 48, 64
RATE = 25
AUDIO_RATE = 8000


def scene(seed: int = 0, top: int = 60) -> NDArray[np.uint8]:
    """Coloured squares, dark."""
    cells = np.random.default_rng(seed).integers(0, top, (SIDE[0] // 8, SIDE[1] // 8, 3))
    return cells.repeat(8, 0).repeat(8, 1).astype(np.uint8)


def flickering(n_frames: int, seed: int = 0, by: float = 0.3) -> list[NDArray[np.uint8]]:
    """A scene whose brightness alternates."""
    return [(scene(seed) * (1 + by * (-1) ** number)).astype(np.uint8) for number in range(n_frames)]


def save_video(
    path: Path,
    frames: Sequence[NDArray[Any]],
    *,
    times: Sequence[int] | None = None,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    sound: bool = False,
    time_base: Fraction = Fraction(1, RATE),
    **context: Any,
) -> Path:
    """Write RGB frames, losslessly or nearly so, with time stamps and a noise as sound.

    Args:
        path: says the container.
        frames: [H, W, 3], uint8 or uint16.
        times: in units of the time base; by default 0, 1, 2, ...
        codec, pixel_format, time_base: of the video.
        sound: adds a stream.
        context: attributes of the encoder, such as ``color_range``.
    """
    with av.open(str(path), "w") as container:
        options = {"libx264": {"crf": "4", "bf": "2"}}.get(codec, {})
        stream = container.add_stream(codec, rate=RATE, options=options)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixel_format
        stream.codec_context.time_base = time_base
        for name, value in context.items():
            setattr(stream.codec_context, name, value)
        audio = container.add_stream("aac", rate=AUDIO_RATE, layout="mono") if sound else None
        if audio is not None:
            container.start_encoding()
            _add_sound(container, audio, len(frames))
        for number, pixels in enumerate(frames):
            kind = "rgb24" if pixels.dtype == np.uint8 else "rgb48le"
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format=kind)
            frame = frame.reformat(format=pixel_format, dst_colorspace="ITU601")
            frame.pts, frame.time_base = (times or range(len(frames)))[number], time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _add_sound(container: Any, audio: Any, n_frames: int) -> None:
    n_samples = AUDIO_RATE * n_frames // RATE
    noise = np.random.default_rng(0).standard_normal((1, n_samples)).astype(np.float32) / 10
    frame = av.AudioFrame.from_ndarray(noise, format="fltp", layout="mono")
    frame.sample_rate, frame.pts = AUDIO_RATE, 0
    container.mux(audio.encode(frame))
    container.mux(audio.encode(None))


def frames_of(path: Path) -> list[NDArray[np.uint8]]:
    """The frames of a video as RGB."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def times_of(path: Path) -> list[Fraction]:
    """The times of the frames of a video, in seconds."""
    with av.open(str(path)) as container:
        return [frame.pts * frame.time_base for frame in container.decode(video=0)]


def packets_of(path: Path, kind: str = "audio") -> list[bytes]:
    """The packets of the first stream of a kind."""
    with av.open(str(path)) as container:
        stream = next(stream for stream in container.streams if stream.type == kind)
        return [bytes(packet) for packet in container.demux(stream) if packet.size]


def turn_by_metadata(path: Path, matrix: tuple[int, int, int, int]) -> None:
    """Set the matrix by which players turn an MP4: a, b, c, d of x' = a x + c y, y' = b x + d y."""
    a, b, c, d = matrix
    data = bytearray(path.read_bytes())
    start = data.find(b"tkhd") + 44
    fixed = np.array([a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30], ">i4")
    data[start : start + 36] = fixed.tobytes()
    path.write_bytes(data)
