"""What stands beside the road: meshes of houses, walls, hedges, fences, trees, poles, signs and bins."""

from __future__ import annotations

import numpy as np

from effcli.detect_stream.data.town.mesh import (
    Material,
    Mesh,
    ball,
    box,
    joined,
    limb,
    mesh_of,
    patch,
    quads,
)

_WALLS = (
    (0.55, 0.52, 0.45),
    (0.70, 0.68, 0.62),
    (0.45, 0.33, 0.20),
    (0.30, 0.12, 0.08),
    (0.35, 0.33, 0.30),
    (0.62, 0.50, 0.30),
)
_ROOFS = ((0.22, 0.06, 0.035), (0.06, 0.055, 0.055), (0.12, 0.05, 0.03))
_LEAVES = (
    (0.05, 0.09, 0.015),
    (0.035, 0.07, 0.02),
    (0.08, 0.10, 0.02),
    (0.14, 0.09, 0.02),
    (0.025, 0.05, 0.015),
)


def house(length: float, depth: float, height: float, rng: np.random.Generator) -> Mesh:
    """A house whose front, at -c, has windows; with a gabled or a flat roof."""
    wall = np.array(_WALLS[rng.integers(len(_WALLS))]) * rng.uniform(0.75, 1.25)
    parts = [box((length, height, depth), Material.FACADE if rng.random() < 0.8 else Material.BRICK, wall)]
    roof = np.array(_ROOFS[rng.integers(len(_ROOFS))]) * rng.uniform(0.7, 1.3)
    if rng.random() < 0.75:
        over, rise = 0.35, rng.uniform(0.25, 0.5) * depth
        a, c = length / 2 + over, depth / 2 + over
        low = [(-a, height, -c), (a, height, -c), (a, height, c), (-a, height, c)]
        ridge = [(-a, height + rise, 0), (a, height + rise, 0)]
        parts.append(
            quads(
                np.array([[low[0], low[1], ridge[1], ridge[0]], [low[3], low[2], ridge[1], ridge[0]]]),
                Material.TILES,
                roof,
            )
        )
        gables = np.array([[low[0], low[3], ridge[0]], [low[1], low[2], ridge[1]]])
        parts.append(mesh_of(gables, Material.PLAIN, wall))
    c = -depth / 2 - 0.05
    for _ in range(rng.integers(0, 3)):  # doors and shop fronts
        wide = rng.choice([1.0, 1.2, 2.6])
        at = rng.uniform(-length / 2 + 1.5, length / 2 - 1.5)
        dark = rng.uniform(0.01, 0.25) * rng.uniform(0.5, 1.3, 3)
        parts.append(box((wide, 2.1, 0.1), Material.PLAIN, dark, (at, 0, c)))
    return joined(parts)


def tree(height: float, rng: np.random.Generator) -> Mesh:
    """A trunk and a crown of leafy blobs."""
    bark = np.array([0.09, 0.065, 0.045]) * rng.uniform(0.6, 1.4)
    leaf = np.array(_LEAVES[rng.integers(len(_LEAVES))]) * rng.uniform(0.7, 1.3)
    trunk = height * rng.uniform(0.3, 0.5)
    radius = rng.uniform(0.09, 0.28)
    parts = [limb((0, 0, 0), (0, trunk * 1.3, 0), (radius * 1.2, radius * 0.7), Material.PLAIN, bark)]
    spread = height * rng.uniform(0.16, 0.3)
    slim = rng.random() < 0.2
    shells = []
    for _ in range(int(rng.integers(3, 7))):
        at = rng.normal(0, 0.45 * spread, 3) * (0.4 if slim else 1.0)
        at[1] = rng.uniform(trunk + 0.3 * spread, height - 0.4 * spread)
        size = spread * rng.uniform(0.5, 0.9, 3)
        colour = leaf * rng.uniform(0.6, 1.4)
        parts.append(
            ball(at, size * 0.78, Material.THICKET, colour, 5)
        )  # what stands before the rest is drawn first
        shells.append(ball(at, size, Material.FOLIAGE, colour, 7))
    if rng.random() < 0.12:  # in winter
        return joined(_bare(height, trunk, radius, bark, rng))
    return joined([*parts, *shells])


