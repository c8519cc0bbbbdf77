"""Reading a video frame by frame: what it is, what of it is understood, and where it is damaged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor

from effcli.core.errors import InputError
from effcli.data.video.yuv import UNSPECIFIED, Planes, YuvLayout, luma_weights_of, to_rgb

MAX_PIXELS = 400_000_000
"""The largest frame, as for pictures."""

_ATTACHED_PICTURE = 0x400
_RATE = Fraction(30)
_UNDERSTOOD_CURVES = {1, 2, 4, 5, 6, 7, 11, 12, 13, 14, 15}
_HLG = 18
_CURVE_NAMES = {
    8: "linear light",
    9: "logarithmic",
    10: "logarithmic",
    16: "PQ (HDR10, Dolby Vision)",
    17: "DCI",
}
_NO_VIDEO = ("tty", "image2", "gif", "webp", "concat", "hls", "dash")
_WITH_DURATION = ("mov", "matroska")
_TRUNCATED_S, _TRUNCATED_FRAMES = 0.15, 3
"""A file that ends so much earlier than its header says is truncated."""
_RGB_MATRIX = 6
"""Frames stored as RGB are converted by the library with BT.601, in limited range."""


@dataclass(frozen=True)
class ColourTags:
    """What a file says about its colours, as numbers of ITU-T H.273; 2 (for the range 0) where it says nothing."""

    range: int = 0
    matrix: int = UNSPECIFIED
    primaries: int = UNSPECIFIED
    curve: int = UNSPECIFIED


@dataclass(frozen=True)
class VideoFacts:
    """What a video is.

    Attributes:
        width, height: of the upright frames, in pixels.
        layout: of the samples.
        colours: tags that the output gets, too.
        aspect: of a pixel of the upright frames, width over height.
        time_base: seconds per unit of the time stamps.
        rate: frames per second, nominal or on average.
        n_frames: as far as the file tells, else estimated; 0 where nothing is known.
        stream: index of the video stream.
        notes: what is not kept or not as it seems, one sentence each.
    """

    width: int
    height: int
    layout: YuvLayout
    colours: ColourTags
    aspect: Fraction
    time_base: Fraction
    rate: Fraction
    n_frames: int
    stream: int
    notes: tuple[str, ...] = ()


@dataclass
class InputVideo:
    """A video that can be read.

    Attributes:
        path: where it is.
        facts: what it is.
        damage: why :meth:`frames` ended before the end of the video; None where it did not.
        n_retimed: frames whose time stamp was missing or not later than the one before.
    """

    path: Path
    facts: VideoFacts
    turn: tuple[tuple[int, int], tuple[int, int]]
    damage: str | None = field(default=None, init=False)
    n_retimed: int = field(default=0, init=False)

    def frames(self) -> Iterator[tuple[int, int, Any]]:
        """Time stamp, duration (0: unknown) in units of the time base, and the frame, up to the end or the damage."""
        last: int | None = None
        step = max(1, round(1 / (self.facts.rate * self.facts.time_base)))
        for frame, duration in self._decoded():
            pts = frame.pts
            if pts is None or (last is not None and pts <= last):
                pts = 0 if last is None else last + (step if pts is None else 1)
                self.n_retimed += 1
            last = pts
            yield pts, duration, frame

    def rgb(self, frame: Any) -> Tensor:
        """A frame as upright RGB, [1, 3, H, W] in 0..1."""
        return _turned(to_rgb(_planes(frame), _layout(frame)), self.turn)

    def _decoded(self) -> Iterator[tuple[Any, int]]:
        self.damage, self.n_retimed = None, 0
        with opened(self.path) as container:
            stream = container.streams[self.facts.stream]
            stream.thread_type = "AUTO"
            size, end_s, duration = None, 0.0, 0
            try:
                for packet in container.demux():
                    end_s = max(end_s, _end_s(packet))
                    if packet.stream_index != stream.index:
                        continue
                    if packet.is_corrupt:
                        self.damage = "the file is truncated or damaged"
                        break
                    duration = packet.duration or duration
                    for frame in packet.decode():
                        size = size or (frame.width, frame.height)
                        if self._is_wrong(frame, size):
                            return
                        yield frame, getattr(frame, "duration", 0) or duration
                    if self.damage:
                        break
            except av.FFmpegError as error:
                self.damage = _text(error)
            if self.damage:
                yield from ((frame, duration) for frame in _rest(stream) if not frame.is_corrupt)
            elif _is_cut_short(container, end_s, self.facts.rate):
                self.damage = f"the file ends after {end_s:.1f} of {container.duration / av.time_base:.1f} s"

    def _is_wrong(self, frame: Any, size: tuple[int, int]) -> bool:
        if (frame.width, frame.height) != size:
            self.damage = f"its frames become {frame.width}x{frame.height}, they were {size[0]}x{size[1]}"
        elif frame.is_corrupt:
            self.damage = "a frame is damaged"
        return self.damage is not None


def open_source(path: Path) -> InputVideo:
    """Look at a video and its first frame.

    Raises:
        InputError: it cannot be read, holds no video or no frame, or is of a kind that is not understood.
    """
    place = str(path)
    with opened(path) as container:
        kind = container.format.name
        if kind.endswith("_pipe") or kind.split(",")[0] in _NO_VIDEO:
            raise InputError(f"is not a video ({kind})", place=place)
        streams = [stream for stream in container.streams.video if not _is_cover(stream)]
        if not streams:
            raise InputError("holds no video", place=place)
        stream = streams[0]
        colours = _colours(stream, place)
        try:
            frame = next(iter(container.decode(stream)), None)
        except av.FFmpegError as error:
            raise InputError(f"no frame can be read: {_text(error)}", place=place) from None
        if frame is None:
            raise InputError("holds no frame", place=place)
        return _described(path, container, stream, frame, colours)


def _described(path: Path, container: Any, stream: Any, frame: Any, colours: ColourTags) -> InputVideo:
    place = str(path)
    turn = _turn(frame, place)
    if frame.width * frame.height > MAX_PIXELS:
        raise InputError(f"frames of {frame.width}x{frame.height} pixels are too large", place=place)
    if not _is_rgb(frame) and luma_weights_of(frame.colorspace, frame.width, frame.height) is None:
        raise InputError(
            f"its colour format is not supported (matrix {frame.colorspace} of H.273)",
            place=place,
            hint="convert it to BT.709 first",
        )
    is_rgb = _is_rgb(frame)
    aspect = Fraction(stream.sample_aspect_ratio or 1)
    swaps = turn[0][0] == 0
    width, height = (frame.height, frame.width) if swaps else (frame.width, frame.height)
    layout = _layout(frame)
    cell = layout.cell and (layout.cell[1], layout.cell[0]) if swaps else layout.cell
    rate = Fraction(stream.average_rate or stream.guessed_rate or _RATE).limit_denominator(1001)
    rate = min(max(rate, Fraction(1)), Fraction(1000))
    facts = VideoFacts(
        width=width,
        height=height,
        layout=YuvLayout(cell, layout.bits, layout.is_full, layout.luma_weights),
        colours=ColourTags(
            range=1 if is_rgb else 2 if layout.is_full else colours.range,
            matrix=_RGB_MATRIX if is_rgb else frame.colorspace,
            primaries=colours.primaries,
            curve=colours.curve,
        ),
        aspect=1 / aspect if swaps and aspect else aspect or Fraction(1),
        time_base=Fraction(stream.time_base),
        rate=rate,
        n_frames=stream.frames or round(float(rate) * (container.duration or 0) / av.time_base),
        stream=stream.index,
        notes=_notes(frame, colours, has_hidden_alpha=_has_hidden_alpha(stream)),
    )
    return InputVideo(path, facts, turn)


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The container of a file; it is read from the file alone, whatever it refers to.

    Raises:
        InputError: it cannot be opened.
    """
    try:
        container = av.open(
            str(path.absolute()),
            metadata_errors="surrogateescape",
            container_options={"protocol_whitelist": "file"},
        )
    except (OSError, ValueError) as error:  # av.FFmpegError is one or the other
        raise InputError(f"cannot be read as a video: {_text(error)}", place=str(path)) from None
    with container:
        yield container


