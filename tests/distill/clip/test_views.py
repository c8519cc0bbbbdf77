"""Crops are named by numbers; whole images are what open_clip sees."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from effcli.distill.clip.views import Preprocess, crop_box

SMALL = Preprocess((16, 16), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
LARGE = Preprocess((32, 32), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def ramp() -> Image.Image:
    y, x = np.mgrid[0:60, 0:80]
    return Image.fromarray(np.stack([3 * x, 4 * y, x + y], axis=-1).clip(0, 255).astype(np.uint8))


def test_a_crop_follows_from_its_key_alone() -> None:
    image = ramp()
    torch.manual_seed(5)
    first = crop_box(image, 3, 1)
    after = torch.rand(1)
    torch.manual_seed(6)
    assert crop_box(image, 3, 1) == first
    torch.manual_seed(5)
    torch.testing.assert_close(torch.rand(1), after)  # nothing was drawn from the global generator
    assert len({crop_box(image, 3, view) for view in range(6)}) > 3


def test_crops_have_the_areas_and_shapes_of_the_paper() -> None:
    image = Image.new("RGB", (100, 100))
    for n in range(100):
        left, top, right, bottom = crop_box(image, n)
        width, height = right - left, bottom - top
        assert left >= 0 and top >= 0 and right <= 100 and bottom <= 100
        assert width * height >= 0.88 * 100 * 100 and 0.74 <= width / height <= 1.35


def test_networks_of_other_sizes_see_the_same_part() -> None:
    image, box = ramp(), (10, 5, 60, 55)
    small, large = SMALL.crop(image, box), LARGE.crop(image, box)
    assert small.shape == (3, 16, 16) and large.shape == (3, 32, 32)
    grey = [
        one * torch.tensor(p.std)[:, None, None] + torch.tensor(p.mean)[:, None, None]
        for one, p in ((small, SMALL), (large, LARGE))
    ]
    down = torch.nn.functional.avg_pool2d(grey[1], 2)
    torch.testing.assert_close(grey[0], down, atol=0.02, rtol=0)
    expected = torch.tensor([3 * 35 / 255, 4 * 30 / 255, 65 / 255])
    torch.testing.assert_close(grey[0].mean((1, 2)), expected, atol=0.01, rtol=0)