def _bare(
    height: float, trunk: float, radius: float, bark: np.ndarray, rng: np.random.Generator
) -> list[Mesh]:
    parts = [limb((0, 0, 0), (0, trunk * 1.4, 0), (radius * 1.2, radius * 0.7), Material.PLAIN, bark)]
    for _ in range(14):
        start = np.array([0, rng.uniform(0.7 * trunk, 1.4 * trunk), 0])
        end = start + np.array([rng.normal(0, 0.13), rng.uniform(0.15, 0.4), rng.normal(0, 0.13)]) * height
        parts.append(limb(start, end, (radius * 0.45, 0.02), Material.PLAIN, bark, 4))
    return parts


def hedge(length: float, rng: np.random.Generator) -> Mesh:
    """A row of overlapping leafy blobs with a dark inside."""
    height, width = rng.uniform(0.7, 2.2), rng.uniform(0.5, 1.1)
    leaf = np.array(_LEAVES[rng.integers(len(_LEAVES))]) * rng.uniform(0.7, 1.2)
    parts = [box((length, 0.92 * height, 0.75 * width), Material.THICKET, leaf)]
    if rng.random() < 0.5:
        parts.append(box((length, height, width), Material.FOLIAGE, leaf))
        return joined(parts)
    for a in np.arange(-length / 2, length / 2, 0.8):
        size = (0.8, height * rng.uniform(0.48, 0.6), width * rng.uniform(0.5, 0.7))
        parts.append(ball((a, height * 0.48, 0), size, Material.FOLIAGE, leaf * rng.uniform(0.8, 1.2), 6))
    return joined(parts)


def wall(length: float, rng: np.random.Generator) -> Mesh:
    """Of bricks or concrete, with a coping."""
    height = rng.uniform(0.5, 2.2)
    colour = np.array(_WALLS[rng.integers(len(_WALLS))]) * rng.uniform(0.5, 1.1)
    material = Material.BRICK if rng.random() < 0.6 else Material.PLAIN
    return joined([
        box((length, height, 0.25), material, colour),
        box((length, 0.08, 0.33), Material.PLAIN, colour * 0.8, (0, height, 0)),
    ])  # fmt: skip


def fence(length: float, rng: np.random.Generator) -> Mesh:
    """Palings or bars that one can look through, between posts."""
    height = rng.uniform(0.8, 1.9)
    colour = rng.choice([0.02, 0.1, 0.3, 0.6]) * rng.uniform(0.6, 1.2, 3)
    a = length / 2
    pane = quads(
        np.array([[(-a, 0.05, 0), (a, 0.05, 0), (a, height, 0), (-a, height, 0)]]), Material.FENCE, colour
    )
    posts = [
        box((0.09, height + 0.06, 0.09), Material.PLAIN, colour, (x, 0, 0))
        for x in np.arange(-a, a + 0.01, 2.4)
    ]
    return joined([pane, *posts])


def pole(rng: np.random.Generator) -> Mesh:
    """A lamp post, a traffic light, a bollard or a plain pole."""
    kind = rng.integers(4)
    grey = rng.choice([0.05, 0.15, 0.35]) * rng.uniform(0.8, 1.2, 3)
    if kind == 3:
        return limb((0, 0, 0), (0, rng.uniform(0.7, 1.1), 0), (0.07, 0.07), Material.SIGN, grey)
    height = rng.uniform(3.0, 8.0)
    parts = [limb((0, 0, 0), (0, height, 0), (rng.uniform(0.05, 0.14), 0.045), Material.PLAIN, grey)]
    if kind == 0:
        parts.append(limb((0, height, 0), (0, height + 0.2, -1.6), (0.045, 0.04), Material.PLAIN, grey, 5))
        parts.append(box((0.25, 0.12, 0.6), Material.LAMP, (0.5, 0.5, 0.5), (0, height + 0.12, -1.8)))
    elif kind == 1:
        parts.append(box((0.25, 0.9, 0.3), Material.DARK, (0.012, 0.015, 0.012), (-0.12, 2.3, 0)))
        lit = rng.integers(3)
        for i, lamp in enumerate(((0.01, 0.5, 0.1), (0.6, 0.3, 0.01), (0.7, 0.02, 0.02))):
            colour = np.array(lamp) * (1.5 if i == lit else 0.15)
            parts.append(ball((-0.25, 2.46 + 0.29 * i, 0), (0.04, 0.1, 0.1), Material.LAMP, colour, 6))
    return joined(parts)


