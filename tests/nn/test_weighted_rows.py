"""Trilinear samples are those of ``grid_sample``, and so are their gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from effcli.nn.weighted_rows import corners_of, sample


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("channels", [3, 16])
def test_as_grid_sample(align_corners: bool, channels: int) -> None:
    torch.manual_seed(0)
    volume = torch.randn(1, channels, 4, 5, 6, requires_grad=True)
    where = torch.rand(1, 7, 8, 9, 3) * 3 - 1.5  # also beyond the edges
    slow = F.grid_sample(volume, where, align_corners=align_corners)
    weight = torch.randn_like(slow)
    (expected,) = torch.autograd.grad((slow * weight).sum(), volume)
    corners = corners_of(where, (4, 5, 6), align_corners=align_corners)
    fast = sample(volume[0].permute(1, 2, 3, 0).flatten(0, 2), corners)
    fast = fast.reshape(7, 8, 9, channels).permute(3, 0, 1, 2)[None]
    torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-5)
    (found,) = torch.autograd.grad((fast * weight).sum(), volume)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_points_that_are_not_seen_are_zero() -> None:
    seen = torch.tensor([True, False])
    corners = corners_of(torch.zeros(2, 3), (3, 3, 3), align_corners=True, seen=seen)
    found = sample(torch.ones(27, 2), corners)
    torch.testing.assert_close(found, torch.tensor([[1.0, 1.0], [0.0, 0.0]]))
