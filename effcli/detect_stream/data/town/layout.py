"""Where things stand beside the road."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from effcli.detect_stream.data.town import scenery
from effcli.detect_stream.data.town.actors import RoadPath, TownActor
from effcli.detect_stream.data.town.mesh import Mesh
from effcli.detect_stream.data.town.road import Road
from effcli.detect_stream.data.town.switches import TownSwitches

_FAR_M = 110.0


@dataclass(frozen=True)
class Standing:
    """A thing that does not move.

    Attributes:
        mesh: in its own coordinates.
        origin: of these, in the world, ``[3]``.
        frame: its forward, up and right, ``[3, 3]``.
    """

    mesh: Mesh
    origin: np.ndarray
    frame: np.ndarray


class _Beside:
    """Places things beside a road, clear of where anything drives."""

    def __init__(self, road: Road, ego: RoadPath, actors: list[TownActor], rng: np.random.Generator) -> None:
        self.road, self.rng = road, rng
        self.first, self.last = float(ego.d[0]) - 12.0, float(ego.d[-1]) + _FAR_M
        self.found: list[Standing] = []
        circles = [ego.circles(road, 4.6, 2.2)]
        circles += [a.path.circles(road, float(a.size[0]), float(a.size[1])) for a in actors]
        self._centres = np.concatenate([c.reshape(-1, 2) for c, _ in circles])
        self._radii = np.concatenate([np.full(c.size // 2, r) for c, r in circles])

    def put(
        self, mesh: Mesh, d: float, s: float, heading: float, sink: float = 0.0, radius: float = 0.0
    ) -> None:
        """Stand a thing upright; not where anything drives within ``radius`` of it."""
        if abs(s * self.road.bend) > 0.75 or abs(d * self.road.bend) > 2.3:
            return
        point = self.road.point(np.asarray(d), np.asarray(s))
        if radius and (np.hypot(*(self._centres - point[[0, 2]]).T) < self._radii + radius + 0.2).any():
            return
        frame = self.road.frame(d, s, heading, upright=True)
        self.found.append(Standing(mesh, point + np.array([0, sink, 0]), frame))

    def facing(self, side: int) -> float:
        """The heading in which a thing's -c looks to the road."""
        return 0.0 if side > 0 else np.pi

    def row(
        self,
        make: Callable[[np.random.Generator], Mesh],
        s: tuple[float, float],
        gaps: tuple[float, float],
        side: int,
        radius: float,
    ) -> None:
        """Things one after another, at gaps, at some distance from the middle."""
        d = self.first + self.rng.uniform(0, gaps[1])
        while d < self.last:
            at = side * self.rng.uniform(*s)
            self.put(make(self.rng), d, at, self.facing(side) + self.rng.normal(0, 0.05), radius=radius)
            d += self.rng.uniform(*gaps)


def things_beside(
    road: Road, ego: RoadPath, actors: list[TownActor], switches: TownSwitches, rng: np.random.Generator
) -> list[Standing]:
    """Houses, walls, trees and so on at both sides; without clutter houses from 17 m on and woods at the end."""
    beside = _Beside(road, ego, actors, rng)
    skyline = _Beside(road, ego, [], rng)
    skyline.put(scenery.skyline(rng), float(np.mean(ego.d)), 0.0, 0.0)
    walk = road.half_m + road.pavement_m
    for side in (-1, 1):
        if switches.clutter:
            _near_side(beside, side, walk)
        else:
            _houses(beside, side, 17.0, 22.0, 0.7)
    here = road.point(np.asarray(float(np.mean(ego.d))), np.asarray(0.0))
    beside.found.sort(
        key=lambda one: float(np.abs(one.origin - here).max())
    )  # what hides others is drawn first
    return [*beside.found, skyline.found[0]]


def _near_side(beside: _Beside, side: int, walk: float) -> None:
    rng, kerb = beside.rng, beside.road.half_m + 0.45
    kind = rng.random()
    if kind < 0.5:  # a street of houses, at 5 to 9 m or so
        _houses(beside, side, max(walk + 0.3, 5.0), max(walk + 1.5, 9.0), rng.uniform(0.7, 1.0))
    elif kind < 0.8:  # gardens
        _houses(beside, side, walk + 4, walk + 12, rng.uniform(0.4, 0.9))
        _borders(beside, side, walk + 0.5)
        beside.row(lambda r: scenery.tree(r.uniform(3, 9), r), (walk + 1.5, walk + 7), (4, 14), side, 1.0)
    else:  # open country
        if rng.random() < 0.5:
            _borders(beside, side, walk + rng.uniform(0.5, 4))
        beside.row(lambda r: scenery.tree(r.uniform(4, 14), r), (walk + 2, walk + 16), (2, 9), side, 1.0)
        beside.row(lambda r: scenery.tree(r.uniform(5, 14), r), (walk + 10, walk + 30), (2, 6), side, 1.0)
    if rng.random() < 0.4:
        beside.row(lambda r: scenery.tree(r.uniform(4, 10), r), (kerb + 0.2, kerb + 0.6), (7, 14), side, 0.3)
    if rng.random() < 0.8:
        beside.row(scenery.pole, (kerb, kerb + 0.4), (7, 28), side, 0.15)
    if rng.random() < 0.7:
        beside.row(scenery.sign, (kerb, kerb + 0.5), (9, 40), side, 0.15)
    if rng.random() < 0.5:
        beside.row(scenery.bins, (walk - 0.4, walk + 0.3), (10, 45), side, 1.2)
    if rng.random() < 0.25:
        beside.row(scenery.shelter, (walk, walk + 0.6), (40, 90), side, 2.2)


def _houses(beside: _Beside, side: int, nearest: float, farthest: float, filled: float) -> None:
    rng = beside.rng
    d = beside.first + rng.uniform(-8, 4)
    front, terraced = rng.uniform(nearest, farthest), rng.random() < 0.5
    while d < beside.last:
        length, depth, height = rng.uniform(6, 18), rng.uniform(7, 12), rng.uniform(3.2, 12)
        if rng.random() < filled:
            s = front + (0.0 if terraced else rng.uniform(0, farthest - nearest))
            mesh = scenery.house(length, depth, height + 1.0, rng)
            beside.put(mesh, d + length / 2, side * (s + depth / 2), beside.facing(side), 1.0, depth / 2)
        d += length + (0.0 if terraced and rng.random() < 0.8 else rng.uniform(1, 7))


def _borders(beside: _Beside, side: int, s: float) -> None:
    """Hedges, walls and fences in pieces."""
    rng = beside.rng
    make = rng.choice([scenery.hedge, scenery.wall, scenery.fence])  # type: ignore[arg-type]
    d = beside.first
    while d < beside.last:
        length = rng.uniform(2.4, 7)
        if rng.random() < 0.8:
            mesh = make(length, rng)
            frame_turn = beside.facing(side)
            beside.put(mesh.moved(b=-0.05), d + length / 2, side * s, frame_turn, radius=0.6)
        d += length + (rng.uniform(1, 6) if rng.random() < 0.25 else 0.02)
        if rng.random() < 0.1:
            make = rng.choice([scenery.hedge, scenery.wall, scenery.fence])  # type: ignore[arg-type]