def sign(rng: np.random.Generator) -> Mesh:
    """A plate on a pole that is seen from -a."""
    high, radius = rng.uniform(1.7, 2.6), rng.uniform(0.25, 0.42)
    grey = (0.3, 0.3, 0.31)
    sides = int(rng.choice([3, 4, 8, 14]))
    angle = 2 * np.pi * np.arange(sides) / sides + np.pi / 2 + (np.pi / 4 if sides == 4 else 0)
    edge = np.stack([0 * angle, radius * np.sin(angle), radius * np.cos(angle)], 1)
    colours = ((0.55, 0.02, 0.02), (0.75, 0.75, 0.75), (0.02, 0.08, 0.45), (0.6, 0.4, 0.02))
    outer, inner = (np.array(colours[rng.integers(4)]) for _ in range(2))
    parts = [limb((0.05, 0, 0), (0.05, high + radius, 0), (0.035, 0.035), Material.PLAIN, grey)]
    for at, scale, colour in ((0.0, 1.0, outer), (-0.012, 0.76, inner)):
        ring = edge * scale + np.array([at, high, 0])
        middle = np.broadcast_to(np.array([at, high, 0]), ring.shape)
        parts.append(mesh_of(np.stack([middle, ring, np.roll(ring, -1, 0)], 1), Material.SIGN, colour))
    return joined(parts)


def bins(rng: np.random.Generator) -> Mesh:
    """One to four rubbish bins in a row."""
    parts = []
    for i in range(int(rng.integers(1, 5))):
        colour = rng.choice([0.015, 0.05, 0.25]) * rng.uniform(0.3, 1.6, 3)
        height = rng.uniform(0.9, 1.3)
        a = i * 0.7
        parts += [
            limb((a, 0.06, 0), (a, height, 0), (0.3, 0.4), Material.PLAIN, colour, 4),
            box((0.62, 0.08, 0.66), Material.PLAIN, colour * 0.7, (a, height, 0)),
        ]
    return joined(parts)


def shelter(rng: np.random.Generator) -> Mesh:
    """A bus stop: glass, a roof, an advertisement."""
    grey = np.array([0.1, 0.1, 0.11])
    back = np.array([(-1.8, 0.1, 0.7), (1.8, 0.1, 0.7), (1.8, 2.3, 0.7), (-1.8, 2.3, 0.7)])
    parts = [
        patch(back, [0, 0.02, 0.32, 0.34, 0.65, 0.67, 0.98, 1], [0, 0.05, 0.95, 1], Material.GLASS, Material.PLAIN,
              ((0.05, 0.06, 0.06), grey)),
        box((3.9, 0.12, 1.6), Material.PLAIN, grey, (0, 2.35, 0)),
        box((0.15, 1.9, 1.1), Material.SIGN, rng.uniform(0.05, 0.7, 3), (1.8, 0.2, 0)),
    ]  # fmt: skip
    return joined(parts)


def skyline(rng: np.random.Generator) -> Mesh:
    """Woods and hills around, 150 to 190 m away."""
    angle = np.linspace(0, 2 * np.pi, 49)[:-1]
    radius = rng.uniform(150, 190)
    high = (
        rng.uniform(2, 16)
        * (0.4 + 0.6 * np.abs(np.sin(3 * angle + rng.uniform(0, 6))))
        * rng.uniform(0.5, 1.2, 48)
    )
    low = np.stack([radius * np.cos(angle), np.full(48, -12.0), radius * np.sin(angle)], 1)
    top = np.stack([radius * np.cos(angle), high, radius * np.sin(angle)], 1)
    walls = np.stack([low, np.roll(low, -1, 0), np.roll(top, -1, 0), top], 1)
    return quads(walls, Material.HILL, np.array([0.06, 0.075, 0.05]) * rng.uniform(0.5, 2.0))
