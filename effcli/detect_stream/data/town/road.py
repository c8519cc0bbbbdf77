"""The ground of a drive: a bent road that rises and falls, with camber, kerbs and pavements.

Places on it are (d, s): metres along the middle of the road and to its right. The world has x right, y down and z
forward, and its origin at d = s = 0. A *frame* is three unit vectors of the world, forward, up and right.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Road:
    """A road.

    Attributes:
        bend: curvature of its course, 1/m, never 0.
        slope, curve: it rises by ``slope * d + curve * d**2 / 2`` metres.
        camber: how much lower it is at the side, metres per square metre.
        tilt: how much it falls to the left, metres per metre.
        half_m: half of its width.
        pavement_m, kerb_m: width and height of the pavements at both sides.
    """

    bend: float
    slope: float
    curve: float
    camber: float
    tilt: float
    half_m: float
    pavement_m: float
    kerb_m: float

    def place(self, d: np.ndarray, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """x and z of the world."""
        radius = 1 / self.bend
        angle = np.asarray(d) * self.bend
        return radius - (radius - s) * np.cos(angle), (radius - s) * np.sin(angle)

    def height(self, d: np.ndarray, s: np.ndarray, *, kerb: bool = True) -> np.ndarray:
        """Metres above the plane of the world."""
        d, s = np.asarray(d, float), np.asarray(s, float)
        inner = np.clip(s, -self.half_m, self.half_m)
        found = self.slope * d + self.curve * d**2 / 2 - self.camber * inner**2 + self.tilt * s
        if kerb:
            found = found + self.kerb_m * (np.abs(s) > self.half_m)
        return np.asarray(found)

    def point(self, d: np.ndarray, s: np.ndarray) -> np.ndarray:
        """Points of the world, ``[..., 3]``."""
        x, z = self.place(d, s)
        return np.stack([x, -self.height(d, s), z], -1)

    def frame(self, d: float, s: float, heading: float, *, upright: bool) -> np.ndarray:
        """Of what stands at a place and looks ``heading`` to the right of the road's course, ``[3, 3]``."""
        yaw = heading + d * self.bend
        sin, cos = math.sin(yaw), math.cos(yaw)
        along, across = 0.0, 0.0
        if not upright:
            rise = self.slope + self.curve * d
            fall = self.tilt - 2 * self.camber * s * (abs(s) < self.half_m)
            along = rise * math.cos(heading) + fall * math.sin(heading)
            across = fall * math.cos(heading) - rise * math.sin(heading)
        size = math.sqrt(1 + along * along)
        fx, fy, fz = sin / size, -along / size, cos / size
        rx, ry, rz = cos, -across, -sin
        share = fx * rx + fy * ry + fz * rz
        rx, ry, rz = rx - share * fx, ry - share * fy, rz - share * fz
        size = math.sqrt(rx * rx + ry * ry + rz * rz)
        rx, ry, rz = rx / size, ry / size, rz / size
        up = [ry * fz - rz * fy, rz * fx - rx * fz, rx * fy - ry * fx]
        return np.array([[fx, fy, fz], up, [rx, ry, rz]])

    def surface(self, first_d: float, last_d: float) -> np.ndarray:
        """Triangles of the ground, ``[T, 3, 3]``."""
        inside = min(90.0, 0.8 / abs(self.bend))
        edge, walk = self.half_m, self.half_m + self.pavement_m
        half = np.array([0.0, edge / 2, edge, edge + 1e-6, walk, walk + 6, 22.0, 45.0, 90.0])
        half = np.unique(np.minimum(half, inside))
        s = np.concatenate([-half[:0:-1], half])
        d = np.concatenate([np.arange(first_d, last_d, 4.0), last_d + np.array([0.0, 12, 30, 60, 100, 160])])
        d = d[np.abs(d * self.bend) < 2.4]
        grid = self.point(d[:, None], s[None, :])
        a, b, c, e = grid[:-1, :-1], grid[:-1, 1:], grid[1:, 1:], grid[1:, :-1]
        triangles = np.stack([np.stack([a, b, c], 2), np.stack([a, c, e], 2)], 2)
        return np.ascontiguousarray(triangles.reshape(-1, 3, 3))


def random_road(varies: bool, rng: np.random.Generator) -> Road:
    """A road; straight, flat and level where nothing varies."""
    half = rng.uniform(2.6, 6.5)
    pavement = rng.uniform(0.8, 3.5)
    if not varies:
        return Road(1e-7, 0.0, 0.0, 0.0, 0.0, half, pavement, 0.0)
    bend = rng.uniform(-1 / 60, 1 / 60) * (rng.random() < 0.5)
    return Road(
        bend if abs(bend) > 1e-4 else 1e-7,
        rng.normal(0, 0.02),
        float(np.clip(rng.normal(0, 2.5e-4), -6e-4, 6e-4)),
        rng.uniform(0.0, 0.006),
        rng.normal(0, 0.012),
        half,
        pavement,
        rng.choice([0.0, 0.06, 0.12]),
    )
