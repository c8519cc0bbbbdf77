"""Videos and live cameras as sources of frames; need PyAV, ``pip install effcli[video]``."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from effcli.core.errors import InputError, UsageError
from effcli.detect_stream.data.stereo_calibration import StereoCalibration
from effcli.detect_stream.data.stereo_sequence import FPS, StereoFrame, StereoSequence, halves
from effcli.detect_stream.sources.frame_clock import FrameClock
from effcli.detect_stream.sources.frame_source import Arrival

log = logging.getLogger(__name__)

VIDEO_ENDINGS = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".ts")
_LIVE = ("rtsp", "rtsps", "rtmp", "http", "https", "tcp", "udp", "srt")
_DEVICES = "/dev/video"
_TIMEOUT_S = 10.0
_LEAST_MISSING_S = 0.15
_SAME_RATE = 0.01
"""Share by which the rates of two videos may differ; of a few frames they are not known better."""


def is_live_name(source: str) -> bool:
    """Whether a source is a camera or a stream: ``/dev/video0``, ``rtsp://...``."""
    return source.startswith(_DEVICES) or (source.partition("://")[0] in _LIVE and "://" in source)


class VideoSource:
    """Two videos, or one with both eyes side by side.

    Frames have the moments of the (left) video, unless ``fps`` is given. Where one video is longer, frames of the
    other are missing, and where their moments drift apart, frames do not belong together: they cannot be read.

    Args:
        left: the left video, or the one with both eyes.
        right: the right video; None where both eyes are in one.
        calibration: of the cameras.
        fps: frames per second; None as the left video says, else 10.

    Raises:
        InputError: a video cannot be read, it is turned by its metadata, or they have not the same size or rate.
        UsageError: PyAV is not installed.
    """

    is_live = False

    def __init__(
        self, left: Path, right: Path | None, calibration: StereoCalibration, fps: float | None
    ) -> None:
        self.name, self.calibration = left.stem, calibration
        self._paths = [str(path) for path in (left, right) if path is not None]
        containers = [_opened(path) for path in self._paths]
        streams = [container.streams.video[0] for container in containers]
        sizes = [(stream.height, stream.width) for stream in streams]
        if sizes[0] != sizes[-1]:
            raise InputError(
                f"is {sizes[1][1]}x{sizes[1][0]}, the left video {sizes[0][1]}x{sizes[0][0]}",
                place=str(right),
            )
        rates = [float(stream.average_rate or 0) for stream in streams]
        if all(rates) and abs(rates[0] / rates[-1] - 1) > _SAME_RATE:
            raise InputError(
                f"has {rates[1]:.4g} frames per second, the left video {rates[0]:.4g}",
                place=str(right),
                hint="frames are paired by their order: convert both to one rate",
            )
        self.fps = fps or rates[0] or FPS
        self._has_moments = fps is None
        self._first_s: tuple[float, ...] = ()
        if not fps and not rates[0]:
            log.warning("%s: says no frame rate: %g per second are assumed; --fps sets it", left, FPS)
        for container, path in zip(containers, self._paths, strict=True):
            _refuse_turned(container, path)
        self.n_frames: int | None = max(stream.frames for stream in streams) or None
        self.sequence: StereoSequence | None = None
        for container in containers:
            container.close()

    def frames(self) -> Iterator[Arrival]:
        """All frames, up to where one of the videos is damaged or cut off."""
        import av

        containers = [_opened(path) for path in self._paths]
        number = 0
        ends_s: list[float | None] = [None] * len(containers)
        try:
            for pictures in zip_longest(*(one.decode(video=0) for one in containers)):
                yield self._arrival(number, pictures)
                ends_s = [
                    one.time if one is not None else end for one, end in zip(pictures, ends_s, strict=True)
                ]
                number += 1
            for container, path, end_s in zip(containers, self._paths, ends_s, strict=True):
                if reason := _cut_off(container, end_s):
                    yield Arrival(number, None, f"{path}: {reason}")
        except av.FFmpegError as error:
            yield Arrival(number, None, f"a video cannot be read any further: {error}")
        finally:
            for container in containers:
                container.close()

    def _arrival(self, number: int, pictures: tuple[Any, ...]) -> Arrival:
        if None in pictures:
            side = "left" if pictures[0] is None else "right"
            return Arrival(number, None, f"the {side} video has ended before")
        times_s = [one.time for one in pictures]
        if None not in times_s and not self._first_s:
            self._first_s = tuple(times_s)
        moments_s = [] if None in times_s else [a - b for a, b in zip(times_s, self._first_s, strict=True)]
        if moments_s and abs(moments_s[0] - moments_s[-1]) > 0.5 / self.fps:
            apart_ms = 1000 * abs(moments_s[0] - moments_s[-1])
            return Arrival(number, None, f"left and right were taken {apart_ms:.0f} ms apart")
        arrays = [one.to_ndarray(format="rgb24") for one in pictures]
        if len(arrays) == 2 and arrays[0].shape != arrays[1].shape:
            return Arrival(number, None, "left and right have not the same size")
        arrival = _arrival_of(number, arrays, self._paths[0])
        return replace(arrival, time_s=moments_s[0]) if moments_s and self._has_moments else arrival


