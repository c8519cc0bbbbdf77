"""Who is on the road and beside it: cars, vans, trucks, pedestrians and cyclists, moving or parked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from effcli.detect_stream.data.stereo_sequence import FPS
from effcli.detect_stream.data.town.mesh import Material, Mesh
from effcli.detect_stream.data.town.people import Looks, cyclist, pedestrian, random_looks
from effcli.detect_stream.data.town.road import Road
from effcli.detect_stream.data.town.switches import TownSwitches
from effcli.detect_stream.data.town.vehicles import BODIES, Body, painted_box, random_paint, vehicle

_AHEAD_M, _BEHIND_M = 65.0, 8.0
_EVERY = 3  # frames between which nobody can meet anybody unseen


@dataclass(frozen=True)
class RoadPath:
    """Where something is at each frame: metres along the road and to its right, heading from its course, ``[T]``."""

    d: np.ndarray
    s: np.ndarray
    heading: np.ndarray

    def circles(self, road: Road, length: float, width: float) -> tuple[np.ndarray, float]:
        """Centres ``[T, 3, 2]`` and radius of three circles that cover it, at every third frame."""
        d, s, heading = (part[::_EVERY] for part in (self.d, self.s, self.heading))
        x, z = road.place(d, s)
        yaw = heading + d * road.bend
        steps = np.array([-1, 0, 1]) * length / 3
        found = np.stack(
            [x[:, None] + np.sin(yaw)[:, None] * steps, z[:, None] + np.cos(yaw)[:, None] * steps], -1
        )
        return found, float(np.hypot(length / 6, width / 2))


@dataclass(frozen=True)
class TownActor:
    """A road user.

    Attributes:
        kind: KITTI's name of its class.
        size: length, width and height, metres.
        path: where it goes.
        body: the mesh of a vehicle; None for people.
        looks: of a person; None for vehicles.
        colour: where shapes are left out.
        phase: of its limbs at the first frame, and radians per metre.
    """

    kind: str
    size: np.ndarray
    path: RoadPath
    body: Mesh | None
    looks: Looks | None
    colour: np.ndarray
    phase: tuple[float, float]

    def mesh(self, i: int, shapes: bool) -> Mesh:
        """At frame ``i``."""
        if not shapes:
            material = Material.PAINT if self.looks is None else Material.CLOTH
            return painted_box(self.size, material, self.colour)
        if self.body is not None:
            return self.body
        assert self.looks is not None
        steps = np.hypot(np.diff(self.path.d[: i + 1]), np.diff(self.path.s[: i + 1])).sum()
        phase = self.phase[0] + self.phase[1] * float(steps)
        if self.kind == "Cyclist":
            return cyclist(self.size, self.looks, phase)
        last = max(1, min(i, len(self.path.d) - 1))
        speed = (
            FPS * np.hypot(*(part[last] - part[last - 1] for part in (self.path.d, self.path.s)))
            if len(self.path.d) > 1
            else 0.0
        )
        return pedestrian(self.size, self.looks, phase, float(min(1.0, speed / 1.3)))


def random_actors(
    road: Road, ego: RoadPath, switches: TownSwitches, rng: np.random.Generator
) -> list[TownActor]:
    """Road users who meet neither each other nor the cameras."""
    wanted = _traffic(road, ego, switches, rng) + _walkers(road, ego, switches, rng)
    if switches.clutter:
        for side in (-1, 1):
            if rng.random() < 0.6:
                wanted += _parked(road, ego, side, switches, rng)
    found: list[TownActor] = []
    taken = [ego.circles(road, 4.6, 2.2)]
    for actor in (wanted[i] for i in rng.permutation(len(wanted))):
        own = actor.path.circles(road, float(actor.size[0]), float(actor.size[1]))
        if all(_apart(own, other) for other in taken):
            taken.append(own)
            found.append(actor)
    return found


def _apart(one: tuple[np.ndarray, float], other: tuple[np.ndarray, float]) -> bool:
    gap = one[0][:, :, None] - other[0][:, None, :]
    return bool((np.hypot(gap[..., 0], gap[..., 1]) > one[1] + other[1] + 0.05).all())


def _vehicle(path: RoadPath, switches: TownSwitches, rng: np.random.Generator) -> TownActor:
    bodies: Sequence[Body] = BODIES if switches.clutter else [one for one in BODIES if one.kind == "Car"]
    share = np.array([one.share for one in bodies])
    body = bodies[rng.choice(len(bodies), p=share / share.sum())]
    size = np.array(body.size) * np.clip(rng.normal(1, 0.035, 3), 0.9, 1.1)
    return TownActor(body.kind, size, path, vehicle(body, size, rng), None, random_paint(rng), (0.0, 0.0))


def _person(kind: str, path: RoadPath, rng: np.random.Generator) -> TownActor:
    mean = (0.85, 0.62, 1.72) if kind == "Pedestrian" else (1.77, 0.62, 1.74)
    size = np.array(mean) * np.clip(rng.normal(1, 0.06, 3), 0.85, 1.15)
    if kind == "Pedestrian" and rng.random() < 0.1:
        size *= rng.uniform(0.6, 0.8)  # a child
    looks = random_looks(rng)
    pace = 2 * np.pi / (0.8 * size[2]) if kind == "Pedestrian" else 2 * np.pi / 5.0
    return TownActor(kind, size, path, None, looks, looks.top, (rng.uniform(0, 6.3), float(pace)))


def _straight(
    d: float,
    s: float,
    heading: float,
    speed: float,
    n: int,
    rng: np.random.Generator,
    meets: int,
    drift: float = 0.0,
) -> RoadPath:
    """At (d, s) in frame ``meets``, at a speed that may change, drifting aside."""
    time_s = (np.arange(n) - meets) / FPS
    change = rng.uniform(-1.2, 1.2) * (rng.random() < 0.4) * (speed > 2)
    gone = speed * time_s + change * time_s**2 / 2
    turn = heading + drift * np.tanh(time_s) * (speed > 0)
    ahead = np.concatenate([[0.0], np.cumsum(np.diff(gone) * np.cos(turn[1:]))])
    aside = np.concatenate([[0.0], np.cumsum(np.diff(gone) * np.sin(turn[1:]))])
    return RoadPath(d + ahead - ahead[meets], s + aside - aside[meets], turn)


def _spot(ego: RoadPath, rng: np.random.Generator) -> tuple[int, float]:
    """A frame, and metres along the road near where the cameras are then."""
    meets = int(rng.integers(len(ego.d)))
    near = rng.random() < 0.6
    ahead = rng.uniform(5, 28) if near else rng.uniform(-_BEHIND_M, _AHEAD_M)
    return meets, float(ego.d[meets] + ahead)


def _traffic(road: Road, ego: RoadPath, switches: TownSwitches, rng: np.random.Generator) -> list[TownActor]:
    found = []
    n, lane = len(ego.d), float(ego.s[0])
    pace = float(np.mean(np.diff(ego.d)) * FPS) if n > 1 else 0.0
    for _ in range(int(rng.integers(1, 9))):
        meets, d = _spot(ego, rng)
        way = rng.random()
        if way < 0.35:  # the cameras' own lane
            path = _straight(d, lane + rng.normal(0, 0.2), 0.0, max(0.0, rng.normal(pace, 2)), n, rng, meets)
        elif way < 0.85:
            speed = max(0.0, rng.normal(9, 4)) * (rng.random() > 0.15)
            path = _straight(d, -lane + rng.normal(0, 0.3), np.pi, speed, n, rng, meets, 0.05 * rng.normal())
        else:  # out of a side road, or across
            side = rng.choice([-1, 1])
            heading = -side * rng.uniform(0.8, 2.3)
            path = _straight(
                d, side * rng.uniform(1, road.half_m + 6), heading, rng.uniform(0, 6), n, rng, meets
            )
        found.append(_vehicle(path, switches, rng))
    for _ in range(int(rng.integers(0, 5))):
        meets, d = _spot(ego, rng)
        side = rng.choice([-1, 1])
        s = (
            side * (road.half_m - rng.uniform(0.5, 1.6))
            if rng.random() < 0.7
            else rng.uniform(-1, 1) * road.half_m
        )
        heading = (0.0 if side * lane > 0 else np.pi) + rng.normal(0, 0.08)
        if rng.random() < 0.12:
            heading = rng.uniform(-np.pi, np.pi)
        speed = rng.uniform(2.0, 7.0) * (rng.random() > 0.15)
        found.append(_person("Cyclist", _straight(d, s, heading, speed, n, rng, meets), rng))
    return found


def _walkers(road: Road, ego: RoadPath, switches: TownSwitches, rng: np.random.Generator) -> list[TownActor]:
    found = []
    n = len(ego.d)
    crowd = int(rng.integers(1, 13)) if rng.random() < 0.8 else 0
    for _ in range(crowd):
        meets, d = _spot(ego, rng)
        side = rng.choice([-1, 1])
        if rng.random() < 0.75:
            s = side * (road.half_m + rng.uniform(0.2, max(0.6, road.pavement_m)))
            heading = rng.choice([0.0, np.pi]) + rng.normal(0, 0.15)
        else:  # across the road
            s, heading = (
                side * rng.uniform(0, road.half_m + 1),
                rng.choice([-1, 1]) * np.pi / 2 + rng.normal(0, 0.3),
            )
        speed = rng.uniform(0.6, 1.9) * (rng.random() > 0.25)
        if not speed:
            heading = rng.uniform(-np.pi, np.pi)
        found.append(_person("Pedestrian", _straight(d, s, heading, speed, n, rng, meets), rng))
    return found


def _parked(
    road: Road, ego: RoadPath, side: int, switches: TownSwitches, rng: np.random.Generator
) -> list[TownActor]:
    """A row with gaps, along the kerb or at an angle to it."""
    found = []
    d, last = float(ego.d[0]) - _BEHIND_M, float(ego.d[-1]) + _AHEAD_M
    start = d + rng.uniform(0, 20) * (rng.random() < 0.5)
    d = start
    angled = rng.random() < 0.2 and road.pavement_m > 1.5
    on_road = road.half_m > 4.0
    s = side * (road.half_m - 1.0 if on_road else road.half_m + 1.0)
    if angled:
        s = side * (road.half_m + 2.0)
    filled = rng.uniform(0.4, 1.0)
    turn = rng.uniform(0.9, 1.57)
    while d < last:
        if rng.random() < filled:
            heading = rng.choice([0.0, np.pi], p=[0.7, 0.3] if side > 0 else [0.3, 0.7]) + rng.normal(0, 0.03)
            if angled:
                heading = side * turn + rng.choice([0.0, np.pi]) + rng.normal(0, 0.03)
            n = len(ego.d)
            path = RoadPath(np.full(n, d), np.full(n, s + rng.normal(0, 0.12)), np.full(n, heading))
            found.append(_vehicle(path, switches, rng))
            d += (2.9 if angled else float(found[-1].size[0])) + rng.uniform(0.4, 1.6)
        else:
            d += rng.uniform(3, 9)
    return found


def ego_path(road: Road, n_frames: int, rng: np.random.Generator) -> RoadPath:
    """The cameras' own way: in a lane, at 0 to 18 m/s, some braking or starting, with a little swaying."""
    time_s = np.arange(n_frames) / FPS
    speed = rng.uniform(0, 12) if rng.random() < 0.75 else rng.choice([0.0, rng.uniform(12, 18)])
    change = rng.uniform(-2, 2) * (rng.random() < 0.4)
    speeds = np.clip(speed + change * time_s, 0, 18)
    d = np.concatenate([[0.0], np.cumsum(speeds[:-1]) / FPS])
    side = 1 if rng.random() < 0.8 else -1
    room = road.half_m - (2.1 if road.half_m > 4.0 else 0.3)
    s = side * max(0.3, room / 2) + rng.normal(0, 0.15)
    sway, wave = rng.uniform(0, 0.3), 2 * np.pi / rng.uniform(25, 60)
    start = rng.uniform(0, 6.3)
    return RoadPath(d, s + sway * np.sin(wave * d + start), np.arctan(sway * wave * np.cos(wave * d + start)))
