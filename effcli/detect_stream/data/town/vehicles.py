"""Meshes of fourteen kinds of cars, vans and trucks, with wheels, glass, lights and plates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from effcli.detect_stream.data.town.mesh import Material, Mesh, box, joined, limb, loft, patch, quads

_RUBBER, _RIM, _SHADE = (0.012, 0.012, 0.013), (0.32, 0.32, 0.34), (0.006, 0.006, 0.007)
_GLASS = (0.02, 0.025, 0.03)


@dataclass(frozen=True)
class Body:
    """A kind of vehicle.

    Attributes:
        kind: KITTI's name of its class.
        size: mean length, width and height, metres.
        nose: height of the bonnet in front and at the windscreen, of the whole height.
        tail: height behind, and at the rear window.
        cabin: where along the length, 0 behind and 1 in front, the cabin's lower rear, upper rear, upper front and
            lower front edges are; none for trucks.
        share: how often it is seen.
        wheel_m: radius of the wheels.
    """

    kind: str
    size: tuple[float, float, float]
    nose: tuple[float, float]
    tail: tuple[float, float]
    cabin: tuple[float, float, float, float] | None
    share: float
    wheel_m: float = 0.31


BODIES = (
    Body("Car", (3.6, 1.62, 1.48), (0.46, 0.60), (0.60, 0.62), (0.02, 0.07, 0.58, 0.80), 1.2),  # small
    Body("Car", (4.1, 1.75, 1.47), (0.45, 0.59), (0.58, 0.62), (0.03, 0.12, 0.53, 0.75), 2.5),  # hatchback
    Body("Car", (4.6, 1.78, 1.45), (0.45, 0.59), (0.61, 0.63), (0.15, 0.30, 0.54, 0.74), 2.0),  # saloon
    Body("Car", (4.7, 1.80, 1.48), (0.44, 0.58), (0.60, 0.62), (0.02, 0.08, 0.55, 0.74), 1.5),  # estate
    Body("Car", (4.5, 1.84, 1.68), (0.50, 0.60), (0.58, 0.61), (0.03, 0.10, 0.56, 0.75), 1.6),  # SUV
    Body("Car", (4.2, 1.76, 1.30), (0.46, 0.62), (0.62, 0.66), (0.06, 0.33, 0.50, 0.72), 0.4),  # coupe
    Body(
        "Car", (4.4, 1.80, 1.62), (0.46, 0.58), (0.54, 0.57), (0.01, 0.06, 0.60, 0.84), 0.9
    ),  # people carrier
    Body("Car", (5.2, 1.88, 1.78), (0.52, 0.60), (0.55, 0.56), (0.36, 0.40, 0.60, 0.75), 0.4, 0.37),  # pickup
    Body("Van", (4.4, 1.80, 1.85), (0.44, 0.54), (0.55, 0.56), (0.01, 0.03, 0.62, 0.82), 0.5),  # small van
    Body("Van", (5.3, 1.98, 2.0), (0.42, 0.52), (0.52, 0.53), (0.005, 0.02, 0.72, 0.88), 0.5, 0.34),
    Body("Van", (5.9, 2.05, 2.6), (0.36, 0.44), (0.44, 0.45), (0.005, 0.02, 0.76, 0.88), 0.4, 0.35),
    Body("Truck", (7.5, 2.4, 3.2), (0, 0), (0, 0), None, 0.25, 0.45),  # box
    Body("Truck", (11.0, 2.5, 3.7), (0, 0), (0, 0), None, 0.15, 0.5),
    Body("Truck", (11.5, 2.55, 3.05), (0.4, 0.42), (0.4, 0.42), (0.01, 0.01, 0.98, 0.99), 0.15, 0.48),  # bus
)

_PAINTS = (
    (0.62, 0.62, 0.62), (0.80, 0.80, 0.80), (0.30, 0.31, 0.33), (0.11, 0.115, 0.12), (0.012, 0.012, 0.014),
    (0.025, 0.027, 0.03), (0.32, 0.02, 0.02), (0.02, 0.05, 0.20), (0.03, 0.08, 0.32), (0.02, 0.09, 0.05),
    (0.45, 0.38, 0.24), (0.50, 0.30, 0.02), (0.10, 0.06, 0.035), (0.35, 0.45, 0.50),
)  # fmt: skip


def random_paint(rng: np.random.Generator) -> np.ndarray:
    """A colour of cars: mostly white, grey and black."""
    plain = rng.random() < 0.68
    colour = np.array(_PAINTS[rng.integers(6)] if plain else _PAINTS[rng.integers(6, len(_PAINTS))])
    return np.asarray(colour * rng.uniform(0.8, 1.25))


def vehicle(body: Body, size: np.ndarray, rng: np.random.Generator) -> Mesh:
    """A vehicle of length, width and height, that just fills its box."""
    length, width, height = (float(x) for x in size)
    paint = random_paint(rng)
    if body.cabin is None:
        parts = _truck(length, width, height, paint, rng)
        axles = [-0.36, -0.24, 0.36] if length > 9 else [-0.3, 0.34]
    else:
        parts = [*_shell(body, length, width, height, paint), *_lights(length, width, height, rng)]
        axles = [-0.31, 0.33]
    parts += _wheels(length, width, min(body.wheel_m, 0.24 * height), axles)
    return joined(parts)


def _shell(body: Body, length: float, width: float, height: float, paint: np.ndarray) -> list[Mesh]:
    """The lower body and the cabin."""
    assert body.cabin is not None
    along = np.array([0.004, 0.03, body.cabin[0] + 0.05, 0.5, body.cabin[3], 0.94, 0.985, 0.996])
    top = np.array([body.tail[0] * 0.94, body.tail[0], body.tail[1], body.tail[1], body.nose[1],
                    body.nose[0] * 1.06, body.nose[0] * 0.92, body.nose[0] * 0.75])  # fmt: skip
    order = np.argsort(along, kind="stable")
    along, top = along[order], top[order]
    half = 0.48 * width * np.interp(along, [0, 0.06, 0.85, 1.0], [0.9, 1.0, 1.0, 0.86])
    a = (along - 0.5) * length
    low, belly = 0.13 * height, 0.36 * height
    rings = [
        [(x, low, -0.86 * h), (x, belly, -h), (x, t * height - 0.02, -0.95 * h), (x, t * height, -0.78 * h),
         (x, t * height, 0.78 * h), (x, t * height - 0.02, 0.95 * h), (x, belly, h), (x, low, 0.86 * h)]
        for x, h, t in zip(a, half, top, strict=True)
    ]  # fmt: skip
    lower = loft(np.array(rings), Material.PAINT, paint)
    skirt = box((0.9 * length, 0.1 * height, 0.8 * width), Material.DARK, _SHADE, (0, 0.07 * height, 0))
    return [lower, skirt, *_cabin(body, length, width, height, paint)]


def _cabin(body: Body, length: float, width: float, height: float, paint: np.ndarray) -> list[Mesh]:
    assert body.cabin is not None
    a = [(share - 0.5) * length for share in body.cabin]
    base, roof = 0.455 * width, 0.40 * width if body.kind == "Car" else 0.45 * width
    back, front = (body.tail[1] - 0.03) * height, (body.nose[1] - 0.03) * height
    tip = 0.985 * height
    corner = {(end, side, up): (a[[0, 3][end]], (back, front)[end], side * base) if not up else
              (a[[1, 2][end]], tip, side * roof) for end in (0, 1) for side in (-1, 1) for up in (0, 1)}  # fmt: skip
    panes = [0, 0.06, 0.48, 0.52, 0.94, 1] if body.kind != "Van" else [0, 0.66, 0.95, 1]
    if length > 9:
        panes = [0, *np.sort(np.concatenate([np.linspace(0.03, 0.85, 7), np.linspace(0.12, 0.97, 7)])), 1]
    parts = []
    for side in (-1, 1):
        skin = [corner[0, side, 0], corner[1, side, 0], corner[1, side, 1], corner[0, side, 1]]
        parts.append(
            patch(np.array(skin), panes, [0, 0.1, 0.86, 1], Material.GLASS, Material.PAINT, (_GLASS, paint))
        )
    for end in (0, 1):
        skin = [corner[end, -1, 0], corner[end, 1, 0], corner[end, 1, 1], corner[end, -1, 1]]
        rear_closed = body.kind == "Van" and end == 0
        inner = Material.PAINT if rear_closed else Material.GLASS
        colours = (paint if rear_closed else np.array(_GLASS), paint)
        parts.append(
            patch(np.array(skin), [0, 0.05, 0.95, 1], [0, 0.08, 0.9, 1], inner, Material.PAINT, colours)
        )
    x0, x1 = a[1], a[2]
    edge = (
        (x0, tip, 1),
        (0.8 * x0 + 0.2 * x1, height, 0.96),
        (0.3 * x0 + 0.7 * x1, height, 0.96),
        (x1, tip, 1),
    )
    rings = [[(x, y, -roof * k), (x, y, roof * k)] for x, y, k in edge]
    top = np.array(rings)
    parts.append(_strip(top, paint))
    return parts


def _strip(edges: np.ndarray, paint: np.ndarray) -> Mesh:
    return quads(
        np.stack([edges[:-1, 0], edges[:-1, 1], edges[1:, 1], edges[1:, 0]], 1), Material.PAINT, paint
    )


def _lights(length: float, width: float, height: float, rng: np.random.Generator) -> list[Mesh]:
    """Head and tail lights, plates and bumpers, which reach to the ends of the box."""
    parts = []
    up = 0.40 * height
    for side in (-1, 1):
        c = side * 0.34 * width
        parts.append(box((0.03 * length, 0.07 * height, 0.13 * width), Material.LAMP, (0.8, 0.8, 0.75),
                         (0.474 * length, up, c * 0.94)))  # fmt: skip
        parts.append(box((0.02 * length, 0.10 * height, 0.10 * width), Material.LAMP, (0.45, 0.01, 0.01),
                         (-0.49 * length, up + 0.02, side * 0.36 * width)))  # fmt: skip
        c = side * 0.49 * width
        parts.append(
            box(
                (0.03 * length, 0.07 * height, 0.02 * width),
                Material.DARK,
                (0.02, 0.02, 0.02),
                (0.18 * length, 0.6 * height, c),
            )
        )
    for end in (-1, 1):
        at = end * 0.495 * length
        bumper = (0.02, 0.02, 0.022) if rng.random() < 0.5 else (0.1, 0.1, 0.1)
        parts.append(
            box((0.01 * length, 0.09 * height, 0.7 * width), Material.DARK, bumper, (at, 0.18 * height, 0))
        )
        parts.append(
            box(
                (0.002, 0.11, 0.5), Material.SIGN, (0.7, 0.7, 0.65), (end * 0.4997 * length, 0.19 * height, 0)
            )
        )
    return parts


def _wheels(length: float, width: float, radius: float, axles: Sequence[float]) -> list[Mesh]:
    """Tyres, rims, and the dark of the arches behind them."""
    parts = []
    for share in axles:
        a = share * length
        for side in (-1, 1):
            c = side * width / 2
            arch, hub = (1.15 * radius,) * 2, (0.62 * radius, 0.58 * radius)
            up = 1.17 * radius
            parts += [
                limb((a, up, c * 0.80), (a, up, c * 0.972), arch, Material.DARK, _SHADE, 12),
                limb((a, radius, c * 0.70), (a, radius, c * 0.99), (radius,) * 2, Material.DARK, _RUBBER, 12),
                limb((a, radius, c * 0.72), (a, radius, c), hub, Material.PLAIN, _RIM, 9),
            ]
    return parts


def _truck(
    length: float, width: float, height: float, paint: np.ndarray, rng: np.random.Generator
) -> list[Mesh]:
    """A cab and a box behind it."""
    cab = min(2.2, 0.26 * length)
    front = length / 2
    low, tip = 0.16 * height, 0.82 * height
    load = random_paint(rng) if rng.random() < 0.5 else np.array([0.7, 0.7, 0.7])
    hold = length - cab - 0.15
    parts = [
        box((cab, tip - low, 0.94 * width), Material.PAINT, paint, (front - cab / 2 - 0.03, low, 0)),
        box((hold, 0.84 * height, width), Material.PLAIN, load, (-front + hold / 2 + 0.03, 0.16 * height, 0)),
        box((0.96 * length, 0.12 * height, 0.5 * width), Material.DARK, _SHADE, (0, 0.1 * height, 0)),
    ]
    y0, pane = 0.52 * height, 0.24 * height
    parts.append(box((0.04, pane, 0.84 * width), Material.GLASS, _GLASS, (front - 0.02, y0, 0)))
    white, red = (0.8, 0.8, 0.7), (0.4, 0.01, 0.01)
    for side in (-1, 1):
        c = side * width
        parts += [
            box((0.5 * cab, pane, 0.02), Material.GLASS, _GLASS, (front - 0.42 * cab, y0, 0.475 * c)),
            box((0.04, 0.12, 0.3), Material.LAMP, white, (front - 0.02, 0.22 * height, 0.38 * c)),
            box((0.04, 0.12, 0.25), Material.LAMP, red, (-front + 0.02, 0.2 * height, 0.4 * c)),
        ]
    return parts


def painted_box(size: np.ndarray, material: Material, colour: np.ndarray) -> Mesh:
    """What stands for a vehicle or a person where shapes are left out."""
    length, width, height = (float(x) for x in size)
    return box((length, height, width), material, colour)
