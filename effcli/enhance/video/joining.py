"""From encoded segments to the output: joined without encoding again, with all other streams of the input copied."""

from __future__ import annotations

import heapq
import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import av

from effcli.core.errors import RunError
from effcli.data.video.source import InputVideo, opened
from effcli.enhance.video.work_folder import DoneFrame, WorkFolder

_OPTIONS = {"mp4": {"movflags": "+faststart"}, "mov": {"movflags": "+faststart"}}
_OWN_METADATA = {"major_brand", "minor_version", "compatible_brands", "encoder", "duration"}
"""Of the container itself, not of what is in it."""


@dataclass
class Joined:
    """What became of the other streams.

    Attributes:
        copied: how many streams of each type were copied packet by packet.
        notes: what was left out, one sentence each.
    """

    copied: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)


def join(work: WorkFolder, source: InputVideo, container: str, output: Path) -> Joined:
    """Write the output: the frames of the segments with the time stamps of the input, and its other streams.

    Where the input is damaged, other streams end with the frames.

    Args:
        work: with all segments.
        source: the input.
        container: name of the format.
        output: the file to write; it is not complete before this returns.

    Raises:
        RunError: it cannot be written, or a segment cannot be read.
        InputError: the input cannot be read any more.
    """
    joined = Joined()
    try:
        with (
            opened(source.path) as input_,
            av.open(
                str(output.absolute()),
                "w",
                format=container,
                metadata_errors="surrogateescape",
                container_options=_OPTIONS.get(container, {}),
            ) as written,
        ):
            _write(input_, written, work, source, container, joined)
        with opened(output) as result, opened(source.path) as input_:
            lost = _lost_metadata(input_, result)
    except OSError as error:
        raise RunError(
            f"the video cannot be written: {error.strerror or error}", place=str(output)
        ) from error
    except av.FFmpegError as error:
        raise RunError(f"the video cannot be written: {error}", place=str(output)) from error
    if lost:
        joined.notes.append(f"metadata that {container} does not hold is left out: {', '.join(lost)}")
    return joined


def _write(
    input_: Any, written: Any, work: WorkFolder, source: InputVideo, container: str, joined: Joined
) -> None:
    written.metadata.update(input_.metadata)
    if hasattr(written, "set_chapters") and (chapters := input_.chapters()):
        written.set_chapters(chapters)
    video = _video_stream(
        written, work.segments()[0], input_.streams[source.facts.stream], source.facts.time_base
    )
    copies = _copied_streams(input_, written, source, container, joined)
    end_s = None if source.damage is None else _end_s(work, source)
    packets = heapq.merge(
        _video_packets(work, source, video), _other_packets(input_, copies, end_s), key=lambda one: one[0]
    )
    written.start_encoding()
    for _, packet in packets:
        written.mux_one(packet)
    if end_s is not None and copies:
        joined.notes.append(f"the other streams end at {end_s:.2f} s, with the frames")


def _video_stream(written: Any, segment: Path, original: Any, time_base: Fraction) -> Any:
    with opened(segment) as encoded:
        stream = written.add_stream_from_template(encoded.streams.video[0])
    stream.time_base = time_base
    stream.metadata.update(_named(original))
    return stream


def _named(stream: Any) -> dict[str, str]:
    """The metadata of a stream that says what it is, not how it is stored."""
    return {name: text for name, text in stream.metadata.items() if name.lower() in ("language", "title")}


def _copied_streams(
    input_: Any, written: Any, source: InputVideo, container: str, joined: Joined
) -> dict[int, Any]:
    """A stream of the output for each of the input that the container can hold, by index."""
    copies: dict[int, Any] = {}
    left_out: Counter[str] = Counter()
    for stream in input_.streams:
        if stream.index == source.facts.stream:
            continue
        if stream.type == "video" or not _holds(container, stream):
            left_out[_described(stream)] += 1
            continue
        copies[stream.index] = copy = written.add_stream_from_template(stream)
        copy.metadata.update(_named(stream))
        joined.copied[stream.type] += 1
    if left_out:
        said = ", ".join(f"{n} x {kind}" if n > 1 else kind for kind, n in left_out.items())
        joined.notes.append(f"streams left out: {said}")
    return copies


def _holds(container: str, stream: Any) -> bool:
    """Whether a container takes a stream: tried, as the library's answers are incomplete."""
    try:
        with av.open(io.BytesIO(), "w", format=container) as trial:
            trial.add_stream_from_template(stream)
            trial.start_encoding()
    except (av.FFmpegError, ValueError, TypeError, AttributeError, OSError):
        return False
    return True


def _described(stream: Any) -> str:
    context = stream.codec_context
    name = f" ({context.name})" if context is not None and context.name else ""
    kind = "second picture or cover" if stream.type == "video" else stream.type
    return f"{kind}{name}"


def _video_packets(work: WorkFolder, source: InputVideo, video: Any) -> Iterator[tuple[float, Any]]:
    """Packets of the segments, each with the time stamp of its frame, and their times in seconds."""
    time_base = source.facts.time_base
    usual = max(1, round(1 / (source.facts.rate * time_base)))
    encoded = _encoded_packets(work.segments())
    for frame, following in pairwise(chain(work.frames(), (None,))):
        assert frame is not None
        packet = next(encoded, None)
        if packet is None:
            raise RunError("a segment is damaged", place=str(work.path), hint="--force starts anew")
        packet.stream = video
        packet.time_base = time_base
        packet.pts = packet.dts = frame.pts
        packet.duration = following.pts - frame.pts if following else frame.duration or usual
        yield float(frame.pts * time_base), packet


def _encoded_packets(segments: list[Path]) -> Iterator[Any]:
    first = None
    for segment in segments:
        with opened(segment) as encoded:
            stream = encoded.streams.video[0]
            header = bytes(stream.codec_context.extradata or b"")
            first = header if first is None else first
            if header != first:
                raise RunError("was encoded in another way", place=str(segment), hint="--force starts anew")
            yield from (packet for packet in encoded.demux(stream) if packet.size)


def _other_packets(input_: Any, copies: dict[int, Any], end_s: float | None) -> Iterator[tuple[float, Any]]:
    """Packets of the other streams as they are, with their times; those of a damaged input as far as they go."""
    if not copies:
        return
    time_s = 0.0
    try:
        for packet in input_.demux([input_.streams[index] for index in copies]):
            if not packet.size or (packet.dts is None and packet.pts is None):
                continue
            stamp = packet.dts if packet.dts is not None else packet.pts
            time_s = float(stamp * packet.time_base)
            if end_s is not None and (time_s >= end_s or packet.is_corrupt):
                continue
            packet.stream = copies[packet.stream_index]
            yield time_s, packet
    except av.FFmpegError:
        if end_s is None:
            raise


def _end_s(work: WorkFolder, source: InputVideo) -> float:
    last: DoneFrame | None = work.last
    assert last is not None
    duration = last.duration * source.facts.time_base if last.duration else 1 / source.facts.rate
    return float(last.pts * source.facts.time_base + duration)


def _lost_metadata(input_: Any, result: Any) -> list[str]:
    kept = {name.lower() for name in result.metadata}
    return sorted(name for name in input_.metadata if name.lower() not in kept | _OWN_METADATA)
