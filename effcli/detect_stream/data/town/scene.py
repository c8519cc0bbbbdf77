"""A town as triangles, and how two cameras see it at a moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from effcli.detect_stream.data.town.layout import Standing
from effcli.detect_stream.data.town.mesh import Material, Mesh, mesh_of
from effcli.detect_stream.data.town.rasteriser import BARS, LEAVES, SOLID, Raster, rasterise
from effcli.detect_stream.data.town.shading import compiled_darken, shade

N_COLUMNS = 21
"""Of a thing: its origin, forward, up and right in the world, three free, contrast, two offsets, three random."""

_SHADOW_TEXELS, _SHADOW_M = 400, 56.0
_AMBIENT_CELLS, _AMBIENT_M = 256, 64.0
_SKYLINE_M = 100.0


@dataclass(frozen=True)
class Triangles:
    """Triangles of several things.

    Attributes:
        world: corners, ``[T, 3, 3]``.
        local: the same in coordinates of their thing.
        owners: number of the thing, int32 ``[T]``.
        materials: int32 ``[T]``, thickets as leaves.
        kinds: ``SOLID``, ``LEAVES`` or ``BARS``, int32 ``[T]``.
        colours, normals: ``[T, 3]``.
        things: one row each, ``[B, 21]``.
    """

    world: np.ndarray
    local: np.ndarray
    owners: np.ndarray
    materials: np.ndarray
    kinds: np.ndarray
    colours: np.ndarray
    normals: np.ndarray
    things: np.ndarray


def triangles_of(things: Sequence[Standing], looks: np.ndarray) -> Triangles:
    """Things as triangles; ``looks`` are the last six columns of each, ``[B, 6]``."""
    world = [(one.mesh.triangles.reshape(-1, 3) @ one.frame + one.origin).reshape(-1, 3, 3) for one in things]
    rows = [
        np.concatenate([one.origin, one.frame.reshape(-1), np.zeros(3), own])
        for one, own in zip(things, looks, strict=True)
    ]
    counts = [len(one) for one in world]
    corners = np.concatenate([np.zeros((0, 3, 3)), *world])
    (ax, ay, az), (bx, by, bz) = (corners[:, 1] - corners[:, 0]).T, (corners[:, 2] - corners[:, 0]).T
    normals = np.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx], 1)
    materials = np.concatenate([np.zeros(0, int), *(one.mesh.materials for one in things)]).astype(np.int32)
    kinds = np.full(len(materials), SOLID, np.int32)
    kinds[materials == Material.FOLIAGE], kinds[materials == Material.FENCE] = LEAVES, BARS
    materials[materials == Material.THICKET] = Material.FOLIAGE
    return Triangles(
        corners,
        np.concatenate([np.zeros((0, 3, 3)), *(one.mesh.triangles for one in things)]),
        np.repeat(np.arange(len(things)), counts).astype(np.int32),
        materials,
        kinds,
        np.concatenate([np.zeros((0, 3)), *(one.mesh.colours for one in things)]),
        normals / np.maximum(np.sqrt((normals**2).sum(1, keepdims=True)), 1e-12),
        np.array(rows).reshape(-1, N_COLUMNS),
    )


def of_both(first: Triangles, second: Triangles) -> Triangles:
    """The things of the first, then those of the second."""
    names = ("world", "local", "materials", "kinds", "colours", "normals", "things")
    both = {name: np.concatenate([getattr(first, name), getattr(second, name)]) for name in names}
    owners = np.concatenate([first.owners, second.owners + np.int32(len(first.things))])
    return Triangles(owners=owners, **both)


def ground_mesh(surface: np.ndarray) -> Mesh:
    """The ground, whose own coordinates are those of the world."""
    return mesh_of(surface, Material.GROUND, (0.12, 0.12, 0.12))


def standing_at_origin(mesh: Mesh) -> Standing:
    """A mesh in coordinates of the world."""
    return Standing(mesh, np.zeros(3), np.eye(3))


@dataclass(frozen=True)
class View:
    """A camera.

    Attributes:
        place: of its eye in the world, ``[3]``.
        turn: from its coordinates to the world's, ``[3, 3]``.
        lens: focal length and principal point, pixels.
    """

    place: np.ndarray
    turn: np.ndarray
    lens: tuple[float, float, float]

    def seen(self, points: np.ndarray) -> np.ndarray:
        """Points of the world in its coordinates."""
        flat = (points.reshape(-1, 3) - self.place) @ self.turn
        found: np.ndarray = flat.reshape(points.shape)
        return found


def centres_of(scene: Triangles, view: View, table: np.ndarray, size: tuple[int, int]) -> Raster:
    """What the centres of pixels see, with counts of all things."""
    return rasterise(
        view.seen(scene.world), scene.local, scene.owners, scene.kinds, view.lens, table, size,
        n_owners=len(scene.things),
    )  # fmt: skip


class Lighting:
    """Shadows and the darkness under things, at a moment, for both eyes.

    Args:
        scene: everything.
        light: as of :func:`~effcli.detect_stream.data.town.weather.random_light`.
        place: of the cameras, ``[3]``.
        ahead: where they look, ``[3]``.
        footprints: rectangles that take sky from the ground, ``[F, 7]``.
        table: noise.
    """

    def __init__(
        self,
        scene: Triangles,
        light: np.ndarray,
        place: np.ndarray,
        ahead: np.ndarray,
        footprints: np.ndarray,
        table: np.ndarray,
    ) -> None:
        middle = place + ahead * (_SHADOW_M / 2 - 6)
        self.where = _sun_grid(light[:3], middle)
        self.shadow = np.full((4, 4), -1e9, np.float32)
        if light[17] > 0:
            casts = (scene.materials != Material.GROUND) & (scene.materials != Material.HILL)
            projected = scene.world[casts].reshape(-1, 3) @ self.where[:9].reshape(3, 3).T + self.where[9:]
            size = (_SHADOW_TEXELS, _SHADOW_TEXELS)
            self.shadow = rasterise(
                projected.reshape(-1, 3, 3), np.ascontiguousarray(scene.local[casts]), scene.owners[casts],
                scene.kinds[casts], (0.0, 0.0, 0.0), table, size, farthest=-1e9,
            ).nearness  # fmt: skip
        cell = _AMBIENT_M / _AMBIENT_CELLS
        corner = place + ahead * (_AMBIENT_M / 2 - 4) - _AMBIENT_M / 2
        self.corner = np.array([corner[0], corner[2], cell])
        self.ambient = np.ones((_AMBIENT_CELLS, _AMBIENT_CELLS), np.float32)
        compiled_darken()(footprints, self.corner, self.ambient)


def _sun_grid(sun: np.ndarray, middle: np.ndarray) -> np.ndarray:
    """From the world to column, row and nearness of the shadows' map: a 3x3 matrix and a shift, ``[12]``."""
    across = np.cross(sun, [0, 1.0, 0])
    across /= np.linalg.norm(across)
    rows = np.stack([across, np.cross(sun, across), sun]) * np.array(
        [[_SHADOW_TEXELS / _SHADOW_M], [_SHADOW_TEXELS / _SHADOW_M], [1.0]]
    )
    shift = -rows @ middle + np.array([_SHADOW_TEXELS / 2, _SHADOW_TEXELS / 2, 0])
    return np.concatenate([rows.reshape(-1), shift])


def light_of(
    scene: Triangles,
    view: View,
    lighting: Lighting,
    light: np.ndarray,
    surface: np.ndarray,
    table: np.ndarray,
    size: tuple[int, int],
) -> np.ndarray:
    """The linear light that an eye receives, float32 ``[H, W, 3]``."""
    f, cx, cy = view.lens
    double = (2 * f, 2 * cx + 0.5, 2 * cy + 0.5)
    fine = rasterise(
        view.seen(scene.world),
        scene.local,
        scene.owners,
        scene.kinds,
        double,
        table,
        (2 * size[0], 2 * size[1]),
    )
    return shade(
        fine.winner, fine.nearness, np.array(view.lens), np.concatenate([view.place, view.turn.reshape(-1)]),
        scene.owners, scene.materials, scene.colours, scene.normals, scene.things, surface, light,
        lighting.shadow, lighting.where, lighting.ambient, lighting.corner, table, size=size,
    )  # fmt: skip
