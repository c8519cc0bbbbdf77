"""Depth maps against the plain form: all bins of the loss, and the geometry pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from effcli.detect_stream.data.synthetic_drives import Drive
from effcli.detect_stream.network.config import TINY
from effcli.detect_stream.network.depth_map import DepthView, likeliest_depth
from effcli.detect_stream.network.frame_fitting import fit_of

CPU = torch.device("cpu")


def plain(logits: torch.Tensor) -> torch.Tensor:
    """The mean of the four bins on each side of the likeliest one, of all bins that the loss sees."""
    near, far = TINY.depth
    bins = F.interpolate(logits, scale_factor=4.0, mode="linear", align_corners=True).softmax(2)
    found = torch.zeros(bins.shape[:2])
    for v in range(bins.shape[0]):
        for u in range(bins.shape[1]):
            best = int(bins[v, u].argmax())
            chosen = range(max(0, best - 4), min(bins.shape[2], best + 5))
            depths = torch.tensor([near + (far - near) / 64 * (i + 0.5) for i in chosen])
            weights = bins[v, u, list(chosen)]
            found[v, u] = (weights * depths).sum() / weights.sum()
    return found


def test_the_likeliest_depth_is_that_of_the_bins_of_the_loss() -> None:
    random = torch.Generator().manual_seed(0)
    depth = 2.5 + 37 * torch.rand(12, 20, generator=random)
    at = (depth - 2) / 2.4 - 0.5
    logits = -6 * (torch.arange(16) - at[..., None]).abs() + torch.rand(12, 20, 16, generator=random)
    found = likeliest_depth(logits, TINY)
    assert (found > 0).all()
    assert (found - plain(logits)).abs().median() < 0.06
    assert (found - plain(logits)).abs().max() < 1.0
    assert (likeliest_depth(torch.zeros(2, 2, 16), TINY) == 0).all()  # it does not know


@pytest.mark.parametrize("size", [(128, 416), (375, 1242)])
def test_pixels_of_the_picture_have_the_depth_of_the_pixel_that_saw_them(size: tuple[int, int]) -> None:
    calibration = Drive(3, 3).calibration.scaled(size[1] / 416)
    fit = fit_of(size, calibration, TINY)
    view = DepthView(fit, size, TINY, CPU)
    logits = torch.full((1, 16, 32, 104), -20.0)
    logits[:, 3] = 5.0  # all at about 10 m
    found = view.depth(logits)
    assert found.shape == size and found.dtype == np.float32
    known = found > 0
    assert found[known].min() > 9.5 and found[known].max() < 11.5
    rows = np.nonzero(known.any(1))[0]
    horizon = float(calibration.left[1, 2])
    highest = horizon - float(calibration.left[1, 1]) / float(found[known].mean())  # 1 m above the cameras
    assert abs(rows[0] - highest) < 3 * size[0] / 128
    cut = int(fit.top * size[0] / fit.scaled[0])
    assert not known[: max(0, cut - 1)].any()
