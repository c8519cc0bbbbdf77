"""Drives through a synthetic street, made when they are asked for: stereo pairs with exact boxes, depth and poses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from effcli.core.errors import UsageError
from effcli.detect_stream.data.boxes3d import cut_to_image, from_camera, image_boxes
from effcli.detect_stream.data.drive_renderer import CAR, CYCLIST, GROUND_Y, PEDESTRIAN, STATIC, cast
from effcli.detect_stream.data.frame_objects import FrameObjects, objects_of
from effcli.detect_stream.data.stereo_calibration import StereoCalibration
from effcli.detect_stream.data.stereo_sequence import FPS, StereoFrame

Preset = Literal["street", "straight", "turn", "fast-ego", "static", "crowded"]
HEIGHT, WIDTH = 128, 416
FOCAL_PX, CENTRE_PX, BASELINE_M = 240.0, (208.0, 60.0), 0.533
CLIP_FRAMES = 40

_FARTHEST_M = 70.0
_STREAM = 23
_CAMERA_TO_WORLD_AXES = np.array([[0, -1, 0], [0, 0, -1], [1, 0, 0]], float)  # velodyne to camera


@dataclass(frozen=True)
class PresetRanges:
    """The ranges from which a drive is generated.

    Attributes:
        ego_speed: metres per second.
        ego_yaw_rate: largest, radians per second.
        n_actors: how many are near the way.
        changes: whether actors accelerate and turn.
        moves: whether actors move.
    """

    ego_speed: tuple[float, float]
    ego_yaw_rate: float
    n_actors: tuple[int, int]
    changes: bool = True
    moves: bool = True


PRESETS: dict[Preset, PresetRanges] = {
    "street": PresetRanges((0.0, 10.0), 0.03, (6, 14)),
    "straight": PresetRanges((0.0, 10.0), 0.0, (6, 14), changes=False),
    "turn": PresetRanges((3.0, 10.0), 0.1, (6, 14)),
    "fast-ego": PresetRanges((15.0, 25.0), 0.0, (10, 20)),
    "static": PresetRanges((0.0, 0.0), 0.0, (6, 12), moves=False),
    "crowded": PresetRanges((0.0, 6.0), 0.03, (16, 26)),
}


@dataclass(frozen=True)
class _Class:
    """A kind of actor: mean length, width, height and their relative deviation; speeds; how likely it is."""

    name: str
    number: int
    size: tuple[float, float, float]
    deviation: float
    speeds: tuple[float, float]
    share: float


_CLASSES = (
    _Class("Car", CAR, (3.9, 1.6, 1.56), 0.07, (0.0, 15.0), 0.5),
    _Class("Pedestrian", PEDESTRIAN, (0.8, 0.6, 1.73), 0.07, (0.5, 2.0), 0.28),
    _Class("Cyclist", CYCLIST, (1.76, 0.6, 1.73), 0.05, (2.0, 6.0), 0.22),
)


@dataclass(frozen=True)
class _Actor:
    kind: _Class
    size: np.ndarray  # l, w, h
    path: np.ndarray  # x, z, heading at each frame, [T, 3]
    colour: np.ndarray
    texture: np.ndarray  # contrast and two offsets


class Drive:
    """A sequence of :class:`~effcli.detect_stream.data.stereo_sequence.StereoSequence`; pure in its arguments.

    Args:
        seed: which drive.
        n_frames: its length, at ten frames per second.
        preset: the ranges from which it is generated.
        noise: standard deviation of the sensors, grey levels of 255; 0 also leaves out the difference of the two eyes.
    """

    has_labels = True
    fps = FPS

    def __init__(
        self, seed: int, n_frames: int = CLIP_FRAMES, preset: Preset = "street", noise: float = 2.0
    ) -> None:
        if preset not in get_args(Preset):
            raise UsageError(f"no preset {preset!r}; available: {', '.join(get_args(Preset))}")
        self.name = f"{preset}-{seed}"
        self.seed, self.n_frames, self.noise = seed, n_frames, noise
        self.calibration = calibration_of_drives()
        rng = np.random.default_rng((_STREAM, seed, tuple(PRESETS).index(preset)))
        ranges = PRESETS[preset]
        self._ego = _ego_path(ranges, n_frames, rng)
        self._actors = _actors(ranges, self._ego, rng)
        self._buildings = _buildings(self._ego, rng)
        self._table = rng.uniform(-1, 1, (256, 256)).astype(np.float32)
        sun = np.array([rng.uniform(-1, 1), -rng.uniform(0.5, 1.2), rng.uniform(-1, 1)])
        self._sun = sun / np.linalg.norm(sun)
        self._gains = 1 + rng.uniform(-0.05, 0.05, 2) * (noise > 0)
        self._cache: dict[int, tuple[StereoFrame, FrameObjects, np.ndarray]] = {}

    def __len__(self) -> int:
        return self.n_frames

    def frame(self, i: int) -> StereoFrame:
        """The pair."""
        return self._drawn(i)[0]

    def objects(self, i: int) -> FrameObjects:
        """Cars, pedestrians and cyclists of which at least one pixel is seen."""
        return self._drawn(i)[1]

    def depth(self, i: int) -> np.ndarray:
        """Of all pixels but the sky's."""
        return self._drawn(i)[2]

    def pose(self, i: int) -> np.ndarray:
        """The world is the first frame's camera, up to its yaw."""
        x, z, yaw = self._ego[i]
        pose = np.eye(4)
        pose[0, [0, 2]], pose[2, [0, 2]] = (np.cos(yaw), np.sin(yaw)), (-np.sin(yaw), np.cos(yaw))
        pose[0, 3], pose[2, 3] = x, z
        return pose

    def in_camera(self, i: int) -> tuple[tuple[str, ...], np.ndarray]:
        """Classes and boxes in the ground frame of frame ``i``, of all actors, seen or not."""
        x, z, yaw = self._ego[i]
        places = np.array([actor.path[i] for actor in self._actors]).reshape(-1, 3)
        sizes = np.array([actor.size for actor in self._actors]).reshape(-1, 3)
        dx, dz = places[:, 0] - x, places[:, 1] - z
        across, ahead = dx * np.cos(yaw) - dz * np.sin(yaw), dx * np.sin(yaw) + dz * np.cos(yaw)
        xyz = np.stack([across, np.full_like(across, GROUND_Y), ahead], 1)
        boxes = from_camera(xyz, sizes[:, [2, 1, 0]], places[:, 2] - yaw)
        return tuple(actor.kind.name for actor in self._actors), boxes

    def _drawn(self, i: int) -> tuple[StereoFrame, FrameObjects, np.ndarray]:
        if i not in self._cache:
            while len(self._cache) >= 4:
                del self._cache[next(iter(self._cache))]
            self._cache[i] = self._draw(i)
        return self._cache[i]

    def _draw(self, i: int) -> tuple[StereoFrame, FrameObjects, np.ndarray]:
        kinds, boxes = self.in_camera(i)
        rows = np.array([_row_of(actor, actor.path[i]) for actor in self._actors] + self._buildings)
        x, z, yaw = self._ego[i]
        pictures, left = [], None
        rng = np.random.default_rng((_STREAM, self.seed, i, 1))
        for eye, gain in zip((0.0, BASELINE_M), self._gains, strict=True):
            place = [x + eye * np.cos(yaw), 0.0, z - eye * np.sin(yaw), np.cos(yaw), np.sin(yaw)]
            seen = cast(
                np.array([*place, *self._sun]),
                np.array([FOCAL_PX, *CENTRE_PX]),
                rows,
                _windows(rows, np.array(place)),
                self._table,
                (HEIGHT, WIDTH),
            )
            left = left or seen
            noisy = seen["image"] * gain + rng.normal(0, 1, seen["image"].shape) * self.noise
            pictures.append(np.clip(np.rint(noisy), 0, 255).astype(np.uint8))
        objects = self._labels(kinds, boxes, left or {})
        return StereoFrame(*pictures), objects, (left or {})["depth"]

    def _labels(self, kinds: tuple[str, ...], boxes: np.ndarray, seen: dict[str, np.ndarray]) -> FrameObjects:
        n = len(kinds)
        visible, covered = seen["visible"][:n], seen["covered"][:n]
        flat = image_boxes(boxes, self.calibration.left)
        cut = cut_to_image(flat, HEIGHT, WIDTH)
        area, inside = _areas(flat), _areas(cut)
        outside = 1 - inside / np.maximum(area, 1e-9)
        share = visible / np.maximum(covered, 1)
        objects = objects_of(
            kinds,
            boxes,
            image_boxes=cut,
            track_ids=np.arange(n),
            truncated=np.where(outside <= 1e-9, 0, np.where(outside < 0.5, 1, 2)),
            occluded=np.where(share > 0.8, 0, np.where(share > 0.4, 1, 2)),
        )
        return objects.pick((visible > 0) & (boxes[:, 0] < _FARTHEST_M))


