"""Two videos as a source of frames; needs PyAV."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from effcli.core.errors import InputError, UsageError
from effcli.detect_stream.data.stereo_calibration import StereoCalibration
from effcli.detect_stream.data.stereo_sequence import FPS, StereoFrame, StereoSequence
from effcli.detect_stream.sources.frame_source import Arrival

VIDEO_ENDINGS = (".mp4", ".avi", ".mkv", ".mov", ".webm")


class VideoSource:
    """Two videos of the same length; needs PyAV, ``pip install effcli[video]``."""

    is_live = False

    def __init__(self, left: Path, right: Path, calibration: StereoCalibration, fps: float | None) -> None:
        self.name, self.calibration = left.stem, calibration
        self._paths = (left, right)
        containers = [_open_video(path) for path in self._paths]
        streams = [container.streams.video[0] for container in containers]
        sizes = [(stream.height, stream.width) for stream in streams]
        counts = [stream.frames for stream in streams]
        if sizes[0] != sizes[1]:
            raise InputError(
                f"is {sizes[1][1]}x{sizes[1][0]}, the left video {sizes[0][1]}x{sizes[0][0]}",
                place=str(right),
            )
        if counts[0] != counts[1]:
            raise InputError(f"has {counts[1]} frames, the left video {counts[0]}", place=str(right))
        self.fps = fps or float(streams[0].average_rate or FPS)
        self.n_frames: int | None = counts[0] or None
        self.sequence: StereoSequence | None = None
        for container in containers:
            container.close()

    def frames(self) -> Iterator[Arrival]:
        """All frames, up to where one of the videos is damaged."""
        import av

        number = 0
        with _open_video(self._paths[0]) as left, _open_video(self._paths[1]) as right:
            try:
                for pair in zip(left.decode(video=0), right.decode(video=0), strict=False):
                    yield Arrival(number, StereoFrame(*(one.to_ndarray(format="rgb24") for one in pair)))
                    number += 1
            except av.FFmpegError as error:
                yield Arrival(number, None, f"a video cannot be read any further: {error}")


def _open_video(path: Path) -> Any:
    try:
        import av
    except ImportError:
        raise UsageError("videos need PyAV", place=str(path), hint="pip install 'effcli[video]'") from None
    try:
        container = av.open(str(path))
    except (OSError, av.FFmpegError) as error:
        raise InputError(f"cannot be read as a video: {error}", place=str(path)) from None
    if not container.streams.video:
        raise InputError("holds no video", place=str(path))
    return container
