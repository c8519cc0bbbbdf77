"""Stereo detection in Python: ``effcli.detect_stream.load``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from effcli.core.errors import InputError
from effcli.core.runtime import Runtime, create_runtime
from effcli.detect_stream.data.calibrations.read_calibration import read_calibration
from effcli.detect_stream.data.stereo_calibration import StereoCalibration
from effcli.detect_stream.data.stereo_sequence import StereoFrame
from effcli.detect_stream.network.box_decoding import Limits
from effcli.detect_stream.network.frame_fitting import warn_if_horizon_is_off
from effcli.detect_stream.sources.frame_source import Arrival
from effcli.detect_stream.stream.publishing import json_objects
from effcli.detect_stream.stream.stream_detector import StreamDetector
from effcli.detect_stream.weights import TrainedDetector, load_detector

Objects = list[dict[str, Any]]


class StereoDetector:
    """Detects in the frames of one camera pair, one after another.

    Args:
        detector: what to run.
        calibration: of the cameras.
        runtime: where and in which precision.
        fps: frames per second.
        score: least score of the objects that are returned, 0 to 1.
    """

    def __init__(
        self,
        detector: TrainedDetector,
        calibration: StereoCalibration,
        runtime: Runtime,
        *,
        fps: float = 10.0,
        score: float = 0.3,
    ) -> None:
        self._detector, self._calibration, self._runtime = detector, calibration, runtime
        self._fps, self._limits = fps, Limits(score=score)
        self._stream: StreamDetector | None = None
        self._next = 0

    @property
    def horizon(self) -> int:
        """Frames after the one that is shown to the moment of the returned objects; 0: its own moment."""
        return self._detector.horizons[0]

    def detect(
        self, left: np.ndarray, right: np.ndarray, *, number: int | None = None, time_s: float | None = None
    ) -> Objects:
        """The objects in a rectified pair, where they will be :attr:`horizon` frames later.

        Args:
            left, right: uint8 ``[H, W, 3]``, of one size in all calls.
            number: of the frame, larger than the last one's; None: the next one. Frames that were left out are allowed
                for where at most three are.
            time_s: when it was taken, seconds; None: by its number.

        Returns:
            one dictionary per object, as the command's JSON lines have them: ``id`` (of its track), ``cls``, ``score``,
            ``xyz`` (metres, in the left camera's frame, at the bottom of the box), ``hwl`` (metres), ``ry`` (radians),
            ``bbox`` (left, top, right, bottom in pixels of the left picture), ``velocity`` (metres per second, relative
            to the cameras, to the right and ahead).

        Raises:
            InputError: the pictures are of other sizes or types, or of another shape than the calibration's.
        """
        frame = StereoFrame(_checked(left, "left"), _checked(right, "right"))
        if left.shape != right.shape:
            raise InputError(f"the left picture is {left.shape}, the right one {right.shape}", place="frame")
        stream = self._stream_for(frame)
        number = self._next if number is None else number
        self._next = number + 1
        found = stream.detect(stream.prepare(Arrival(number, frame, time_s=time_s)))
        return json_objects(found.objects, found.velocities)

    def reset(self) -> None:
        """Forget all frames: another stream of the same cameras begins."""
        self._next = 0
        if self._stream is not None:
            self._stream.reset()

    def _stream_for(self, frame: StereoFrame) -> StreamDetector:
        if self._stream is None:
            calibration = self._calibration.for_pictures(frame.size, "frame")
            self._stream = StreamDetector(
                self._detector, calibration, frame.size, self._runtime, self._fps, self._limits
            )
            warn_if_horizon_is_off(self._stream.fit, self._stream.config)
        if self._stream.size != frame.size:
            raise InputError(
                f"is {frame.size[1]}x{frame.size[0]} pixels, the first one was {self._stream.size[1]}x"
                f"{self._stream.size[0]}", place="frame", hint="a detector is for one camera pair: load another",
            )  # fmt: skip
        return self._stream


def load(
    source: str = "builtin:street-tiny",
    *,
    calibration: str | Path | StereoCalibration,
    fps: float = 10.0,
    score: float = 0.3,
    device: str = "auto",
    precision: str = "fp32",
) -> StereoDetector:
    """A detector for a rectified pair of cameras.

    Args:
        source: a run of `effcli detect-stream train`, its file, or ``builtin:street-tiny``.
        calibration: a file in any form that ``--calib`` reads, or a calibration.
        fps: frames per second.
        score: least score of the objects that are returned, 0 to 1.
        device, precision: as the options of the command line.

    Raises:
        InputError: detector or calibration is not there, or damaged.
        UsageError: the device or precision is not available.
    """
    if not isinstance(calibration, StereoCalibration):
        calibration = read_calibration(Path(calibration))
    runtime = create_runtime(device=device, precision=precision)
    return StereoDetector(load_detector(source), calibration, runtime, fps=fps, score=score)


def _checked(picture: np.ndarray, name: str) -> np.ndarray:
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise InputError(
            f"the {name} picture is {picture.dtype} {list(picture.shape)}, not uint8 [H, W, 3]", place="frame"
        )
    return np.ascontiguousarray(picture)