def calibration_of_drives() -> StereoCalibration:
    """Of all drives: a third of KITTI's pixels, its distance of the cameras."""
    left = np.array([[FOCAL_PX, 0, CENTRE_PX[0], 0], [0, FOCAL_PX, CENTRE_PX[1], 0], [0, 0, 1, 0]], float)
    right = left.copy()
    right[0, 3] = -FOCAL_PX * BASELINE_M
    velo = np.eye(4)
    velo[:3, :3] = _CAMERA_TO_WORLD_AXES
    return StereoCalibration(left, right, velo)


def _areas(boxes: np.ndarray) -> np.ndarray:
    areas: np.ndarray = np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), 1)
    return np.asarray(np.nan_to_num(areas))


def _ego_path(ranges: PresetRanges, n_frames: int, rng: np.random.Generator) -> np.ndarray:
    """x, z and yaw of the left camera, ``[T, 3]``."""
    speed = rng.uniform(*ranges.ego_speed)
    yaw = rng.uniform(-ranges.ego_yaw_rate, ranges.ego_yaw_rate) / FPS * np.arange(n_frames)
    steps = speed / FPS * np.stack([np.sin(yaw), np.cos(yaw)], 1)
    places = np.concatenate([np.zeros((1, 2)), np.cumsum(steps, 0)[:-1]])
    places[:, 0] += rng.uniform(-3.0, 3.0)
    return np.concatenate([places, yaw[:, None]], 1)