def _text(error: Exception) -> str:
    """What FFmpeg says, without the number and the name of the file."""
    return str(getattr(error, "strerror", None) or error)


def _is_cover(stream: Any) -> bool:
    return bool(int(getattr(stream, "disposition", 0)) & _ATTACHED_PICTURE)


def _colours(stream: Any, place: str) -> ColourTags:
    context = stream.codec_context
    curve = int(context.color_trc)
    if curve not in _UNDERSTOOD_CURVES and curve != _HLG:
        name = _CURVE_NAMES.get(curve, f"number {curve} of H.273")
        raise InputError(
            f"its transfer curve is not supported: {name}",
            place=place,
            hint="convert it to SDR (BT.709) first",
        )
    return ColourTags(int(context.color_range), int(context.colorspace), int(context.color_primaries), curve)


def _notes(frame: Any, colours: ColourTags, *, has_hidden_alpha: bool) -> tuple[str, ...]:
    """What is to be said; WebM has transparency beside frames that do not show it (``alpha_mode``)."""
    notes = []
    if frame.interlaced_frame:
        notes.append(
            "interlaced: both fields of a frame are taken together; deinterlace it first for a better result"
        )
    if colours.curve == _HLG:
        notes.append("HLG (high dynamic range) is taken for SDR")
    if has_hidden_alpha or any(part.is_alpha for part in frame.format.components):
        notes.append("its transparency is left out")
    return tuple(notes)


