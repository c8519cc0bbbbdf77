from __future__ import annotations

import pytest
import torch
from PIL import Image

from effcli.enhance.baselines import BASELINES, gamma_correction, histogram_equalisation


def dark_image(height: int = 24, width: int = 30) -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    grey = 0.15 * torch.rand(1, height, width, generator=generator) ** 2
    return grey.expand(3, height, width).clone()


def slow_equalised(levels: list[int]) -> list[int]:
    """Histogram equalisation pixel by pixel: the level becomes the share of darker pixels, on Pillow's 255 steps."""
    step = (len(levels) - levels.count(max(levels))) // 255
    return [min((step // 2 + sum(other < level for other in levels)) // step, 255) for level in levels]


def test_gamma_correction_is_a_power_of_the_clipped_image() -> None:
    x = torch.tensor([-0.5, 0.0, 0.25, 1.0, 1.5]).view(1, 1, 5).expand(3, 1, 5)
    assert torch.allclose(gamma_correction(x, 0.5)[0, 0], torch.tensor([0.0, 0.0, 0.5, 1.0, 1.0]))
    assert torch.equal(gamma_correction(x, 1.0), x.clamp(0, 1))


def test_histogram_equalisation_agrees_with_counting() -> None:
    x = dark_image()
    grey = (x * 255).round().byte().permute(1, 2, 0).numpy()
    levels = list(Image.fromarray(grey).convert("YCbCr").getchannel("Y").tobytes())
    equalised = (histogram_equalisation(x) * 255).round().int()
    assert equalised[0].flatten().tolist() == slow_equalised(levels)
    assert torch.equal(equalised[0], equalised[1]) and torch.equal(equalised[0], equalised[2])


def test_histogram_equalisation_keeps_the_hue_of_a_coloured_image() -> None:
    x = dark_image()[None] * torch.tensor([1.0, 0.6, 0.3]).view(3, 1, 1)
    y = histogram_equalisation(x)
    assert y.shape == x.shape and y.dtype == x.dtype
    assert y.mean() > 3 * x.mean()
    assert (y[:, 0].mean() - y[:, 2].mean()) > 0.5 * (x[:, 0].mean() - x[:, 2].mean())


@pytest.mark.parametrize("name", ["input", "gamma", "histeq", "gamma_3_5"])
def test_each_baseline_keeps_shape_range_and_its_argument(name: str) -> None:
    x = torch.stack([dark_image(), dark_image().flip(-1)])
    before = x.clone()
    y = BASELINES[name](x)
    assert y.shape == x.shape and y.dtype == x.dtype and y.min() >= 0 and y.max() <= 1
    assert torch.equal(x, before)
    assert torch.allclose(BASELINES[name](x[1]), y[1])
    assert torch.equal(y, x) if name == "input" else y.mean() > 1.5 * x.mean()


def test_a_constant_image_survives_equalisation() -> None:
    x = torch.full((3, 5, 5), 60 / 255)
    assert torch.equal(histogram_equalisation(x), x)
