"""The exposure head: what holds for any maps and any picture, by construction."""

from __future__ import annotations

import colorsys
import math

import pytest
import torch

from effcli.enhance.network.exposure import (
    curve,
    exposed,
    level,
    log_gain_for_level,
    thumbnail,
)
from effcli.enhance.network.exposure_head import N_MAPS, apply_maps, blurred
from effcli.enhance.network.level import LevelPredictor


def random_maps(height: int, width: int, scale: float = 3.0, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(1, N_MAPS, height, width, generator=generator)


def flat(red: float, green: float, blue: float, side: int = 24) -> torch.Tensor:
    return torch.tensor([red, green, blue]).view(1, 3, 1, 1).expand(1, 3, side, side).clone()


def test_the_curve_is_its_formula_and_keeps_its_ends() -> None:
    v = torch.linspace(0, 1, 101)
    for gain in (1.0, 3.0, 40.0):
        found = curve(v, torch.tensor(math.log(gain)))
        torch.testing.assert_close(found, 1 - (1 - v) ** gain, atol=2e-5, rtol=0)
    torch.testing.assert_close(curve(v, torch.tensor(math.log(0.3))), 0.3 * v)
    assert float(curve(torch.tensor(0.0), torch.tensor(5.0))) == 0
    assert float(curve(torch.tensor(1.0), torch.tensor(1.0))) == pytest.approx(1)
    small = torch.tensor(1e-5)
    assert float(curve(small, torch.tensor(math.log(20.0)))) == pytest.approx(20e-5, rel=1e-3)


def test_a_curve_that_brightens_darkens_nothing_and_keeps_hue_and_saturation() -> None:
    x = torch.rand(1, 3, 9, 7, generator=torch.Generator().manual_seed(0)) * 0.9
    bright = exposed(x, torch.tensor([1.3]))
    assert bool((bright >= x - 1e-6).all()) and float(bright.max()) <= 1
    for before, after in zip(x[0].flatten(1).T.tolist(), bright[0].flatten(1).T.tolist(), strict=True):
        old, new = colorsys.rgb_to_hsv(*before), colorsys.rgb_to_hsv(*after)
        assert new[:2] == pytest.approx(old[:2], abs=1e-3)


@pytest.mark.parametrize("wanted", [0.1, 0.4, 0.7])
def test_the_gain_for_a_level_reaches_it(wanted: float) -> None:
    generator = torch.Generator().manual_seed(1)
    x = 0.5 + 0.5 * torch.rand(3, 3, 20, 30, generator=generator)
    x = x * torch.tensor([0.01, 0.2, 1.0]).view(3, 1, 1, 1)
    log_gain = log_gain_for_level(x, torch.full((3,), wanted))
    torch.testing.assert_close(level(exposed(x, log_gain)), torch.full((3,), wanted), atol=2e-4, rtol=0)


def test_a_black_picture_has_a_finite_gain() -> None:
    black = torch.zeros(1, 3, 8, 8)
    log_gain = log_gain_for_level(black, torch.tensor([0.5]))
    assert bool(log_gain.isfinite().all())
    assert bool((exposed(black, log_gain) == 0).all())


def test_thumbnails_are_means_over_areas() -> None:
    x = torch.rand(1, 3, 512, 256)
    small = thumbnail(x, 64 * 32)
    assert small.shape == (1, 3, 64, 32)
    torch.testing.assert_close(small[0, :, 0, 0], x[0, :, :8, :8].mean((1, 2)))
    assert thumbnail(x[..., :16, :16]).shape[-2:] == (16, 16)


@pytest.mark.parametrize("log_gain", [-1.0, 0.0, 2.5])
def test_grey_stays_grey_and_black_stays_black_whatever_the_maps(log_gain: float) -> None:
    gain, maps = torch.tensor([log_gain]), random_maps(24, 24)
    grey = torch.rand(1, 1, 24, 24, generator=torch.Generator().manual_seed(2)).expand(1, 3, 24, 24)
    out = apply_maps(grey, gain, maps)
    assert float((out - out.mean(1, keepdim=True)).abs().max()) < 1e-6
    assert bool((apply_maps(torch.zeros(1, 3, 24, 24), gain, maps) == 0).all())
    white = apply_maps(torch.ones(1, 3, 24, 24), gain.clamp_min(0), maps.mul(0))
    torch.testing.assert_close(white, torch.ones_like(white), atol=1e-3, rtol=0)


def test_colours_keep_their_hue_and_saturation_whatever_the_maps() -> None:
    """Within 10 degrees and a third: 24 hues, also far from what any picture shows; near black the noise decides."""
    for hue in range(24):
        for value in (0.6, 0.9):
            colour = colorsys.hsv_to_rgb(hue / 24, 0.9, value)
            out = apply_maps(flat(*colour), torch.tensor([1.5]), random_maps(24, 24, seed=hue))
            for pixel in out[0].flatten(1).T[::37].tolist():
                new_hue, saturation, _ = colorsys.rgb_to_hsv(*pixel)
                assert abs((new_hue - hue / 24 + 0.5) % 1 - 0.5) * 360 < 10
                assert saturation == pytest.approx(0.9, rel=1 / 3)


def test_maps_of_zero_are_the_common_curve_on_smooth_pictures() -> None:
    ramp = torch.linspace(0.05, 0.4, 64).expand(1, 3, 16, 64)
    out = apply_maps(ramp, torch.tensor([1.0]), torch.zeros(1, N_MAPS, 16, 64))
    inner = (slice(None), slice(None), slice(None), slice(16, 48))
    torch.testing.assert_close(out[inner], exposed(ramp, torch.tensor([1.0]))[inner], atol=4e-3, rtol=0)


def test_blurs_keep_the_mean_and_widen() -> None:
    x = torch.zeros(1, 1, 65, 65)
    x[..., 32, 32] = 1
    places = torch.arange(65.0) - 32
    widths = []
    for scale in blurred(x)[1:]:
        assert float(scale.sum()) == pytest.approx(1, abs=1e-5)
        widths.append(float((scale[0, 0].sum(0) * places.square()).sum().sqrt()))
    assert widths == pytest.approx([1, math.sqrt(5), math.sqrt(21)], abs=1e-3)


def test_the_predictor_hardly_sees_the_exposure() -> None:
    torch.manual_seed(0)
    predictor = LevelPredictor()
    scene = torch.rand(1, 3, 48, 64)
    bright, dark = (float(predictor(exposed(scene, torch.tensor([gain])))) for gain in (-0.5, -2.0))
    assert 0 < dark < 1
    assert bright == pytest.approx(dark, abs=0.05)


def test_the_predictor_knows_a_level_for_a_single_pixel() -> None:
    torch.manual_seed(0)
    predictor = LevelPredictor()
    pixel = torch.full((1, 3, 1, 1), 0.1)
    assert float(predictor(pixel)) == pytest.approx(float(predictor(pixel.expand(1, 3, 9, 9))), abs=0.02)
