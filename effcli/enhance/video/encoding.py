"""The codec and the samples of the output, and encoding some seconds of it at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from effcli.core.errors import RunError
from effcli.data.video.source import VideoFacts
from effcli.data.video.yuv import Planes, YuvLayout

SEGMENT_FORMAT = "mp4"

_CODECS = {"webm": ("libvpx-vp9",)}
_H264 = ("libx264", "mpeg4")
"""In the order in which they are taken."""
_CHROMA_NAMES = {(2, 2): "420", (1, 2): "422", (1, 1): "444", None: ""}
_EVEN_SIDES = ("libx264",)
_LARGEST_TIME_BASE = 60_000


@dataclass(frozen=True)
class Encoding:
    """How the frames of a video are encoded.

    Attributes:
        codec: name of the encoder.
        pixel_format: name of the layout of the samples.
        layout: of the samples.
        width, height: of the encoded frames; those of the video, or one pixel less where the codec needs even sides.
        options: of the encoder.
        notes: what differs from the input, one sentence each.
    """

    codec: str
    pixel_format: str
    layout: YuvLayout
    width: int
    height: int
    options: dict[str, str]
    notes: tuple[str, ...] = ()


def choose_encoding(facts: VideoFacts, container: str, quality: int) -> Encoding:
    """The encoding for a container: H.264, or VP9 for WebM, with the samples of the input where the encoder has them.

    Args:
        facts: of the input.
        container: name of the format.
        quality: 1 to 100.

    Raises:
        RunError: this PyAV has no encoder for it.
    """
    names = _CODECS.get(container, _H264)
    codec = next((name for name in names if name in av.codecs_available), None)
    if codec is None:
        raise RunError(
            f"this PyAV has no encoder {' or '.join(names)}",
            hint="pip install 'effcli[video]' brings one that has",
        )
    notes = []
    if codec == "mpeg4":
        notes.append("written as MPEG-4 part 2, as this PyAV has no libx264")
    formats = {one.name for one in av.Codec(codec, "w").video_formats or ()}
    name, layout = _samples(facts.layout, formats)
    if layout.bits < facts.layout.bits:
        notes.append(f"{facts.layout.bits}-bit samples become {layout.bits}-bit ones, which the encoder has")
    if layout.cell != facts.layout.cell:
        notes.append("colour has half the resolution of brightness (4:2:0), which the encoder has")
    if codec == "mpeg4":
        layout = replace(layout, is_full=False)
    down, across = layout.cell or (1, 1)
    width, height = facts.width, facts.height
    if codec in _EVEN_SIDES:
        width, height = max(across, width // across * across), max(down, height // down * down)
    if (width, height) != (facts.width, facts.height):
        notes.append(f"cropped to {width}x{height}, as the encoder needs even sides")
    return Encoding(codec, name, layout, width, height, _options(codec, quality), tuple(notes))


def _samples(wanted: YuvLayout, formats: Collection[str]) -> tuple[str, YuvLayout]:
    """The layout nearest to that of the input that an encoder has: depth first, then chroma."""
    cells = dict.fromkeys((wanted.cell if wanted.cell in _CHROMA_NAMES else (2, 2), (2, 2)))
    for bits in dict.fromkeys((wanted.bits, 12, 10, 8)):
        for cell in cells:
            name = "gray" if cell is None else f"yuv{_CHROMA_NAMES[cell]}p"
            name += "" if bits == 8 else f"{bits}le"
            if bits <= wanted.bits and name in formats:
                return name, replace(wanted, cell=cell, bits=bits)
    return "yuv420p", replace(wanted, cell=(2, 2), bits=8)


def _options(codec: str, quality: int) -> dict[str, str]:
    """Options of an encoder for a quality of 1 to 100, of which 95 is hard to tell from the original.

    x264 gets one thread: with more its lookahead runs beside the encoder, and in short segments how far it has come
    decides the bits that a frame gets, so that the same frames were not always encoded in the same way.
    """
    loss = 100 - quality
    if codec == "libx264":
        return {"crf": str(round(15 + 0.36 * loss)), "bf": "0", "threads": "1"}
    if codec == "libvpx-vp9":
        return {
            "crf": str(round(18 + 0.45 * loss)),
            "b": "0",
            "deadline": "good",
            "cpu-used": "4",
            "row-mt": "1",
        }
    scale = str(round(1 + 0.3 * loss))
    return {"qmin": scale, "qmax": scale, "bf": "0"}


def encode_segment(path: Path, frames: Iterable[Planes], encoding: Encoding, facts: VideoFacts) -> None:
    """Encode frames that can be decoded for themselves, in order, into a file; time stamps only count them.

    Raises:
        RunError: a frame is missing in what the encoder gave.
        OSError: the file cannot be written.
    """
    n_frames = n_packets = 0
    with av.open(str(path.absolute()), "w", format=SEGMENT_FORMAT) as container:
        stream = _stream(container, encoding, facts)
        for planes in frames:
            frame = _frame(planes, encoding, facts)
            frame.pts, frame.time_base = n_frames, stream.codec_context.time_base
            n_frames += 1
            n_packets += _mux(container, stream.encode(frame))
        n_packets += _mux(container, stream.encode(None))
    if n_packets != n_frames:
        raise RunError(f"{encoding.codec} gave {n_packets} packets for {n_frames} frames", place=str(path))


def _mux(container: Any, packets: list[Any]) -> int:
    container.mux(packets)
    return len(packets)


def _stream(container: Any, encoding: Encoding, facts: VideoFacts) -> Any:
    rate = facts.rate.limit_denominator(1001)
    if rate.numerator > _LARGEST_TIME_BASE:
        rate = Fraction(round(rate))
    stream = container.add_stream(encoding.codec, rate=rate, options=dict(encoding.options))
    stream.width, stream.height, stream.pix_fmt = encoding.width, encoding.height, encoding.pixel_format
    context = stream.codec_context
    context.time_base = 1 / rate
    context.sample_aspect_ratio = facts.aspect
    tags = facts.colours
    context.color_range = 1 if tags.range == 2 and not encoding.layout.is_full else tags.range
    context.colorspace, context.color_primaries, context.color_trc = tags.matrix, tags.primaries, tags.curve
    return stream


def _frame(planes: Planes, encoding: Encoding, facts: VideoFacts) -> Any:
    frame = av.VideoFrame(encoding.width, encoding.height, encoding.pixel_format)
    for plane, values in zip(frame.planes, planes, strict=True):
        padded = np.zeros((plane.height, plane.line_size // values.itemsize), values.dtype)
        padded[:, : values.shape[1]] = values
        plane.update(padded.tobytes())
    return frame
