"""A drive through a town: stereo pairs with exact boxes, depth and poses, and cameras of its own."""

from __future__ import annotations

import numpy as np

from effcli.detect_stream.data.boxes3d import cut_to_image, image_boxes_of_corners
from effcli.detect_stream.data.frame_objects import FrameObjects, objects_of
from effcli.detect_stream.data.stereo_sequence import FPS, StereoFrame
from effcli.detect_stream.data.town.actors import TownActor, ego_path, random_actors
from effcli.detect_stream.data.town.layout import Standing, things_beside
from effcli.detect_stream.data.town.optics import Exposure, picture, random_exposure, random_eyes
from effcli.detect_stream.data.town.rig import HEIGHT, WIDTH, random_rig
from effcli.detect_stream.data.town.road import random_road
from effcli.detect_stream.data.town.switches import TownSwitches
from effcli.detect_stream.data.town.weather import random_light, random_surface

TOWN_FRAMES = 16
"""Of a drive that is learned from or measured on: more drives rather than longer ones."""

_FARTHEST_M = 70.0
_STREAM = 37
_LEAST_PIXELS, _LEAST_SHARE = 6, 0.05
_SIZE = (HEIGHT, WIDTH)
_CORNERS = np.array(
    [[1, 0, 1], [1, 0, -1], [-1, 0, -1], [-1, 0, 1], [1, 2, 1], [1, 2, -1], [-1, 2, -1], [-1, 2, 1]]
)


