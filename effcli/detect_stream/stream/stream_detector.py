"""A detector that is shown frame after frame and remembers the last one."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from effcli.core.runtime import Runtime
from effcli.detect_stream.data.boxes3d import ImageView
from effcli.detect_stream.data.frame_objects import FrameObjects
from effcli.detect_stream.data.stereo_calibration import StereoCalibration
from effcli.detect_stream.network.box_decoding import Limits, as_objects, boxes_of
from effcli.detect_stream.network.depth_map import DepthView
from effcli.detect_stream.network.ego_motion import EgoMotion, bev_motion
from effcli.detect_stream.network.frame_fitting import FrameFit, fit_of, fitted_pair
from effcli.detect_stream.network.inference_network import fast_network
from effcli.detect_stream.network.space_volume import seen_from_above
from effcli.detect_stream.network.streamdsgn import CameraView
from effcli.detect_stream.sources.frame_source import Arrival
from effcli.detect_stream.stream.tracking import BoxTracker
from effcli.detect_stream.stream.visual_odometry import VisualOdometry
from effcli.detect_stream.weights import TrainedDetector

MOST_FRAMES_APART = 3
"""Farther apart, the last frame says nothing about motion."""

_SCENE_CHANGE = 45.0
_THUMBNAIL = 8
_REGULAR = 1e-6
_NOTHING = torch.zeros(0)
_NO_PICTURE = np.zeros((0, 0, 3), np.uint8)


@dataclass(frozen=True)
class PreparedFrame:
    """A frame as the network takes it; made where there is time for it, such as in a reader's thread.

    Attributes:
        number: of the frame.
        left, right: uint8 ``[3, height, width]``.
        thumbnail: small and grey, to notice that the scene has changed.
        picture: the left picture as it came, uint8 ``[H, W, 3]``.
        pose: of the camera, 4x4; None where it is not used.
        time_s, interval_s: as of :class:`~effcli.detect_stream.sources.frame_source.Arrival`.
    """

    number: int
    left: Tensor
    right: Tensor
    thumbnail: np.ndarray
    picture: np.ndarray
    pose: np.ndarray | None = None
    time_s: float | None = None
    interval_s: float | None = None


@dataclass(frozen=True)
class FrameImages:
    """What is as large as the left picture; it is for those who write it, and not kept.

    Attributes:
        left: the picture as it came, uint8 ``[H, W, 3]``.
        depth: of its pixels, metres, 0 where unknown, float32 ``[H, W]``; None where it is not asked for.
    """

    left: np.ndarray
    depth: np.ndarray | None


@dataclass(frozen=True)
class DetectedFrame:
    """The objects found in a frame.

    Attributes:
        objects: where they will be ``ahead`` frames later, in the camera frame of that moment. Those that were followed
            from frame to frame have the numbers of their tracks.
        velocities: along X and Y of the ground frame relative to the camera, metres per second, ``[N, 2]``; zero where
            nothing is known yet.
        history: frames that the result stands on, 1 or 2.
        stages_ms: milliseconds of each part.
        view: what the left camera sees of boxes that are moved; None: that stays as it was.
        images: the picture and its depth; None once they are written.
        ahead: frames from the one that was looked at to the moment of the objects.
    """

    objects: FrameObjects
    velocities: np.ndarray
    history: int
    stages_ms: dict[str, float]
    view: ImageView | None = None
    images: FrameImages | None = None
    ahead: int = 1


@dataclass
class _Memory:
    frame: PreparedFrame
    bev: Tensor
    ahead: int


@dataclass(frozen=True)
class _Step:
    """From one frame to another: how many frames on, the seconds, and frames per second."""

    gap: int
    seconds: float
    fps: float


@dataclass
class _Clock:
    stages_ms: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.stages_ms[name] = round(1000 * (time.perf_counter() - started), 3)


class StreamDetector:
    """Detects in frames of one camera pair, one after another.

    Args:
        detector: what to run.
        calibration: of the cameras.
        size: height and width of their pictures.
        runtime: where and in which precision.
        fps: frames per second.
        limits: which boxes are kept.
        ego_motion: how the cameras' own motion is known, if it is used.
        depth: whether the depth of each pixel is computed, too; it takes its time.
        horizons: those of the detector's horizons that it is asked for; None: all.
    """

    def __init__(
        self,
        detector: TrainedDetector,
        calibration: StereoCalibration,
        size: tuple[int, int],
        runtime: Runtime,
        fps: float,
        limits: Limits,
        *,
        ego_motion: EgoMotion = "unused",
        depth: bool = False,
        horizons: Sequence[int] | None = None,
    ) -> None:
        self.network = fast_network(detector.network, runtime.dtype, depth=depth).to(runtime.device)
        self.horizons = detector.horizons if horizons is None else tuple(horizons)
        self.fps, self.limits = fps, limits
        self.config = self.network.config
        self.ego_motion = ego_motion
        self.calibration, self.size, self.runtime = calibration, size, runtime
        self.tuner = runtime.tuner("detect", beside=1)  # on the real clock a thread reads frames
        self.fit: FrameFit = fit_of(size, calibration, self.config)
        self._sizes = torch.tensor([[self.fit.height, self.fit.width]])
        matrices = self.fit.matrices()[None].to(runtime.device)
        self._view: CameraView = self.network.view(matrices, self._sizes.to(runtime.device))
        self._depth = DepthView(self.fit, size, self.config, runtime.device) if depth else None
        self._odometry = VisualOdometry(self.fit.calibration, (self.fit.height, self.fit.width), fps)
        self._odometry_number = -1
        self._memory: _Memory | None = None
        self._tracker = BoxTracker()
        self.scene_changes = 0

    def prepare(self, arrival: Arrival) -> PreparedFrame:
        """Scale and cut a frame that could be read, and note or find out where the cameras are."""
        assert arrival.frame is not None, "damaged frames are left out before"
        left, right = fitted_pair(arrival.frame, self.fit, self.config)
        pose = arrival.pose
        if self.ego_motion != "poses":
            pose = None
        if self.ego_motion == "pictures":
            number = arrival.number if arrival.time_s is None else round(arrival.time_s * self.fps)
            self._odometry_number = max(number, self._odometry_number + 1)
            pose = self._odometry.track(left, right, self._odometry_number)
        small = left.float().mean(0)[None, None]
        thumbnail = torch.nn.functional.avg_pool2d(small, _THUMBNAIL)[0, 0].numpy()
        times = (arrival.time_s, arrival.interval_s)
        return PreparedFrame(arrival.number, left, right, thumbnail, arrival.frame.left, pose, *times)

    def reset(self) -> None:
        """Forget all frames: another stream begins."""
        self._memory = None
        self._tracker = BoxTracker()
        self._odometry.reset()
        self._odometry_number = -1

    def detect(self, prepared: PreparedFrame, ahead: int | None = None) -> DetectedFrame:
        """Detect in a frame; numbers of frames that were left out are skipped.

        Args:
            prepared: the frame.
            ahead: one of ``horizons``: the boxes of so many frames later; None: the first one.
        """
        with self.tuner.step():
            return self._detect(prepared, self.horizons[0] if ahead is None else ahead)

    @torch.inference_mode()
    def _detect(self, prepared: PreparedFrame, ahead: int) -> DetectedFrame:
        clock = _Clock()
        network, device = self.network, self.runtime.device
        with clock.stage("extract_ms"):
            pictures = torch.stack([prepared.left, prepared.right]).to(device)
            normal = network.normalise(pictures, self._sizes.repeat(2, 1))
            with self.runtime.autocast():
                volume = network.volume(normal[:1], normal[1:], self._view)
                now = seen_from_above(volume)
            self._wait()
        before, step, motion = self._last(prepared)
        flow = None
        with clock.stage("fusion_ms"):
            if before is not None and network.config.fusion == "flow":
                flow = network.flow(now, before, motion) / step.gap
            self._wait()
        with clock.stage("bev_and_head_ms"), self.runtime.autocast():
            outputs = network.detect(now, before, flow, ahead=max(ahead, 1))
            self._wait()
        with clock.stage("nms_ms"):
            boxes, scores, labels = boxes_of(outputs, self.config, self.limits)
            objects = as_objects(boxes, scores, labels, self.calibration.left, self.size)
        with clock.stage("tracking_ms"):
            if before is None or self._memory is None:
                self._tracker.reset()
            elif ahead != self._memory.ahead:
                self._tracker.move((ahead - self._memory.ahead) / step.fps)
            seen = self._velocities(objects, flow, step.fps)
            track_ids, velocities = self._tracker.follow(objects, seen, step.seconds)
        images = FrameImages(prepared.picture, self._depth_of(volume, clock))
        forgotten = replace(prepared, left=_NOTHING, right=_NOTHING, picture=_NO_PICTURE)
        self._memory = _Memory(forgotten, now, ahead)
        found = replace(objects, track_ids=track_ids)
        view = ImageView(self.calibration.left, self.size)
        history = 1 if before is None else 2
        return DetectedFrame(found, velocities, history, clock.stages_ms, view, images, ahead)

    def _depth_of(self, volume: Tensor, clock: _Clock) -> np.ndarray | None:
        """The depth of each pixel, where it is asked for."""
        head = self.network.depth_head
        if self._depth is None or head is None:
            return None
        with clock.stage("depth_ms"):
            with self.runtime.autocast():
                logits = self._depth.logits(head, volume)
            return self._depth.depth(logits)

    def _last(self, prepared: PreparedFrame) -> tuple[Tensor | None, _Step, Tensor | None]:
        """The last frame's map; how long ago that was; how the cameras moved since, where that is used."""
        memory, none = self._memory, _Step(1, 1 / self.fps, self.fps)
        step = none if memory is None else self._step(memory.frame, prepared)
        if memory is None or not 0 < step.gap <= MOST_FRAMES_APART:
            return None, none, None
        if np.abs(memory.frame.thumbnail - prepared.thumbnail).mean() > _SCENE_CHANGE:
            self.scene_changes += 1
            return None, none, None
        if memory.frame.pose is None or prepared.pose is None:
            return memory.bev, step, None
        motion = torch.from_numpy(bev_motion(memory.frame.pose, prepared.pose))
        return memory.bev, step, motion[None].to(memory.bev.device)

    def _step(self, before: PreparedFrame, now: PreparedFrame) -> _Step:
        """By the moments of two frames, else by their numbers."""
        gap = now.number - before.number
        if before.time_s is None or now.time_s is None:
            return _Step(gap, gap / self.fps, self.fps)
        seconds = now.time_s - before.time_s
        fps = self.fps if now.interval_s is None else 1 / now.interval_s
        gap = max(round(seconds * fps), 1 if seconds > 0 else 0)
        if abs(seconds * fps - gap) < _REGULAR:
            return _Step(gap, gap / fps, fps)
        return _Step(gap, seconds, gap / seconds if seconds > 0 else fps)

    def _velocities(self, objects: FrameObjects, flow: Tensor | None, fps: float) -> np.ndarray | None:
        """The flow at each box, metres per second; None where there is none."""
        if flow is None:
            return None
        _, n_y, n_x = self.config.grid.cells
        (x0, _), (y0, _), (dx, dy) = self.config.grid.x, self.config.grid.y, self.config.cell
        columns = np.clip((objects.boxes[:, 0] - x0) / dx, 0, n_x - 1).astype(int)
        rows = np.clip((objects.boxes[:, 1] - y0) / dy, 0, n_y - 1).astype(int)
        cells = flow[0].float().cpu().numpy()[:, rows, columns]
        velocities: np.ndarray = np.stack([cells[0] * dx, cells[1] * dy], 1) * fps
        return velocities

    def _wait(self) -> None:
        if self.runtime.device.type != "cpu":
            torch.accelerator.synchronize()
