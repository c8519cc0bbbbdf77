"""Jointed people: they walk, stand and cycle."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from effcli.detect_stream.data.town.mesh import Material, Mesh, ball, box, joined, limb

_SKINS = ((0.55, 0.35, 0.25), (0.45, 0.27, 0.18), (0.20, 0.11, 0.07), (0.08, 0.045, 0.03))
_HAIR = ((0.012, 0.01, 0.01), (0.06, 0.03, 0.015), (0.3, 0.2, 0.08), (0.25, 0.25, 0.25))


@dataclass(frozen=True)
class Looks:
    """What one person wears.

    Attributes:
        skin, hair, top, trousers, shoes: linear colours.
        coat: whether the top reaches over the thighs.
        bag: whether there is a rucksack.
        stoutness: of body and limbs, about 1.
    """

    skin: np.ndarray
    hair: np.ndarray
    top: np.ndarray
    trousers: np.ndarray
    shoes: np.ndarray
    coat: bool
    bag: bool
    stoutness: float


def random_looks(rng: np.random.Generator) -> Looks:
    """Clothes in the colours of the street, some of them bright."""

    def cloth(bright: float) -> np.ndarray:
        value = rng.choice([0.015, 0.04, 0.12, 0.35]) * rng.uniform(0.7, 1.4)
        tint = rng.uniform(0.25, 1.6, 3) if rng.random() < bright else rng.uniform(0.85, 1.15, 3)
        return np.asarray(np.clip(value * tint, 0.005, 0.8))

    skin, hair = _SKINS[rng.integers(len(_SKINS))], _HAIR[rng.integers(len(_HAIR))]
    return Looks(
        np.array(skin), np.array(hair), cloth(0.6), cloth(0.25), cloth(0.1),
        bool(rng.random() < 0.35), bool(rng.random() < 0.3), rng.uniform(0.9, 1.2),
    )  # fmt: skip


def pedestrian(size: np.ndarray, looks: Looks, phase: float, stride: float) -> Mesh:
    """A person of length, width and height at a moment of a step.

    Args:
        size: of the box, metres.
        looks: what is worn.
        phase: of the walk, radians.
        stride: 0 for standing, 1 for the longest step that stays in the box.
    """
    length, width, height = (float(x) for x in size)
    k = looks.stoutness * min(1.0, width / 0.6)
    reach = max(0.05, length / 2 - 0.09 * height)
    swing = np.arcsin(min(0.95, stride * reach / (0.47 * height)))
    parts = []
    hip, shoulder = 0.50 * height, 0.80 * height
    for side in (-1, 1):
        angle = side * swing * np.sin(phase)
        bend = 0.8 * stride * max(0.0, -side * np.cos(phase)) * min(1.0, reach / 0.3)
        parts += _leg(height, side * 0.052 * height * k, hip, angle, min(bend, 0.7), k, looks, reach)
        parts += _arm(
            height,
            side * min(0.125 * height * k, width / 2 - 0.035 * height),
            shoulder,
            -0.7 * angle,
            k,
            looks,
            reach,
        )
    return joined([*parts, *_trunk(height, width, k, looks)])


def _trunk(height: float, width: float, k: float, looks: Looks) -> list[Mesh]:
    """From the hips to the head."""
    half = min(0.105 * height * k, width / 2 - 0.04 * height)
    lower = looks.top if looks.coat else looks.trousers
    parts = [
        limb((0, 0.47 * height, 0), (0, 0.62 * height, 0), (0.085 * height * k, 0.07 * height * k), Material.CLOTH,
             lower, 8),
        ball((0, 0.69 * height, 0), (0.07 * height * k, 0.15 * height, half), Material.CLOTH, looks.top, 8),
        limb((0, 0.80 * height, 0), (0, 0.87 * height, 0), (0.035 * height, 0.03 * height), Material.PLAIN, looks.skin),
        ball((0.01 * height, 0.925 * height, 0), (0.055 * height, 0.068 * height, 0.045 * height), Material.PLAIN,
             looks.skin, 8),
        ball((-0.008 * height, 0.945 * height, 0), (0.052 * height, 0.054 * height, 0.047 * height), Material.DARK,
             looks.hair, 8),
    ]  # fmt: skip
    if looks.coat:
        radii = (0.11 * height * k, 0.08 * height * k)
        parts.append(limb((0, 0.34 * height, 0), (0, 0.6 * height, 0), radii, Material.CLOTH, looks.top, 8))
    if looks.bag:
        size = (0.09 * height, 0.22 * height, 0.16 * height)
        parts.append(box(size, Material.CLOTH, looks.shoes, (-0.10 * height, 0.58 * height, 0)))
    return parts


def _leg(
    height: float, c: float, hip: float, angle: float, bend: float, k: float, looks: Looks, reach: float
) -> list[Mesh]:
    thigh, shin = 0.24 * height, 0.235 * height
    knee = np.array([thigh * np.sin(angle), hip - thigh * np.cos(angle), c])
    low = angle - bend
    foot = knee + np.array([shin * np.sin(low), -shin * np.cos(low), 0])
    foot[0] = np.clip(foot[0], -reach, reach)
    foot[1] = max(foot[1], 0.025 * height)
    return [
        limb((0, hip, c), knee, (0.058 * height * k, 0.04 * height * k), Material.CLOTH, looks.trousers),
        limb(knee, foot, (0.042 * height * k, 0.026 * height * k), Material.CLOTH, looks.trousers),
        box((0.14 * height, 0.045 * height, 0.05 * height), Material.DARK, looks.shoes,
            (foot[0] + 0.02 * height, max(0.0, foot[1] - 0.025 * height), c)),
    ]  # fmt: skip


def _arm(
    height: float, c: float, shoulder: float, angle: float, k: float, looks: Looks, reach: float
) -> list[Mesh]:
    upper = 0.18 * height
    elbow = np.array([upper * np.sin(angle), shoulder - upper * np.cos(angle), c])
    hand = elbow + 0.17 * height * np.array([np.sin(angle + 0.35), -np.cos(angle + 0.35), 0])
    hand[0] = np.clip(hand[0], -reach, reach)
    return [
        limb((0, shoulder, c), elbow, (0.035 * height * k, 0.027 * height * k), Material.CLOTH, looks.top),
        limb(elbow, hand, (0.027 * height * k, 0.02 * height * k), Material.CLOTH, looks.top),
        ball(hand, (0.022 * height, 0.03 * height, 0.018 * height), Material.PLAIN, looks.skin, 5),
    ]


def cyclist(size: np.ndarray, looks: Looks, phase: float) -> Mesh:
    """A person on a bicycle, of length, width and height, at a moment of a turn of the pedals."""
    length, width, height = (float(x) for x in size)
    radius = min(0.35, length * 0.2)
    front, back = length / 2 - radius, -length / 2 + radius
    metal = np.maximum(looks.shoes, 0.03) * np.array([2.0, 1.2, 1.0])
    saddle, bar = np.array([-0.12 * length, 0.5 * height, 0]), np.array([0.24 * length, 0.58 * height, 0])
    crank = np.array([-0.02 * length, 0.17 * height, 0])
    grip = min(0.27, width / 2 - 0.03)
    parts = _bicycle(front, back, radius, saddle, bar, crank, grip, metal)
    hip, shoulder = saddle + np.array([0.0, 0.06, 0]), np.array([0.10 * length, 0.80 * height, 0])
    k = looks.stoutness * min(1.0, width / 0.55)
    for side in (-1, 1):
        turn = phase + np.pi * (side > 0)
        pedal = crank + 0.17 * np.array([np.cos(turn), np.sin(turn), 0]) + np.array([0, 0, side * 0.09])
        start = hip + np.array([0, 0, side * 0.08])
        knee = (start + pedal) / 2 + np.array([0.13, 0.09, 0])
        parts += [
            limb(start, knee, (0.095 * k, 0.07 * k), Material.CLOTH, looks.trousers),
            limb(knee, pedal, (0.065 * k, 0.045 * k), Material.CLOTH, looks.trousers),
            box((0.24, 0.07, 0.09), Material.DARK, looks.shoes, pedal + np.array([0.04, -0.04, 0])),
            limb(shoulder + np.array([0, -0.02, side * 0.16 * k]), bar + np.array([0, 0.02, side * (grip - 0.03)]),
                 (0.05 * k, 0.035 * k),                 Material.CLOTH, looks.top),
        ]  # fmt: skip
    head = shoulder + np.array([0.07, 0.12 * height, 0])
    parts += [
        limb(hip, shoulder, (0.15 * k, 0.17 * k), Material.CLOTH, looks.top, 8),
        ball(head, (0.095, 0.072 * height, 0.08), Material.PLAIN, looks.skin, 8),
        ball(
            head + np.array([-0.01, 0.028 * height, 0]),
            (0.115, 0.052 * height, 0.095),
            Material.PLAIN,
            looks.hair * 2,
            8,
        ),
    ]
    return joined(parts)


def _bicycle(
    front: float, back: float, radius: float, saddle: np.ndarray, bar: np.ndarray, crank: np.ndarray, grip: float,
    metal: np.ndarray,
) -> list[Mesh]:  # fmt: skip
    parts = [*_wheel(front, radius), *_wheel(back, radius)]
    head = bar * np.array([0.9, 0.9, 1])
    ends = (((front, radius, 0), bar), (crank, head), (crank, saddle), ((back, radius, 0), saddle),
            ((back, radius, 0), crank), (saddle, head))  # fmt: skip
    for p, q in ends:
        parts.append(limb(p, q, (0.018, 0.018), Material.PLAIN, metal, 4))
    across = np.array([0, 0, grip])
    parts.append(limb(bar - across, bar + across, (0.018, 0.018), Material.DARK, (0.02, 0.02, 0.02), 4))
    return parts


def _wheel(a: float, radius: float) -> list[Mesh]:
    """A tyre, a hub, and some spokes."""
    angle = 2 * np.pi * np.arange(13) / 12
    places = np.stack(
        [a + (radius - 0.022) * np.cos(angle), radius + (radius - 0.022) * np.sin(angle), 0 * angle], 1
    )
    rubber = (0.012, 0.012, 0.012)
    parts = [limb(p, q, (0.022, 0.022), Material.DARK, rubber, 4) for p, q in pairwise(places)]
    for i in range(0, 6, 2):
        parts.append(limb(places[i], places[i + 6], (0.006, 0.006), Material.PLAIN, (0.3, 0.3, 0.3), 3))
    return parts
