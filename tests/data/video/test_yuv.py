from __future__ import annotations

import numpy as np
import pytest
import torch

from effcli.data.video.yuv import YuvLayout, from_rgb, luma_weights_of, to_rgb


@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize("is_full", [False, True])
def test_black_white_and_red_have_the_samples_of_the_standard(bits: int, is_full: bool) -> None:
    layout = YuvLayout((1, 1), bits, is_full, (0.2126, 0.0722))
    colours = torch.tensor([[0.0, 0, 0], [1, 1, 1], [1, 0, 0]]).T.reshape(1, 3, 1, 3)
    luma, blue, red = (plane[0].tolist() for plane in from_rgb(colours, layout))
    unit, top, middle = 1 << (bits - 8), (1 << bits) - 1, 1 << (bits - 1)
    black, white = (0, top) if is_full else (16 * unit, 235 * unit)
    assert luma == [black, white, round(black + 0.2126 * (white - black))]
    assert (blue[:2], red[:2]) == ([middle, middle], [middle, middle])
    assert red[2] == pytest.approx(min(top, middle + 0.5 * (top if is_full else 224 * unit)), abs=1)


@pytest.mark.parametrize("weights", [(0.2126, 0.0722), (0.299, 0.114), (0.2627, 0.0593)])
def test_colours_come_back(weights: tuple[float, float]) -> None:
    x = torch.rand(1, 3, 6, 8, generator=torch.Generator().manual_seed(0))
    for is_full in (False, True):
        layout = YuvLayout((1, 1), 16, is_full, weights)
        assert torch.allclose(to_rgb(from_rgb(x, layout), layout), x, atol=1e-4)


@pytest.mark.parametrize("cell", [(2, 2), (1, 2)])
@pytest.mark.parametrize("size", [(6, 8), (5, 7)])
def test_subsampled_planes_have_the_size_of_cells_and_keep_plain_colours(
    cell: tuple[int, int], size: tuple[int, int]
) -> None:
    layout = YuvLayout(cell, 8, False)
    x = torch.tensor([0.2, 0.5, 0.3]).view(1, 3, 1, 1).expand(-1, -1, *size)
    planes = from_rgb(x, layout)
    assert planes[1].shape == (-(-size[0] // cell[0]), -(-size[1] // cell[1]))
    assert torch.allclose(to_rgb(planes, layout), x, atol=0.01)


def test_grey_has_one_plane_and_equal_channels() -> None:
    layout = YuvLayout(None, 8, True)
    plane = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    x = to_rgb([plane], layout)
    assert torch.equal(x[:, 0], x[:, 2])
    assert np.array_equal(from_rgb(x, layout)[0], plane)


def test_files_without_a_matrix_have_that_of_their_size_and_unknown_ones_none() -> None:
    assert luma_weights_of(2, 720, 576) == luma_weights_of(6, 8, 8)
    assert luma_weights_of(2, 1920, 1080) == luma_weights_of(1, 8, 8)
    assert luma_weights_of(14, 8, 8) is None
