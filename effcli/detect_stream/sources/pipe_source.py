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
        """Frames until the pipe is closed; one that is cut off by its end is not counted."""
        for arrival, ts in self._read_frames():
            stamped = self._clock.stamped(arrival, ts)
            self.fps = self._clock.fps
            yield stamped

    def _read_frames(self) -> Iterator[tuple[Arrival, float | None]]:
        number = 0
        while line := self._pipe.readline():
            if not line.strip():
                continue
            header = _header(line, number)
            ts = header.get("ts")
            if "w" in header:
                width, height = header["w"], header["h"]
                n_bytes = width * height * 3
                raw = [self._read(n_bytes), self._read(n_bytes)]
                if None in raw:
                    return
                shaped = [np.frombuffer(part or b"", np.uint8).reshape(height, width, 3) for part in raw]
                yield Arrival(number, StereoFrame(*shaped)), ts
            else:
                files = [self._read(header["left_bytes"]), self._read(header["right_bytes"])]
                if None in files:
                    return
                yield _decoded(number, [part or b"" for part in files]), ts
            number += 1

    def _read(self, n_bytes: int) -> bytes | None:
        data = self._pipe.read(n_bytes)
        return data if len(data) == n_bytes else None


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


def _decoded(number: int, files: list[bytes]) -> Arrival:
    try:
        pictures = [read_rgb(one, place=f"stdin, frame {number}") for one in files]
    except InputError as error:
        return Arrival(number, None, f"a picture is damaged: {error.message}")
    if pictures[0].shape != pictures[1].shape:
        return Arrival(number, None, "left and right have not the same size")
    return Arrival(number, StereoFrame(*pictures))