class TownDrive:
    """A sequence of :class:`~effcli.detect_stream.data.stereo_sequence.StereoSequence`; pure in its arguments.

    Boxes have the centre and the heading of what they show, and are upright in the frame of the cameras, as KITTI's
    are, though the ground may slope and the cameras may be tilted. 2D boxes are those of the tilted boxes.

    Args:
        seed: which drive.
        n_frames: its length, at ten frames per second.
        switches: what varies.
        noise: mean standard deviation of the sensors, grey levels of 255; 0: both eyes see the same light exactly.
    """

    has_labels = True
    fps = FPS

    def __init__(
        self, seed: int, n_frames: int = TOWN_FRAMES, switches: TownSwitches | None = None, noise: float = 2.0
    ) -> None:
        self.switches = switches or TownSwitches()
        self.name = f"{self.switches.name}-{seed}"
        self.seed, self.n_frames = seed, n_frames
        names = ("camera", "road", "actors", "layout", "light", "eyes")
        kinds = {name: np.random.default_rng((_STREAM, seed, i)) for i, name in enumerate(names)}
        self._varies = self.switches.optics and noise > 0
        self.rig = random_rig(self.switches.camera, n_frames, kinds["camera"])
        self.calibration = self.rig.calibration
        self.road = random_road(self.switches.camera, kinds["road"])
        self._ego = ego_path(self.road, n_frames, kinds["road"])
        self.actors: list[TownActor] = random_actors(self.road, self._ego, self.switches, kinds["actors"])
        self._things = things_beside(self.road, self._ego, self.actors, self.switches, kinds["layout"])
        self._light = random_light(self.switches.optics, kinds["light"])
        self._surface = random_surface(self.road, self.switches.textures, kinds["light"])
        self._table = kinds["light"].uniform(-1, 1, (256, 256)).astype(np.float32)
        self._looks = kinds["light"].random((len(self.actors) + len(self._things) + 1, 6)) * [
            0.4,
            200,
            200,
            1,
            1,
            1,
        ]
        self._eyes = random_eyes(self._varies, noise, kinds["eyes"])
        self._exposure_rng = kinds["eyes"]
        self._exposure: Exposure | None = None
        self._still: object = None
        self._placed: tuple[int, list[tuple[np.ndarray, np.ndarray]]] = (-1, [])
        self._cache: dict[int, tuple[StereoFrame, FrameObjects, np.ndarray]] = {}

    def __len__(self) -> int:
        return self.n_frames

    def frame(self, i: int) -> StereoFrame:
        """The pair."""
        return self._drawn(i)[0]

    def objects(self, i: int) -> FrameObjects:
        """Cars, pedestrians and cyclists, vans and trucks; those that are nearly hidden are DontCare."""
        return self._drawn(i)[1]

    def depth(self, i: int) -> np.ndarray:
        """Of all pixels but the sky's."""
        return self._drawn(i)[2]

    def pose(self, i: int) -> np.ndarray:
        """From the rectified camera to the world of the road."""
        d, s, heading = (float(part[i]) for part in (self._ego.d, self._ego.s, self._ego.heading))
        forward, up, right = self.road.frame(d, s, heading, upright=False)
        pitch, roll = self.rig.pitch[i], self.rig.roll[i]
        tilt = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
        lean = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
        pose = np.eye(4)
        pose[:3, :3] = np.stack([right, -up, forward], 1) @ tilt @ lean
        pose[:3, 3] = self.road.point(np.asarray(d), np.asarray(s)) + up * self.rig.height_m[i]
        return pose

    def in_camera(self, i: int) -> tuple[tuple[str, ...], np.ndarray]:
        """Classes and boxes in the ground frame of frame ``i``, of all actors, seen or not."""
        pose = self.pose(i)
        boxes = []
        for actor, (origin, frame) in zip(self.actors, self._places(i), strict=True):
            length, width, height = actor.size
            x, y, z = (origin + frame[1] * height / 2 - pose[:3, 3]) @ pose[:3, :3]
            ahead = frame[0] @ pose[:3, :3]
            boxes.append([z, -x, -y, length, width, height, np.arctan2(-ahead[0], ahead[2])])
        return tuple(actor.kind for actor in self.actors), np.array(boxes).reshape(-1, 7)

    def corners(self, i: int) -> np.ndarray:
        """Corners of the boxes as they stand on the ground, in the rectified camera frame, ``[N, 8, 3]``."""
        pose, found = self.pose(i), []
        for actor, (origin, frame) in zip(self.actors, self._places(i), strict=True):
            half = actor.size[[0, 2, 1]] / 2
            found.append((origin + (_CORNERS * half) @ frame - pose[:3, 3]) @ pose[:3, :3])
        return np.array(found).reshape(-1, 8, 3)

    def _places(self, i: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Origin and frame of each actor."""
        if self._placed[0] == i:
            return self._placed[1]
        found = []
        for actor in self.actors:
            d, s, heading = (float(part[i]) for part in (actor.path.d, actor.path.s, actor.path.heading))
            upright = actor.kind == "Pedestrian"
            origin = self.road.point(np.asarray(d), np.asarray(s))
            found.append((origin, self.road.frame(d, s, heading, upright=upright)))
        self._placed = (i, found)
        return found

    def _drawn(self, i: int) -> tuple[StereoFrame, FrameObjects, np.ndarray]:
        if i not in self._cache:
            while len(self._cache) >= 4:
                del self._cache[next(iter(self._cache))]
            self._cache[i] = self._draw(i)
        return self._cache[i]

    def _draw(self, i: int) -> tuple[StereoFrame, FrameObjects, np.ndarray]:
        from effcli.detect_stream.data.town.scene import centres_of

        lights, scene, view = self._light_of_eyes(i)
        if self._exposure is None:
            first = lights[0] if i == 0 else self._light_of_eyes(0)[0][0]
            self._exposure = random_exposure(self._varies, first, self._exposure_rng)
        rng = np.random.default_rng((_STREAM, self.seed, 99, i))
        left, right = (
            picture(light, self._exposure, eye, rng) for light, eye in zip(lights, self._eyes, strict=True)
        )
        centres = centres_of(scene, view, self._table, _SIZE)
        owners = np.where(centres.winner >= 0, scene.owners[centres.winner], -1)
        depth = np.zeros(_SIZE, np.float32)
        np.divide(1, centres.nearness, out=depth, where=centres.nearness > 0)
        visible = np.bincount(owners[owners >= 0], minlength=len(scene.things))
        return StereoFrame(left, right), self._labels(i, visible, centres.covered), depth

    def _light_of_eyes(self, i: int):  # type: ignore[no-untyped-def]
        """Linear light of both eyes, the scene, and how the left eye sees it."""
        from effcli.detect_stream.data.town import scene as scenes

        n = len(self.actors)
        if self._still is None:
            surface = self.road.surface(self._ego.d[0] - 14, self._ego.d[-1] + 90)
            still = [*self._things, scenes.standing_at_origin(scenes.ground_mesh(surface))]
            self._still = scenes.triangles_of(still, self._looks[n:])
        places, pose = self._places(i), self.pose(i)
        moving = [
            Standing(actor.mesh(i, self.switches.shapes), *place)
            for actor, place in zip(self.actors, places, strict=True)
        ]
        scene = scenes.of_both(scenes.triangles_of(moving, self._looks[:n]), self._still)  # type: ignore[arg-type]
        lens = (self.rig.focal_px, *self.rig.centre_px)
        views = [
            scenes.View(pose[:3, 3] + pose[:3, 0] * shift, pose[:3, :3], lens)
            for shift in (0.0, self.rig.baseline_m)
        ]
        ahead = pose[:3, 2] * np.array([1, 0, 1])
        lighting = scenes.Lighting(
            scene, self._light, pose[:3, 3], ahead, self._footprints(places), self._table
        )
        lights = [
            scenes.light_of(scene, view, lighting, self._light, self._surface, self._table, _SIZE)
            for view in views
        ]
        return lights, scene, views[0]

    def _footprints(self, places: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        """What takes sky from the ground: x, z, cos and sin of its yaw, half sizes, how much."""
        rows = []
        for actor, (origin, frame) in zip(self.actors, places, strict=True):
            most = 0.55 if actor.looks is not None else 0.88
            half = actor.size[:2] / 2 * (0.5 if actor.looks is not None else 0.95)
            rows.append([origin[0], origin[2], frame[0][2], frame[0][0], *half, most])
        return np.array(rows, float).reshape(-1, 7)

    def _labels(self, i: int, visible: np.ndarray, covered: np.ndarray) -> FrameObjects:
        kinds, boxes = self.in_camera(i)
        n = len(kinds)
        visible, covered = visible[:n], covered[:n]
        flat = image_boxes_of_corners(self.corners(i), self.calibration.left)
        cut = cut_to_image(flat, *_SIZE)
        area, inside = (np.nan_to_num(np.prod(np.maximum(b[:, 2:] - b[:, :2], 0), 1)) for b in (flat, cut))
        outside = 1 - inside / np.maximum(area, 1e-9)
        share = visible / np.maximum(covered, 1)
        hidden = (visible < _LEAST_PIXELS) | (share < _LEAST_SHARE)
        objects = objects_of(
            tuple("DontCare" if gone else kind for kind, gone in zip(kinds, hidden, strict=True)),
            boxes,
            image_boxes=cut,
            track_ids=np.where(hidden, -1, np.arange(n)),
            truncated=np.where(outside <= 1e-9, 0, np.where(outside < 0.5, 1, 2)),
            occluded=np.where(share > 0.8, 0, np.where(share > 0.4, 1, 2)),
        )
        return objects.pick((visible > 0) & (boxes[:, 0] < _FARTHEST_M))
