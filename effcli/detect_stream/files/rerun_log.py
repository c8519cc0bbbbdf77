"""A stream as a recording for the rerun viewer; needs rerun-sdk, ``pip install effcli[rerun]``."""

from __future__ import annotations

import logging
from collections import deque
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from effcli.core.files import atomic_path, make_folder
from effcli.detect_stream.data.boxes3d import to_camera
from effcli.detect_stream.data.frame_objects import FrameObjects
from effcli.detect_stream.data.stereo_calibration import StereoCalibration
from effcli.detect_stream.files.background import Background
from effcli.detect_stream.files.depth_files import STEPS_PER_METRE, steps_of
from effcli.detect_stream.stream.drawing import COLOURS
from effcli.detect_stream.stream.output import StreamOutput

log = logging.getLogger(__name__)

_TRAIL = 30
_JPEG_QUALITY = 90


class RerunLog:
    """Pictures, depth, boxes, tracks and ages on the time lines ``frame`` (numbers) and ``time`` (seconds).

    Pictures, depth and ages are at the frame that an output was made of, boxes and tracks at the moment that they are
    for; all places are in the rectified camera frame. The file is there, whole, when the context has been left.

    Args:
        path: ``.rrd``.
        name: of the stream.
        calibration: for the pixels of its pictures.
        size: height and width of its pictures.
        background: what writes; it has to be finished before this context is left.

    Raises:
        RunError: the file cannot be written.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        calibration: StereoCalibration,
        size: tuple[int, int],
        background: Background,
    ) -> None:
        self._path, self._name, self._size, self._background = path, name, size, background
        self._projection = calibration.left
        self._trails: dict[int, deque[np.ndarray]] = {}
        self._has_depth: bool | None = None
        self._stack = ExitStack()

    def __enter__(self) -> RerunLog:
        import rerun as rr

        make_folder(self._path.parent)
        temporary = self._stack.enter_context(atomic_path(self._path))
        self._recording: Any = rr.RecordingStream("effcli detect-stream")
        self._stack.callback(self._recording.disconnect)
        self._recording.save(temporary)
        self._recording.send_recording_name(self._name)
        self._log_camera()
        return self

    def add(self, line: str, output: StreamOutput) -> None:
        """Log an output."""
        images = output.detected.images
        if self._has_depth is None and images is not None:
            self._has_depth = images.depth is not None
            if not self._has_depth:
                log.warning("%s has no depth: the detector was not trained for it", self._path)
        self._background.do(partial(self._write, output))

    def _log_camera(self) -> None:
        import rerun as rr

        inner = self._projection[:, :3]
        place = -np.linalg.solve(inner, self._projection[:, 3])
        height, width = self._size
        self._recording.log("rig", rr.ViewCoordinates.RDF, static=True)
        self._recording.log("rig/left", rr.Transform3D(translation=place), static=True)
        pinhole = rr.Pinhole(image_from_camera=inner, width=width, height=height)
        self._recording.log("rig/left", pinhole, static=True)

    def _write(self, output: StreamOutput) -> None:
        import rerun as rr

        to = self._recording
        to.set_time("frame", sequence=output.frame)
        to.set_time("time", duration=output.captured_s)
        images = output.detected.images
        if images is not None:
            to.log("rig/left/image", rr.Image(images.left).compress(jpeg_quality=_JPEG_QUALITY))
            if images.depth is not None:
                to.log("rig/left/depth", rr.DepthImage(steps_of(images.depth), meter=STEPS_PER_METRE))
        for name in ("age_ms", "latency_ms", "dropped"):
            to.log(f"output/{name}", rr.Scalars(float(getattr(output, name))))
        to.set_time("frame", sequence=output.target_frame)
        to.set_time("time", duration=output.target_s)
        self._write_objects(output.objects, output.detected.velocities)

    def _write_objects(self, objects: FrameObjects, velocities: np.ndarray) -> None:
        import rerun as rr

        xyz, hwl, rotation_y = to_camera(objects.boxes)
        centres = xyz - hwl[:, :1] / 2 * np.array([0, 1, 0])
        half = rotation_y / 2
        nothing = np.zeros(len(objects))
        look: dict[str, Any] = {
            "labels": _labels(objects),
            "colors": [COLOURS[kind] for kind in objects.kinds],
        }
        boxes = rr.Boxes3D(
            centers=centres,
            half_sizes=hwl[:, [2, 0, 1]] / 2,
            quaternions=np.stack([nothing, np.sin(half), nothing, np.cos(half)], 1),
            **look,
        )
        self._recording.log("rig/boxes", boxes)
        flat = rr.Boxes2D(array=objects.image_boxes, array_format=rr.Box2DFormat.XYXY, **look)
        self._recording.log("rig/left/boxes", flat)
        moves = np.stack([-velocities[:, 1], nothing, velocities[:, 0]], 1)
        self._recording.log("rig/velocities", rr.Arrows3D(origins=centres, vectors=moves))
        self._write_trails(objects, centres)

    def _write_trails(self, objects: FrameObjects, centres: np.ndarray) -> None:
        """Where the objects that are followed have been, relative to the cameras."""
        import rerun as rr

        seen = [int(track) for track in objects.track_ids]
        self._trails = {track: trail for track, trail in self._trails.items() if track in seen}
        for track, centre in zip(seen, centres, strict=True):
            if track >= 0:
                self._trails.setdefault(track, deque(maxlen=_TRAIL)).append(centre)
        strips = rr.LineStrips3D(
            [np.array(trail) for trail in self._trails.values()],
            labels=[f"{track}" for track in self._trails],
        )
        self._recording.log("rig/tracks", strips)

    def __exit__(self, *error: Any) -> None:
        """Finish the file."""
        self._stack.__exit__(*error)


def _labels(objects: FrameObjects) -> list[str]:
    """``Car 7, 0.93``; without a number for objects of no track."""
    return [
        f"{kind}{f' {track}' if track >= 0 else ''}, {score:.2f}"
        for kind, track, score in zip(objects.kinds, objects.track_ids, objects.scores, strict=True)
    ]