def _has_hidden_alpha(stream: Any) -> bool:
    return any(name.lower() == "alpha_mode" and value == "1" for name, value in stream.metadata.items())


def _is_rgb(frame: Any) -> bool:
    return bool(frame.format.is_rgb or frame.format.has_palette)


def _layout(frame: Any) -> YuvLayout:
    """How :func:`_planes` of a frame are to be read."""
    parts = [part for part in frame.format.components if not part.is_alpha]
    bits = min(16, max(8, parts[0].bits))
    weights = luma_weights_of(frame.colorspace, frame.width, frame.height)
    if _is_rgb(frame) or weights is None:
        return YuvLayout((1, 1), 8 if bits == 8 else 16, False, luma_weights_of(_RGB_MATRIX, 0, 0) or (0, 0))
    cell = None
    if len(parts) > 1:
        across, down = (-(-frame.width // parts[1].width), -(-frame.height // parts[1].height))
        cell = (2, 2) if (down, across) == (2, 2) else (1, 2) if (down, across) == (1, 2) else (1, 1)
    is_full = frame.color_range == 2 or frame.format.name.startswith("yuvj")
    return YuvLayout(cell, bits, is_full, weights)


def _planes(frame: Any) -> Planes:
    """Y, or Y, Cb and Cr of a frame, in the layout of :func:`_layout`."""
    layout = _layout(frame)
    name = "gray" if layout.cell is None else f"yuv{_CHROMA[layout.cell]}p"
    name += "" if layout.bits == 8 else f"{layout.bits}le"
    if frame.format.name.replace("yuvj", "yuv") != name:
        if _is_rgb(frame):
            frame = frame.reformat(format=name, dst_colorspace="ITU601", dst_color_range="MPEG")
        else:
            frame = frame.reformat(format=name)
    dtype = np.dtype(np.uint8 if layout.bits == 8 else np.uint16)
    return [
        np.frombuffer(plane, dtype).reshape(plane.height, -1)[:, : plane.width]
        for plane in frame.planes[: 1 if layout.cell is None else 3]
    ]


_CHROMA = {(2, 2): "420", (1, 2): "422", (1, 1): "444"}


def _turn(frame: Any, place: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """The matrix by which a player turns frames: quarter turns and mirror images."""
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            values = np.frombuffer(data, np.int32, 5).astype(np.float64)
            scale = np.abs(values).max() or 1.0
            a, b, _, c, d = (values / scale).round(3).tolist()
            if sorted(map(abs, (a, b, c, d))) != [0, 0, 1, 1] or abs(a) != abs(d):
                raise InputError("is rotated by an angle other than 90, 180 or 270 degrees", place=place)
            return (int(a), int(b)), (int(c), int(d))
    return (1, 0), (0, 1)


def _turned(x: Tensor, turn: tuple[tuple[int, int], tuple[int, int]]) -> Tensor:
    """Frames [..., H, W] as a player shows them: x' = a x + c y, y' = b x + d y."""
    (a, b), (c, d) = turn
    if a == 0:
        x = x.transpose(-2, -1)
    flipped = [axis for axis, sign in ((-1, a + c), (-2, b + d)) if sign < 0]
    return torch.flip(x, flipped) if flipped else x


def _end_s(packet: Any) -> float:
    if packet.pts is None or not packet.size:
        return 0.0
    return float((packet.pts + (packet.duration or 0)) * packet.time_base)


def _rest(stream: Any) -> list[Any]:
    """Frames that the decoder still holds when the packets end in damage."""
    try:
        return list(stream.codec_context.decode(None))
    except (av.FFmpegError, EOFError):
        return []


def _is_cut_short(container: Any, end_s: float, rate: Fraction) -> bool:
    if not container.duration or not container.format.name.startswith(_WITH_DURATION):
        return False
    start_s = (container.start_time or 0) / av.time_base
    missing_s: float = container.duration / av.time_base + max(0.0, start_s) - end_s
    return missing_s > max(_TRUNCATED_S, float(_TRUNCATED_FRAMES / rate))
