"""Maps of a small form spread to the full size."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from effcli.enhance.network import fast_detail
from effcli.enhance.network.exposure_head import N_MAPS, apply_maps, blurred
from effcli.enhance.network.fast_detail import Window, render_from_small, resampled, tiles

GAIN = torch.tensor([1.2])


@pytest.fixture(autouse=True)
def _small_pictures_count_as_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_detail, "SMALL_PIXELS", 48 * 64)
    monkeypatch.setattr(fast_detail, "_TILE", 64)
    monkeypatch.setattr(fast_detail, "_TILE_BORDER", 16)


def picture() -> Tensor:
    """[1, 3, 144, 192]: squares and slopes, dark."""
    rows, columns = torch.meshgrid(torch.arange(144.0), torch.arange(192.0), indexing="ij")
    squares = ((rows // 48 + columns // 48) % 2) * 0.2
    return torch.stack((squares + columns / 1920, squares + rows / 1440, 0.1 + squares / 2))[None]


def says(**maps: float) -> Tensor:
    """Values of the maps, by their numbers."""
    values = torch.zeros(1, N_MAPS, 1, 1)
    for name, value in maps.items():
        values[0, int(name[1:])] = value
    return values


def test_a_window_of_resampled_maps_is_that_of_interpolate() -> None:
    maps = torch.rand(1, 4, 9, 7)
    whole = F.interpolate(maps, (31, 40), mode="bilinear", align_corners=False)
    window = Window(5, 20, 11, 40)
    torch.testing.assert_close(resampled(maps, window, (31, 40)), window.of(whole), atol=1e-5, rtol=0)


def test_maps_that_are_the_same_at_any_size_give_the_result_of_full_detail() -> None:
    x = picture()

    def say(piece: Tensor) -> Tensor:
        return says(_1=1.0, _5=2.0, _8=0.4, _10=0.5) * piece.new_ones(piece[:, :1].shape)

    fast = render_from_small(x, GAIN, say)
    torch.testing.assert_close(fast, apply_maps(x, GAIN, say(x)), atol=2e-4, rtol=0)


def test_the_gain_of_bright_parts_has_the_edges_of_the_full_picture() -> None:
    x = picture()

    def say(piece: Tensor) -> Tensor:
        bright = (blurred(piece)[1].amax(1, keepdim=True) > 0.2).float()
        return says(_8=0.6) * bright

    fast, full = render_from_small(x, GAIN, say), apply_maps(x, GAIN, say(x))
    assert float((fast - full).abs().mean()) < 0.006
    assert float((fast - full).square().mean().sqrt()) < 0.012


def test_the_weights_of_the_scales_are_those_of_tiles_of_the_full_picture() -> None:
    grain = torch.randn(1, 3, 144, 192, generator=torch.Generator().manual_seed(0))
    x = (picture() + 0.02 * grain).clamp(0, 1)

    def say(piece: Tensor) -> Tensor:  # a wide average where there is noise, which the small form has lost
        is_noisy = piece.shape[-2:] != fast_detail.small_form(x).shape[-2:]
        return says(_3=10.0 * is_noisy, _7=10.0 * is_noisy) * piece.new_ones(piece[:, :1].shape)

    fast = render_from_small(x, GAIN, say)
    torch.testing.assert_close(
        fast, apply_maps(x, GAIN, says(_3=10.0, _7=10.0).expand(-1, -1, 144, 192)), atol=0.01, rtol=0
    )


@pytest.mark.parametrize("size", [(24, 400), (400, 24), (330, 17)])
def test_narrow_pictures(size: tuple[int, int]) -> None:
    x = torch.rand(1, 3, *size) * 0.3
    result = render_from_small(x, GAIN, lambda piece: says(_8=1.0) * piece[:, :1])
    assert result.shape == x.shape
    assert 0 <= float(result.min()) <= float(result.max()) <= 1
    assert all(tile.bottom <= size[0] and tile.right <= size[1] for tile in tiles(*size))
