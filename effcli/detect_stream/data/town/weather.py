"""The light of a drive: where the sun stands, how cloudy it is, how far one sees; and what the ground is made of."""

from __future__ import annotations

import numpy as np

from effcli.detect_stream.data.town.road import Road


def random_light(varies: bool, rng: np.random.Generator) -> np.ndarray:
    """Numbers for the shading kernel.

    Direction of the sun, its light, that of the open sky, of the sky at the horizon and above (red, green, blue each),
    metres that fog lets through, clouds 0..1, whether things cast shadows, light of clouds; ``[19]``.
    """
    turn, high = rng.uniform(-np.pi, np.pi), np.deg2rad(rng.uniform(12, 65))
    sun = np.array([np.cos(high) * np.sin(turn), -np.sin(high), np.cos(high) * np.cos(turn)])
    clear = rng.random() < 0.65 if varies else False
    low = 1 - np.sin(high)
    warm = np.array([1.0, 1 - 0.18 * low, 1 - 0.4 * low])
    if clear:
        direct = rng.uniform(3.0, 9.0) * warm
        cover = rng.uniform(0.0, 0.45)
        sky = np.array([0.55, 0.75, 1.15]) * rng.uniform(0.5, 1.0)
        horizon, zenith = np.array([1.7, 1.8, 1.9]), np.array([0.35, 0.65, 1.3])
        white = rng.uniform(2.0, 4.5)
    else:
        direct = rng.uniform(0.0, 0.6) * warm
        cover = rng.uniform(0.6, 1.0)
        sky = np.array([0.95, 1.0, 1.08]) * rng.uniform(0.9, 1.4)
        horizon, zenith = np.full(3, 1.6), np.array([0.9, 1.0, 1.15])
        white = rng.uniform(1.3, 2.6)
    fog = float(np.exp(rng.uniform(np.log(90), np.log(1500)))) if varies else 400.0
    brightness = rng.uniform(0.7, 1.3)
    return np.concatenate([sun, direct, sky, horizon * brightness, zenith * brightness,
                           [fog, cover, float(clear), white * brightness]])  # fmt: skip


def random_surface(road: Road, textures: bool, rng: np.random.Generator) -> np.ndarray:
    """Numbers for the ground's material.

    Radius of the road's course, half its width, width of the pavements, asphalt's colour, contrast and cracks, paint of
    its marks, verges, slabs, how far lines are from the edge, whether there are materials, a crossing, wear; ``[13]``.
    """
    return np.array([
        1 / road.bend, road.half_m, road.pavement_m,
        rng.uniform(0.08, 0.22), rng.uniform(0.05, 0.5), rng.uniform(0, 1) * (rng.random() < 0.6),
        rng.uniform(0.4, 1.0) * (rng.random() < 0.75), rng.random(), rng.random(), rng.uniform(0.15, 2.2),
        float(textures), rng.uniform(6, 40) * (rng.random() < 0.3), rng.uniform(0.0, 0.4),
    ])  # fmt: skip
