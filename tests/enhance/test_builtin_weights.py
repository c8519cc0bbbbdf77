"""The weights in the package on pictures whose right answer is known: colours, grey, black, bright ones, any size."""

from __future__ import annotations

import colorsys
from functools import lru_cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from effcli.core.runtime import create_runtime
from effcli.enhance.enhancer import Enhancer
from effcli.enhance.network.exposure import level

N_HUES = 24
PATCH = 48
WHEEL_LEVELS = (0.08, 0.25, 0.6)


@lru_cache
def enhancer(brightness: str = "auto") -> Enhancer:
    return Enhancer(runtime=create_runtime(device="cpu"), brightness=brightness)


def wheel(value: float, saturation: float = 0.85) -> np.ndarray:
    """Patches of 24 hues in four rows: float32 [4 PATCH, 6 PATCH, 3]."""
    colours = [colorsys.hsv_to_rgb(k / N_HUES, saturation, value) for k in range(N_HUES)]
    chart = np.array(colours, dtype=np.float32).reshape(4, 6, 3)
    return chart.repeat(PATCH, 0).repeat(PATCH, 1)


def patch_means(chart: np.ndarray) -> np.ndarray:
    """The mean colour of the inner part of each patch: [24, 3]."""
    cells = chart.reshape(4, PATCH, 6, PATCH, 3)[:, PATCH // 4 : -PATCH // 4, :, PATCH // 4 : -PATCH // 4]
    means: np.ndarray = cells.mean((1, 3)).reshape(N_HUES, 3)
    return means


def check_colours(before: np.ndarray, after: np.ndarray) -> None:
    for one, other in zip(before, after, strict=True):
        hue, saturation, _ = colorsys.rgb_to_hsv(*one)
        new_hue, new_saturation, _ = colorsys.rgb_to_hsv(*other)
        turned = abs((new_hue - hue + 0.5) % 1 - 0.5) * 360
        assert turned < 10, (one, other)
        assert abs(new_saturation / saturation - 1) < 0.3, (one, other)


@pytest.mark.parametrize("noise", [0.0, 4.0], ids=["flat", "noisy"])
@pytest.mark.parametrize("value", WHEEL_LEVELS)
def test_a_wheel_of_saturated_colours_keeps_hue_and_saturation(value: float, noise: float) -> None:
    chart = wheel(value)
    rng = np.random.default_rng(0)
    seen = (chart * 255 + noise * rng.standard_normal(chart.shape)).round().clip(0, 255).astype(np.uint8)
    result = enhancer().enhance(seen)
    check_colours(patch_means(chart), patch_means(result / 255.0))


@pytest.mark.parametrize("colour", [(10, 60, 10), (60, 10, 10), (12, 16, 70), (70, 60, 8), (40, 8, 44)])
def test_a_flat_picture_of_one_colour_keeps_it(colour: tuple[int, int, int]) -> None:
    seen = np.full((64, 80, 3), colour, dtype=np.uint8)
    result = enhancer().enhance(seen).reshape(-1, 3).mean(0) / 255
    check_colours(np.array([colour]) / 255, result[None])


def test_equal_channels_stay_equal() -> None:
    rng = np.random.default_rng(1)
    ramp = np.linspace(0, 200, 96)[None].repeat(64, 0) + 5 * rng.standard_normal((64, 96))
    seen = ramp.clip(0, 255).astype(np.uint8)[..., None].repeat(3, 2)
    for brightness in ("auto", "0.6"):
        result = enhancer(brightness).enhance(seen).astype(int)
        assert np.abs(result - result[..., :1]).max() <= 1


def test_black_stays_black() -> None:
    assert enhancer().enhance(np.zeros((64, 64, 3), dtype=np.uint8)).max() < 8
    half = np.zeros((96, 96, 3), dtype=np.uint8)
    half[:, 48:] = (60, 50, 40)
    black = enhancer().enhance(half)[:, :32].reshape(-1, 3).astype(int)
    assert black.max() < 8


def scene(height: int, width: int, seed: int = 0) -> torch.Tensor:
    """Smooth coloured shapes at several scales, [3, H, W] in 0..1; the same scene at any size."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.zeros(1, 3, height, width)
    for cells in (3, 7, 19, 47):
        noise = torch.rand(1, 3, cells, round(cells * 1.5), generator=generator)
        x += F.interpolate(noise, (height, width), mode="bicubic") / cells**0.5
    return (x[0] / x.max()).clamp(0, 1)


@pytest.mark.parametrize("seed", range(3))
def test_well_lit_pictures_stay_and_never_become_darker(seed: int) -> None:
    bright = scene(128, 192, seed)
    bright = bright ** (np.log(0.5) / np.log(float(level(bright))))
    result = enhancer().enhance(bright)
    assert float(level(result)) >= float(level(bright)) - 1e-3
    assert float((result - bright).square().mean()) < 1e-3  # 30 dB
    white = torch.ones(3, 64, 64)
    assert float((enhancer().enhance(white) - white).abs().max()) < 0.02


@pytest.mark.slow
def test_the_level_does_not_depend_on_the_resolution() -> None:
    large = 0.15 * scene(1600, 2400)
    levels = []
    for width in (100, 300, 600, 1200, 2400):
        small = F.interpolate(large[None], (width * 2 // 3, width), mode="area")[0]
        levels.append(float(level(enhancer().enhance(small))))
    assert max(levels) / min(levels) < 1.1, levels


@pytest.mark.parametrize("top", [2_000, 8_000, 30_000])
def test_a_ramp_of_16_bits_stays_monotonic(top: int) -> None:
    ramp = np.linspace(0, top, 512).round().astype(np.uint16)[None, :, None].repeat(48, 0).repeat(3, 2)
    result = enhancer("0.4").enhance(ramp).astype(int)
    assert np.diff(result[:, 4:-4], axis=1).min() >= 0


def test_one_picture_at_several_levels() -> None:
    dark = 0.2 * scene(96, 144)
    reached = [float(level(enhancer(str(wanted)).enhance(dark))) for wanted in (0.2, 0.35, 0.5, 0.65)]
    assert reached == pytest.approx([0.2, 0.35, 0.5, 0.65], abs=0.02)
    auto, more = (float(level(enhancer(text).enhance(dark))) for text in ("auto", "+1EV"))
    assert more / auto == pytest.approx(2 ** (1 / 2.2), rel=0.05)