def _actors(ranges: PresetRanges, ego: np.ndarray, rng: np.random.Generator) -> list[_Actor]:
    """Actors that meet neither each other nor the cameras."""
    wanted = int(rng.integers(ranges.n_actors[0], ranges.n_actors[1] + 1))
    found: list[_Actor] = []
    for _ in range(wanted * 20):
        actor = _actor(ranges, ego, rng)
        if all(_apart(actor, other) for other in found) and _apart_from_ego(actor, ego):
            found.append(actor)
        if len(found) == wanted:
            break
    return found


def _actor(ranges: PresetRanges, ego: np.ndarray, rng: np.random.Generator) -> _Actor:
    kind = _CLASSES[rng.choice(len(_CLASSES), p=[one.share for one in _CLASSES])]
    size = np.array(kind.size) * np.maximum(0.7, rng.normal(1, kind.deviation, 3))
    along_road = kind.name != "Pedestrian" and rng.random() < 0.8
    heading = rng.choice([-np.pi / 2, np.pi / 2]) + rng.normal(0, 0.05)
    if not along_road:
        heading = rng.uniform(-np.pi, np.pi)
    speed = rng.uniform(*kind.speeds) * (rng.random() > 0.25) * ranges.moves
    acceleration = rng.uniform(-1.5, 1.5) * ranges.changes * (rng.random() < 0.4)
    turn = rng.uniform(-0.2, 0.2) * ranges.changes * (rng.random() < 0.3) * (speed > 0.3)
    time_s = np.arange(len(ego)) / FPS
    speeds = np.clip(speed + acceleration * time_s * (speed > 0.3), 0.0, kind.speeds[1] * 1.2)
    headings = heading + turn * time_s
    steps = speeds[:, None] / FPS * np.stack([np.cos(headings), -np.sin(headings)], 1)
    # somewhere near the cameras at some moment of the drive
    meets = int(rng.integers(len(ego)))
    yaw = ego[meets, 2]
    ahead, across = rng.uniform(4.0, 45.0), rng.uniform(-14.0, 14.0)
    place = ego[meets, :2] + np.array(
        [ahead * np.sin(yaw) + across * np.cos(yaw), ahead * np.cos(yaw) - across * np.sin(yaw)]
    )
    walked = np.concatenate([np.zeros((1, 2)), np.cumsum(steps, 0)[:-1]])
    path = np.concatenate([place + walked - walked[meets], headings[:, None]], 1)
    colour = rng.uniform(40, 230, 3)
    texture = np.array([rng.uniform(0.35, 0.8), *rng.uniform(0, 200, 2)])
    return _Actor(kind, size, path, colour, texture)


