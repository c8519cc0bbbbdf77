"""Things of the town fill their boxes and stay in them, and their surfaces are closed."""

from __future__ import annotations

import numpy as np
import pytest

from effcli.detect_stream.data.town.mesh import Material, Mesh, ball, box, limb
from effcli.detect_stream.data.town.people import cyclist, pedestrian, random_looks
from effcli.detect_stream.data.town.vehicles import BODIES, Body, vehicle


def extent(mesh: Mesh) -> tuple[np.ndarray, np.ndarray]:
    points = mesh.triangles.reshape(-1, 3)
    return points.min(0), points.max(0)


@pytest.mark.parametrize("body", BODIES, ids=lambda body: f"{body.kind}-{body.size[0]:g}-{body.size[2]:g}")
def test_vehicles_fill_their_boxes(body: Body) -> None:
    size = np.array(body.size)
    low, high = extent(vehicle(body, size, np.random.default_rng(0)))
    half = np.array([size[0] / 2, size[2], size[1] / 2])
    np.testing.assert_allclose(high, half, rtol=0.02)
    np.testing.assert_allclose(low, [-half[0], 0, -half[2]], atol=0.02 * size[0])
    assert (high <= half + 1e-9).all() and (low >= [-half[0], 0, -half[2]] - np.full(3, 1e-9)).all()
    wheels = vehicle(body, size, np.random.default_rng(0)).triangles[..., 1].min()
    assert abs(wheels) < 1e-9, "it stands on its wheels"


@pytest.mark.parametrize("kind", ["Pedestrian", "Cyclist"])
def test_people_move_inside_their_boxes(kind: str) -> None:
    size = np.array([0.85, 0.62, 1.75] if kind == "Pedestrian" else [1.77, 0.62, 1.74])
    shapes = []
    for seed in range(6):
        looks = random_looks(np.random.default_rng(seed))
        for phase in np.linspace(0, 6, 7):
            mesh = (
                pedestrian(size, looks, phase, 1.0) if kind == "Pedestrian" else cyclist(size, looks, phase)
            )
            low, high = extent(mesh)
            assert (high <= [size[0] / 2 + 0.02, size[2] + 0.02, size[1] / 2 + 0.02]).all()
            assert (low >= [-size[0] / 2 - 0.02, -0.01, -size[1] / 2 - 0.02]).all()
            assert high[1] > 0.93 * size[2] and low[1] < 0.05
            shapes.append(mesh.triangles)
    assert np.abs(shapes[0] - shapes[2]).max() > 0.05, "limbs move"


@pytest.mark.parametrize(
    "mesh",
    [
        box((2, 1, 3), Material.PLAIN, (1, 1, 1)),
        limb((0, 0, 0), (1, 2, 0), (0.3, 0.2), Material.PLAIN, (1, 1, 1)),
        ball((0, 0, 0), (1, 2, 1), Material.PLAIN, (1, 1, 1)),
    ],
)
def test_solids_are_closed(mesh: Mesh) -> None:
    """Every edge belongs to two triangles."""
    edges: dict[tuple[object, ...], int] = {}
    for triangle in np.round(mesh.triangles, 6) + 0.0:
        corners = [tuple(p) for p in triangle]
        if len(set(corners)) < 3:
            continue  # at the pole of a ball
        for k in range(3):
            edge = tuple(sorted((corners[k], corners[(k + 1) % 3])))
            edges[edge] = edges.get(edge, 0) + 1
    assert set(edges.values()) == {2}
