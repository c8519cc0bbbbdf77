"""Triangles with materials, and the solids that things in a town are put together from.

Local coordinates are (a, b, c): forward, up from the ground, right; metres. Colours are linear, 0 to 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cache

import numpy as np


class Material(IntEnum):
    """How a surface is painted."""

    GROUND = 0
    PLAIN = 1
    PAINT = 2
    GLASS = 3
    DARK = 4
    BRICK = 5
    FACADE = 6
    TILES = 7
    FOLIAGE = 8
    FENCE = 9
    CLOTH = 10
    SIGN = 11
    LAMP = 12
    HILL = 13
    THICKET = 14  # leaves without holes


Colour = Sequence[float] | np.ndarray


@dataclass(frozen=True)
class Mesh:
    """Triangles.

    Attributes:
        triangles: corners, ``[T, 3, 3]``.
        materials: of each, ``[T]``.
        colours: of each, ``[T, 3]``.
    """

    triangles: np.ndarray
    materials: np.ndarray
    colours: np.ndarray

    def moved(self, a: float = 0.0, b: float = 0.0, c: float = 0.0) -> Mesh:
        """Somewhere else."""
        return Mesh(self.triangles + np.array([a, b, c]), self.materials, self.colours)

    def turned(self, angle: float) -> Mesh:
        """About the vertical axis, from a towards c."""
        cos, sin = np.cos(angle), np.sin(angle)
        turn = np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
        return Mesh(self.triangles @ turn, self.materials, self.colours)


def joined(parts: Sequence[Mesh]) -> Mesh:
    """Several as one."""
    return Mesh(
        np.concatenate([part.triangles for part in parts]),
        np.concatenate([part.materials for part in parts]),
        np.concatenate([part.colours for part in parts]),
    )


def mesh_of(triangles: np.ndarray, material: Material, colour: Colour) -> Mesh:
    """Triangles of one material."""
    n = len(triangles)
    return Mesh(
        np.asarray(triangles, float).reshape(n, 3, 3),
        np.full(n, int(material), np.int64),
        np.broadcast_to(np.asarray(colour, float), (n, 3)),
    )


def quads(corners: np.ndarray, material: Material, colour: Colour) -> Mesh:
    """Quadrilaterals ``[Q, 4, 3]``, corners in turn."""
    corners = np.asarray(corners, float).reshape(-1, 4, 3)
    both = np.stack([corners[:, [0, 1, 2]], corners[:, [0, 2, 3]]], 1)
    return mesh_of(both.reshape(-1, 3, 3), material, colour)


def box(size: Colour, material: Material, colour: Colour, at: Colour = (0.0, 0.0, 0.0)) -> Mesh:
    """A box of length, height and width whose bottom has its middle at a place."""
    length, height, width = size
    signs = np.array(
        [[-1, 0, -1], [1, 0, -1], [1, 0, 1], [-1, 0, 1], [-1, 1, -1], [1, 1, -1], [1, 1, 1], [-1, 1, 1]]
    )
    p = signs * np.array([length / 2, height, width / 2]) + np.asarray(at)
    faces = [[4, 5, 6, 7], [0, 1, 5, 4], [1, 2, 6, 5], [2, 3, 7, 6], [3, 0, 4, 7], [0, 1, 2, 3]]
    return quads(p[np.array(faces)], material, colour)


def limb(
    start: Colour,
    end: Colour,
    radii: tuple[float, float],
    material: Material,
    colour: Colour,
    sides: int = 6,
) -> Mesh:
    """A cut cone between two points, closed at both ends."""
    p, q = np.asarray(start, float), np.asarray(end, float)
    x, y, z = ((q - p) / max(math.dist(p, q), 1e-9)).tolist()
    # two directions across the axis
    u = np.array([0.0, z, -y]) if abs(x) < 0.8 else np.array([-z, 0.0, x])
    u /= math.sqrt(float(u @ u))
    v = np.array([y * u[2] - z * u[1], z * u[0] - x * u[2], x * u[1] - y * u[0]])
    circle, faces = _tube(sides)
    ring = circle[:, :1] * u + circle[:, 1:] * v
    points = np.concatenate([p + ring * radii[0], q + ring * radii[1], p[None], q[None]])
    return mesh_of(points[faces], material, colour)


@cache
def _tube(sides: int) -> tuple[np.ndarray, np.ndarray]:
    """A circle ``[sides, 2]``, and the faces over two of it and their middles, ``[4 sides, 3]``."""
    angle = 2 * np.pi * np.arange(sides) / sides
    i, j = np.arange(sides), (np.arange(sides) + 1) % sides
    low, high = np.full(sides, 2 * sides), np.full(sides, 2 * sides + 1)
    faces = [[i, j, j + sides], [i, j + sides, i + sides], [low, i, j], [high, i + sides, j + sides]]
    return np.stack([np.cos(angle), np.sin(angle)], 1), np.concatenate([np.stack(f, 1) for f in faces])


def ball(centre: Colour, radii: Colour, material: Material, colour: Colour, sides: int = 7) -> Mesh:
    """An ellipsoid."""
    return mesh_of(_sphere(sides) * np.asarray(radii) + np.asarray(centre), material, colour)


@cache
def _sphere(sides: int) -> np.ndarray:
    """Triangles of a ball of radius 1, ``[T, 3, 3]``."""
    rows = np.linspace(-np.pi / 2, np.pi / 2, sides // 2 + 2)
    columns = 2 * np.pi * np.arange(sides) / sides
    grid = np.stack(
        [
            np.cos(rows)[:, None] * np.cos(columns),
            np.broadcast_to(np.sin(rows)[:, None], (len(rows), sides)),
            np.cos(rows)[:, None] * np.sin(columns),
        ],
        -1,
    )
    after = np.roll(grid, -1, 1)
    corners = np.stack([grid[:-1], after[:-1], after[1:], grid[1:]], 2).reshape(-1, 4, 3)
    return np.concatenate([corners[:, [0, 1, 2]], corners[:, [0, 2, 3]]])


def loft(rings: np.ndarray, material: Material, colour: Colour) -> Mesh:
    """A closed skin over rings ``[S, P, 3]``, with flat ends."""
    after = np.roll(rings, -1, 1)
    skin = quads(np.stack([rings[:-1], after[:-1], after[1:], rings[1:]], 2), material, colour)
    ends = []
    for ring in (rings[0], rings[-1]):
        middle = np.broadcast_to(ring.mean(0), ring.shape)
        ends.append(np.stack([middle, ring, np.roll(ring, -1, 0)], 1))
    return joined([skin, mesh_of(np.concatenate(ends), material, colour)])


def patch(
    corners: Colour,
    u: Sequence[float],
    v: Sequence[float],
    inner: Material,
    frame: Material,
    colours: tuple[Colour, Colour],
) -> Mesh:
    """A quadrilateral ``[4, 3]`` in a grid: panes of ``inner`` between bars of ``frame``, in turn along u and v."""
    p = np.asarray(corners, float).reshape(4, 3)
    us, vs = np.asarray(u)[:, None, None], np.asarray(v)[None, :, None]
    grid = (p[0] * (1 - us) + p[1] * us) * (1 - vs) + (p[3] * (1 - us) + p[2] * us) * vs
    cells = np.stack([grid[:-1, :-1], grid[1:, :-1], grid[1:, 1:], grid[:-1, 1:]], 2)
    odd = (np.arange(len(u) - 1) % 2 == 1)[:, None] & (np.arange(len(v) - 1) % 2 == 1)[None, :]
    return joined([quads(cells[odd], inner, colours[0]), quads(cells[~odd], frame, colours[1])])