def _apart(one: _Actor, other: _Actor) -> bool:
    least = (np.hypot(*one.size[:2]) + np.hypot(*other.size[:2])) / 2 + 0.2
    return bool((np.hypot(*(one.path[:, :2] - other.path[:, :2]).T) > least).all())


def _apart_from_ego(actor: _Actor, ego: np.ndarray) -> bool:
    least = np.hypot(*actor.size[:2]) / 2 + 2.0
    return bool((np.hypot(*(actor.path[:, :2] - ego[:, :2]).T) > least).all())


def _row_of(actor: _Actor, place: np.ndarray) -> list[float]:
    length, width, height = actor.size
    x, z, heading = place
    return [
        x, GROUND_Y - height / 2, z, length / 2, height / 2, width / 2, np.cos(heading), np.sin(heading),
        *actor.colour, *actor.texture, float(actor.kind.number),
    ]  # fmt: skip


def _buildings(ego: np.ndarray, rng: np.random.Generator) -> list[list[float]]:
    """Houses at both sides of the road, and one across its end."""
    rows = []
    last = float(ego[-1, 1])
    for side in (-1, 1):
        z = rng.uniform(-10, 10)
        while z < last + 90:
            length, depth, height = rng.uniform(6, 18), rng.uniform(6, 12), rng.uniform(3, 9)
            if rng.random() < 0.75:
                x = side * (rng.uniform(16.5, 22) + depth / 2)
                rows.append(_static(x, z + length / 2, length, depth, height, np.pi / 2, rng))
            z += length + rng.uniform(0, 8)
    rows.append(
        _static(rng.uniform(-10, 10), last + rng.uniform(75, 95), 60, 4, rng.uniform(6, 14), 0.0, rng)
    )
    return rows


def _static(
    x: float, z: float, length: float, width: float, height: float, heading: float, rng: np.random.Generator
) -> list[float]:
    colour = rng.uniform(90, 200) * rng.uniform(0.8, 1.2, 3)
    texture = [rng.uniform(0.3, 0.6), *rng.uniform(0, 200, 2)]
    return [
        x, GROUND_Y - height / 2, z, length / 2, height / 2, width / 2, np.cos(heading), np.sin(heading),
        *colour, *texture, float(STATIC),
    ]  # fmt: skip


def _windows(rows: np.ndarray, place: np.ndarray) -> np.ndarray:
    """The pixels that each box can cover: left, top, right, bottom, ``[B, 4]``."""
    signs = np.array([[a, b, c] for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)], float)
    along, up, across = (rows[:, None, 3:6] * signs).transpose(2, 0, 1)
    cos, sin = rows[:, 6:7], rows[:, 7:8]
    x = rows[:, 0:1] + along * cos + across * sin - place[0]
    y = rows[:, 1:2] + up
    z = rows[:, 2:3] - along * sin + across * cos - place[2]
    right, ahead = x * place[3] - z * place[4], x * place[4] + z * place[3]
    behind = (ahead < 0.3).any(1)
    ahead = np.maximum(ahead, 0.3)
    u, v = right / ahead * FOCAL_PX + CENTRE_PX[0], y / ahead * FOCAL_PX + CENTRE_PX[1]
    windows = np.stack([u.min(1) - 1, v.min(1) - 1, u.max(1) + 1, v.max(1) + 1], 1)
    windows[behind] = (0, 0, WIDTH, HEIGHT)
    clipped: np.ndarray = np.clip(windows, -2, WIDTH + 2).astype(np.int64)
    return clipped
