"""A pipe as a source of frames."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from effcli.core.errors import InputError
from effcli.data.images import read_rgb
from effcli.detect_stream.data.stereo_calibration import StereoCalibration
from effcli.detect_stream.data.stereo_sequence import StereoFrame, StereoSequence
from effcli.detect_stream.sources.frame_clock import FrameClock
from effcli.detect_stream.sources.frame_source import Arrival

_LARGEST_PX = 8192
_ENDED = "the pipe ended in the middle of it"


class PipeSource:
    """Frames from a pipe.

    Each begins with a line of JSON. ``{"w": 1242, "h": 375}`` is followed by the left and the right picture as raw RGB
    bytes, ``{"left_bytes": 81234, "right_bytes": 80111}`` by both as PNG or JPEG files of these sizes. ``"ts"`` in it
    is the moment of the frame in seconds, of any clock.

    Attributes:
        fps: frames per second, as :class:`~effcli.detect_stream.sources.frame_clock.FrameClock` knows them.
    """

    is_live = True
    name = "stdin"

    def __init__(self, pipe: BinaryIO, calibration: StereoCalibration, fps: float | None) -> None:
        self._pipe, self.calibration = pipe, calibration
        self._clock = FrameClock(self.name, fps)
        self.fps = self._clock.fps
        self.n_frames: int | None = None
        self.sequence: StereoSequence | None = None

    def frames(self) -> Iterator[Arrival]:
        """Frames until the pipe is closed; one that is cut off by its end is damaged."""
        for arrival, ts in self._read_frames():
            if arrival.damage is _ENDED:
                yield arrival
                return
            stamped = self._clock.stamped(arrival, ts)
            self.fps = self._clock.fps
            yield stamped

    def _read_frames(self) -> Iterator[tuple[Arrival, float | None]]:
        number = 0
        while line := self._pipe.readline():
            if not line.strip():
                continue
            if number and not line.endswith(b"\n"):
                yield Arrival(number, None, _ENDED), None
                return
            header = _header(line, number)
            sizes = _sizes(header)
            parts = [self._pipe.read(size) for size in sizes]
            if [len(part) for part in parts] != sizes:
                yield Arrival(number, None, _ENDED), None
                return
            yield (_raw if "w" in header else _decoded)(number, parts, header), header["ts"]
            number += 1


def _header(line: bytes, number: int) -> dict[str, Any]:
    place = f"stdin, frame {number}"
    try:
        content = json.loads(line)
    except ValueError:
        raise InputError("the line before a frame is not JSON", place=place) from None
    for names, most in ((("w", "h"), _LARGEST_PX), (("left_bytes", "right_bytes"), 2**28)):
        values: list[Any] = [content.get(name) for name in names] if isinstance(content, dict) else []
        if values and all(isinstance(v, int) and 0 < v <= most for v in values):
            return {**dict(zip(names, values, strict=True)), "ts": _moment(content.get("ts"), place)}
    raise InputError(
        "the line before a frame has neither w and h nor left_bytes and right_bytes", place=place
    )


def _moment(value: Any, place: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InputError(f"ts is {value!r}, not a time in seconds", place=place)
    return float(value)


def _sizes(header: dict[str, Any]) -> list[int]:
    """Bytes of the left and the right picture."""
    if "w" in header:
        return [header["w"] * header["h"] * 3] * 2
    return [header["left_bytes"], header["right_bytes"]]


def _raw(number: int, parts: list[bytes], header: dict[str, Any]) -> Arrival:
    shape = header["h"], header["w"], 3
    return Arrival(number, StereoFrame(*(np.frombuffer(part, np.uint8).reshape(shape) for part in parts)))


def _decoded(number: int, files: list[bytes], header: dict[str, Any]) -> Arrival:
    try:
        pictures = [read_rgb(one, place=f"stdin, frame {number}") for one in files]
    except InputError as error:
        return Arrival(number, None, f"a picture is damaged: {error.message}")
    if pictures[0].shape != pictures[1].shape:
        return Arrival(number, None, "left and right have not the same size")
    return Arrival(number, StereoFrame(*pictures))
