from __future__ import annotations

import json
import math

import pytest
import torch

from effcli.core.errors import InputError, NonFiniteError
from effcli.enhance.baselines import BASELINES
from effcli.enhance.data.pairs import load_pairs
from effcli.enhance.image_quality import (
    METRIC_KEYS,
    evaluate_pair,
    gt_mean,
    mean_over_pairs,
    psnr,
    round_to_8bit,
    ssim_gaussian,
    ssim_uniform,
)
from tests.data_root import data_file


def images(height: int = 15, width: int = 13, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    target = round_to_8bit(torch.rand(3, height, width, generator=generator) * 0.8 + 0.1)
    noise = 0.1 * torch.randn(3, height, width, generator=generator)
    return round_to_8bit(target * 0.6 + noise), target


def slow_ssim(x: torch.Tensor, y: torch.Tensor, weights: torch.Tensor, factor: float) -> float:
    """SSIM by the definition: one window after the other, ``factor`` times the weighted (co)variances."""
    side = weights.shape[0]
    values = []
    for channel in range(3):
        for i in range(x.shape[1] - side + 1):
            for j in range(x.shape[2] - side + 1):
                a, b = (image[channel, i : i + side, j : j + side].double() for image in (x, y))
                mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
                var_a, var_b = (
                    factor * (weights * (p - m) ** 2).sum() for p, m in ((a, mean_a), (b, mean_b))
                )
                cov = factor * (weights * (a - mean_a) * (b - mean_b)).sum()
                luminance = (2 * mean_a * mean_b + 0.01**2) / (mean_a**2 + mean_b**2 + 0.01**2)
                values.append(float(luminance * (2 * cov + 0.03**2) / (var_a + var_b + 0.03**2)))
    return sum(values) / len(values)


def test_uniform_ssim_is_the_scikit_image_definition() -> None:
    x, y = images()
    expected = slow_ssim(x, y, torch.full((7, 7), 1 / 49, dtype=torch.float64), 49 / 48)
    assert ssim_uniform(x, y) == pytest.approx(expected, abs=2e-6)
    assert abs(expected - slow_ssim(x, y, torch.full((7, 7), 1 / 49, dtype=torch.float64), 1.0)) > 1e-5


def test_gaussian_ssim_is_the_11_tap_definition_inside_the_image() -> None:
    x, y = images()
    taps = torch.exp(-((torch.arange(11, dtype=torch.float64) - 5) ** 2) / (2 * 1.5**2))
    weights = torch.outer(taps, taps) / taps.sum() ** 2
    assert ssim_gaussian(x, y) == pytest.approx(slow_ssim(x, y, weights, 1.0), abs=2e-6)


def test_psnr_is_ten_log_of_the_mean_squared_error() -> None:
    x, y = images()
    assert psnr(x, y) == pytest.approx(-10 * math.log10(float(((x - y).double() ** 2).mean())), abs=1e-4)
    assert psnr(torch.zeros(1, 3, 8, 8), torch.full((1, 3, 8, 8), 0.1)) == pytest.approx(20.0, abs=1e-4)
    assert psnr(y, y) == math.inf


def test_gt_mean_is_invariant_to_a_gain_that_clips_nothing() -> None:
    x, y = images()
    x, y = 0.4 * x + 0.01, 0.5 * y
    corrected = gt_mean(x, y)
    weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    assert float((corrected * weights).sum(0).mean()) == pytest.approx(
        float((y * weights).sum(0).mean()), abs=1e-6
    )
    for gain in (0.5, 0.9, 1.7):
        assert torch.allclose(gt_mean(gain * x, y), corrected, atol=1e-6)
        assert psnr(gt_mean(gain * x, y), y) == pytest.approx(psnr(corrected, y), abs=1e-3)
    black = torch.zeros_like(y)
    assert torch.equal(gt_mean(black, y), black)


def test_gt_mean_corrects_each_image_of_a_batch_by_itself() -> None:
    x, y = (torch.stack(group) for group in zip(images(seed=1), images(seed=2), strict=True))
    together = gt_mean(x, y)
    assert torch.equal(together, torch.stack([gt_mean(a, b) for a, b in zip(x, y, strict=True)]))
    assert together.max() <= 1.0


def test_a_pair_is_measured_on_what_an_8_bit_file_would_hold() -> None:
    x, y = images()
    figures = evaluate_pair(x, y)
    assert tuple(sorted(figures)) == tuple(sorted(METRIC_KEYS))
    assert figures["psnr"] == pytest.approx(psnr(x, y)) and figures["ssim"] == pytest.approx(
        ssim_uniform(x, y)
    )
    assert figures["psnr_gt_mean"] == pytest.approx(psnr(gt_mean(x, y), y))
    assert figures["ssim_gaussian_gt_mean"] == pytest.approx(ssim_gaussian(gt_mean(x, y), y))
    assert evaluate_pair(x + 0.4 / 255 * torch.rand_like(x), y) == pytest.approx(figures)
    as_bytes = [(image * 255).round().byte() for image in (x, y)]
    assert evaluate_pair(*as_bytes) == pytest.approx(figures)
    assert evaluate_pair(x[None], y[None]) == pytest.approx(figures)
    assert evaluate_pair(torch.full_like(y, 3.0), y) == evaluate_pair(torch.ones_like(y), y)
    assert evaluate_pair(x.half(), y) == pytest.approx(figures, abs=1e-2)


def test_equal_images_have_no_psnr_and_are_counted() -> None:
    x, y = images()
    equal, other = evaluate_pair(y, y), evaluate_pair(x, y)
    assert equal["psnr"] is None and equal["psnr_gt_mean"] is None
    assert equal["ssim"] == pytest.approx(1.0) and equal["ssim_gaussian"] == pytest.approx(1.0)
    means = mean_over_pairs([equal, other])
    assert means["psnr"] == other["psnr"] and (means["pairs"], means["pairs_equal"]) == (2, 1)
    assert means["ssim"] == pytest.approx((1.0 + other["ssim"]) / 2)
    assert mean_over_pairs([equal])["psnr"] is None
    assert "NaN" not in json.dumps(means) and "Infinity" not in json.dumps(means)


@pytest.mark.parametrize(
    ("shape", "other", "message"),
    [
        ((3, 10, 40), (3, 10, 40), "40x10 is smaller than the 11x11 window"),
        ((3, 40, 6), (3, 40, 6), "6x40 is smaller than the 7x7 window"),
        ((3, 20, 20), (3, 20, 21), "cannot be compared"),
        ((1, 20, 20), (1, 20, 20), "cannot be compared"),
        ((2, 3, 20, 20), (2, 3, 20, 20), "cannot be compared"),
    ],
)
def test_images_that_cannot_be_measured_are_refused(
    shape: tuple[int, ...], other: tuple[int, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        evaluate_pair(torch.rand(shape), torch.rand(other))


def test_a_prediction_with_nan_is_no_result() -> None:
    x, y = images()
    x[0, 3, 3] = math.nan
    with pytest.raises(NonFiniteError, match="holds NaN"):
        evaluate_pair(x, y)


# PSNR, PSNR with GT-mean, SSIM with the Gaussian window: means over the 12 evaluation pairs cut from LOL-v1.
KNOWN = {
    "input": (7.99, 18.61, 0.20),
    "gamma": (14.07, 22.79, 0.59),
    "gamma_3_5": (17.05, 20.19, 0.62),
    "histeq": (14.31, 16.56, 0.40),
}


@pytest.mark.slow
def test_baselines_reach_their_known_figures_on_real_pairs() -> None:
    pairs = load_pairs(data_file("lol_pairs.tar"), "eval")
    for name, expected in KNOWN.items():
        rows = []
        for dark, bright in pairs:
            x, y = (round_to_8bit(image) for image in (BASELINES[name](dark.float() / 255), bright))
            rows.append((psnr(x, y), psnr(gt_mean(x, y), y), ssim_gaussian(x, y)))
        means = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
        assert means == pytest.approx(expected, abs=0.005), name
