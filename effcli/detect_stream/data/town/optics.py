"""From light to the pixels of two eyes, which are never quite alike: exposure, colour, blur, noise, JPEG, dirt."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image

from effcli.data.images import read_rgb

_LEVELS = 4096


@dataclass(frozen=True)
class Eye:
    """One camera's sensor.

    Attributes:
        gains: of red, green and blue.
        gamma: exponent of its curve, beside the drive's.
        blur: standard deviation, pixels.
        noise: standard deviation in the dark and in full light, grey levels.
        quality: of its JPEG; None for none.
        spots: x, y, half width, half height and grey of dirt on the lens, ``[S, 5]``.
    """

    gains: np.ndarray
    gamma: float
    blur: float
    noise: tuple[float, float]
    quality: int | None
    spots: np.ndarray


@dataclass(frozen=True)
class Exposure:
    """How light becomes grey: ``((light * gain) ** power - black) / (1 - black)``, cut at 0 and 1."""

    gain: float
    power: float
    black: float


def random_eyes(varies: bool, noise: float, rng: np.random.Generator) -> tuple[Eye, Eye]:
    """Both eyes: alike but for gain and noise where nothing varies."""
    if not varies:
        gains = 1 + rng.uniform(-0.05, 0.05, 2) * (noise > 0)
        none = np.zeros((0, 5))
        return (
            Eye(np.full(3, gains[0]), 1.0, 0.0, (noise, noise), None, none),
            Eye(np.full(3, gains[1]), 1.0, 0.0, (noise, noise), None, none),
        )
    tint = np.exp(rng.normal(0, 0.07, 3))
    blur = max(0.0, rng.normal(0.25, 0.25))
    grain = rng.uniform(0.3, 1.6) * noise
    quality = int(rng.integers(45, 96)) if rng.random() < 0.5 else None
    return (_eye(tint, blur, grain, quality, rng), _eye(tint, blur, grain, quality, rng))


def _eye(tint: np.ndarray, blur: float, grain: float, quality: int | None, rng: np.random.Generator) -> Eye:
    spots = []
    if rng.random() < 0.25:
        for _ in range(int(rng.integers(1, 4))):
            size = rng.uniform(3, 22, 2)
            spots.append([rng.uniform(0, 416), rng.uniform(0, 128), *size, rng.uniform(0, 255)])
    return Eye(
        tint * np.exp(rng.normal(0, 0.08)) * np.exp(rng.normal(0, 0.025, 3)),
        float(np.exp(rng.normal(0, 0.05))),
        max(0.0, blur + rng.normal(0, 0.12)),
        (grain * rng.uniform(0.6, 1.4), grain * rng.uniform(0.6, 2.0)),
        quality,
        np.array(spots).reshape(-1, 5),
    )


def random_exposure(varies: bool, light: np.ndarray, rng: np.random.Generator) -> Exposure:
    """An exposure for linear light ``[H, W, 3]``: a share of about 7 % burns out in the mean, in many drives none.

    Where nothing varies all light fits in, and the middle is grey.
    """
    grey = light.mean(2)
    burnt = float(np.clip(rng.exponential(0.08), 0.0005, 0.35)) if varies else 0.001
    gain = 1 / max(float(np.quantile(grey, 1 - burnt)), 1e-6)
    wanted = float(np.clip(rng.normal(0.29, 0.08), 0.14, 0.5)) if varies else 0.42
    middle = float(np.clip(np.median(grey) * gain, 1e-4, 0.9))
    power = float(np.clip(np.log(wanted) / np.log(middle), 0.38, 1.15))
    return Exposure(gain, power, rng.uniform(0.0, 0.03) if varies else 0.0)


def picture(light: np.ndarray, exposure: Exposure, eye: Eye, rng: np.random.Generator) -> np.ndarray:
    """What an eye makes of linear light ``[H, W, 3]``: uint8."""
    x = np.clip(light * (eye.gains * exposure.gain).astype(np.float32), 0.0, 1.0)
    ramp = np.linspace(0, 1, _LEVELS) ** 2  # finer where it is dark
    curve = 255 * np.clip(
        (ramp ** (exposure.power * eye.gamma) - exposure.black) / (1 - exposure.black), 0, 1
    )
    grey = curve.astype(np.float32)[(np.sqrt(x) * (_LEVELS - 1)).astype(np.int16)]
    grey = _blurred(grey, eye.blur)
    dark, bright = eye.noise
    if dark or bright:
        spread = dark + (bright - dark) / 255 * grey
        grey = grey + spread * rng.standard_normal(grey.shape, np.float32)
    for left, top, half_x, half_y, value in eye.spots:
        rows = slice(max(0, int(top - half_y)), int(top + half_y))
        columns = slice(max(0, int(left - half_x)), int(left + half_x))
        grey[rows, columns] = value
    pixels: np.ndarray = np.clip(np.rint(grey), 0, 255).astype(np.uint8)
    if eye.quality is None:
        return pixels
    file = BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=eye.quality)
    decoded: np.ndarray = read_rgb(file.getvalue())
    return decoded


def _blurred(grey: np.ndarray, deviation: float) -> np.ndarray:
    """By a kernel of three pixels each way, or five where that is too short."""
    if deviation < 0.15:
        return grey
    reach = 1 if deviation < 0.6 else 2
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation) ** 2).astype(np.float32)
    taps /= taps.sum()
    for axis in (0, 1):
        pad = [(0, 0)] * 3
        pad[axis] = (reach, reach)
        wide, n = np.pad(grey, pad, mode="edge"), grey.shape[axis]
        shifted = [wide[i : i + n] if axis == 0 else wide[:, i : i + n] for i in range(len(taps))]
        summed: np.ndarray = sum((k * one for k, one in zip(taps, shifted, strict=True)), np.zeros_like(grey))
        grey = summed
    return grey
