"""Simulated low light: a dark, noisy twin of a bright image, and a small generated set of such pairs."""

from __future__ import annotations

import math
from typing import Literal

import torch

GAMMA = 2.2
EXPOSURE = (0.015, 0.10)
CHANNEL_GAIN = (0.85, 1.15)
PHOTONS_FULL_SCALE = (300.0, 1500.0)
READ_NOISE = (0.0005, 0.002)

SCENE_SIDE = 128
N_SCENES = {"train": 64, "eval": 8}
_SCENE_SEEDS = {"train": 20_001, "eval": 20_002}


def synthetic_low_light(image: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A simulated under-exposed photograph of the same scene.

    The image is brought to linear light with gamma 2.2 and multiplied by an exposure sampled log-uniformly from
    0.015..0.10 and a gain of 0.85..1.15 per channel; then follow Poisson noise at 300..1500 photons full scale,
    Gaussian read noise of 0.0005..0.002, clipping, gamma 1/2.2 and rounding to 8 bits. The noise has no
    spatial correlation, so this is easier than real low light.

    Args:
        image: normally exposed image, float ``[3, H, W]`` in 0..1, on the generator's device.
        generator: source of the exposure, gains and noise.

    Returns:
        float ``[3, H, W]`` in 0..1, each value a multiple of 1/255.
    """
    exposure = math.exp(_uniform(math.log(EXPOSURE[0]), math.log(EXPOSURE[1]), generator))
    gain = torch.empty(3, 1, 1, dtype=image.dtype, device=image.device)
    gain.uniform_(*CHANNEL_GAIN, generator=generator)
    photons_full_scale = _uniform(*PHOTONS_FULL_SCALE, generator)
    read_noise = _uniform(*READ_NOISE, generator)
    linear = image.clamp(0.0, 1.0) ** GAMMA * exposure * gain
    shot = torch.poisson(linear * photons_full_scale, generator=generator) / photons_full_scale
    noise = torch.randn(image.shape, generator=generator, dtype=image.dtype, device=image.device)
    dark = (shot + read_noise * noise).clamp(0.0, 1.0)
    return (dark ** (1.0 / GAMMA) * 255.0).round() / 255.0


def builtin_scenes(split: Literal["train", "eval"]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The generated pairs of ``builtin:scenes``: 64 for training, 8 for evaluation, from different seeds.

    They need no file and show that a run works; they do not replace photographs.

    Args:
        split: ``train`` or ``eval``.

    Returns:
        (low, high) pairs, uint8 ``[3, 128, 128]`` each; the same ones at every call.
    """
    generator = torch.Generator().manual_seed(_SCENE_SEEDS[split])
    pairs = []
    for _ in range(N_SCENES[split]):
        high = (synthetic_scene(SCENE_SIDE, SCENE_SIDE, generator) * 255.0).round() / 255.0
        low = synthetic_low_light(high, generator)
        pairs.append(((low * 255.0).round().byte(), (high * 255.0).round().byte()))
    return pairs


def synthetic_scene(height: int, width: int, generator: torch.Generator) -> torch.Tensor:
    """A normally exposed picture of textured ellipses and boxes before a shaded background.

    Args:
        height: H in pixels.
        width: W in pixels.
        generator: RNG of the scene (CPU).

    Returns:
        float32 ``[3, H, W]`` in 0..1.
    """
    rows = torch.linspace(-1.0, 1.0, height).view(-1, 1).expand(height, width)
    columns = torch.linspace(-1.0, 1.0, width).view(1, -1).expand(height, width)
    scene = _textured(rows, columns, generator)
    n_shapes = int(torch.randint(4, 9, (), generator=generator))
    for _ in range(n_shapes):
        angle = _uniform(0.0, math.pi, generator)
        down, along = (_uniform(-0.9, 0.9, generator) for _ in range(2))
        u = (rows - down) * math.cos(angle) + (columns - along) * math.sin(angle)
        v = (columns - along) * math.cos(angle) - (rows - down) * math.sin(angle)
        u, v = u / _uniform(0.12, 0.6, generator), v / _uniform(0.12, 0.6, generator)
        is_ellipse = _uniform(0.0, 1.0, generator) < 0.5
        inside = u.square() + v.square() < 1.0 if is_ellipse else torch.maximum(u.abs(), v.abs()) < 1.0
        scene = torch.where(inside, _textured(u, v, generator), scene)
    return scene


def _textured(u: torch.Tensor, v: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A random colour with linear shading and a sinusoidal grating over u and v, ``[H, W]`` each."""
    colour = torch.rand(3, 1, 1, generator=generator) * 0.8 + 0.1
    shading = 1.0 + _uniform(-0.3, 0.3, generator) * u + _uniform(-0.3, 0.3, generator) * v
    frequency = [_uniform(-25.0, 25.0, generator) for _ in range(2)]
    contrast = _uniform(0.0, 0.3, generator)
    grating = 1.0 + contrast * torch.sin(frequency[0] * u + frequency[1] * v)
    return (colour * shading * grating).clamp(0.0, 1.0)


def _uniform(low: float, high: float, generator: torch.Generator) -> float:
    unit = torch.rand((), generator=generator, device=generator.device)
    return low + (high - low) * float(unit)