class LiveSource:
    """A camera or stream with both eyes side by side, as it comes.

    Frames have the moments that their sender gives them; without any they are taken when they arrive.

    Args:
        address: ``/dev/video0`` or an address of FFmpeg's, ``rtsp://...``.
        calibration: of the cameras.
        fps: see :class:`~effcli.detect_stream.sources.frame_clock.FrameClock`.

    Raises:
        InputError: it cannot be opened.
        UsageError: PyAV is not installed.
    """

    is_live = True

    def __init__(self, address: str, calibration: StereoCalibration, fps: float | None) -> None:
        self.name, self.calibration = "camera", calibration
        self._address, self._container = address, _opened(address)
        self._clock = FrameClock(self.name, fps)
        self.fps = self._clock.fps
        self.n_frames: int | None = None
        self.sequence: StereoSequence | None = None

    def frames(self) -> Iterator[Arrival]:
        """Frames until the sender ends; if it breaks off, the last one says so."""
        import av

        number = 0
        try:
            for packet in self._container.demux(video=0):
                for arrival, moment in self._decoded(packet, number):
                    number = arrival.number + 1
                    stamped = arrival if arrival.frame is None else self._clock.stamped(arrival, moment)
                    self.fps = self._clock.fps
                    yield stamped
        except (av.FFmpegError, OSError) as error:
            yield Arrival(number, None, f"the stream broke off: {error}")
        finally:
            self._container.close()

    def _decoded(self, packet: Any, number: int) -> list[tuple[Arrival, float | None]]:
        """The frames of a packet, the first with this number, and their moments; a damaged packet counts as one."""
        import av

        try:
            pictures = packet.decode()
        except av.error.InvalidDataError as error:
            return [(Arrival(number, None, f"it cannot be decoded: {error}"), None)]
        return [
            (_arrival_of(number + i, [one.to_ndarray(format="rgb24")], self._address), one.time)
            for i, one in enumerate(pictures)
        ]


def _arrival_of(number: int, pictures: list[Any], place: str) -> Arrival:
    try:
        return Arrival(number, StereoFrame(*pictures) if len(pictures) == 2 else halves(pictures[0], place))
    except InputError as error:
        return Arrival(number, None, error.message)


def _cut_off(container: Any, end_s: float | None) -> str | None:
    """Why a video ends before the end that its header tells.

    Args:
        container: of the video, which has been read.
        end_s: moment of its last frame; None where it had none.
    """
    stream = container.streams.video[0]
    tag = next((value for name, value in stream.metadata.items() if name.upper() == "DURATION"), "")
    said_s = _seconds(tag)
    if stream.duration:
        said_s = float((stream.duration + (stream.start_time or 0)) * stream.time_base)
    if said_s is None or end_s is None:
        return None
    frame_s = 1 / float(stream.average_rate or FPS)
    if said_s - (end_s + frame_s) <= max(_LEAST_MISSING_S, 3 * frame_s):
        return None
    return f"the file is cut off: it ends after {end_s + frame_s:.1f} of {said_s:.1f} s"


def _seconds(text: str) -> float | None:
    """Of Matroska's ``00:01:02.500000000``."""
    try:
        hours, minutes, seconds = map(float, text.split(":"))
    except ValueError:
        return None
    return 3600 * hours + 60 * minutes + seconds


def _refuse_turned(container: Any, place: str) -> None:
    """Refuse a video that players turn, as of a camera that was held upright: its frames are stored otherwise."""
    import av

    try:
        first = next(iter(container.decode(video=0)), None)
    except av.FFmpegError:
        return  # said where frames are read
    if first is not None and first.rotation:
        raise InputError(
            f"is turned by {first.rotation % 360} degrees by its metadata",
            place=place,
            hint="write the frames as they are shown: ffmpeg -i VIDEO OUTPUT",
        )


def _opened(address: str) -> Any:
    try:
        import av
    except ImportError:
        raise UsageError(
            "videos and cameras need PyAV", place=address, hint="pip install 'effcli[video]'"
        ) from None
    kind = "v4l2" if address.startswith(_DEVICES) else None
    try:
        container = av.open(address, format=kind, timeout=_TIMEOUT_S if is_live_name(address) else None)
    except (OSError, av.FFmpegError, ValueError) as error:
        raise InputError(f"cannot be read as a video: {error}", place=address) from None
    if not container.streams.video:
        raise InputError("holds no video", place=address)
    return container
