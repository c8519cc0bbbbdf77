"""Maps fitted to the picture: the guided filter against its definition, smooth where the picture is, exact on ramps."""

from __future__ import annotations

import pytest
import torch

from effcli.enhance.network.exposure_head import (
    CELL,
    N_MAPS,
    apply_maps,
    blurred,
    fit_maps,
    guide_of,
    spread,
)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_map_is_the_least_squares_fit_in_its_window() -> None:
    guide = torch.rand(1, 1, 36, 52, generator=torch.Generator().manual_seed(1))
    maps = noise(1, 2, 36, 52)
    fitted = fit_maps(maps, guide)
    cells, small = (torch.nn.functional.avg_pool2d(z, CELL)[0] for z in (guide, maps))
    slopes = torch.zeros(2, 9, 13)
    for row in range(9):
        for column in range(13):
            rows, columns = (
                torch.arange(at - 2, at + 3).clamp(0, end - 1) for at, end in ((row, 9), (column, 13))
            )
            g = cells[0][rows][:, columns].flatten()
            for k in range(2):
                m = small[k][rows][:, columns].flatten()
                covariance = (g * m).mean() - g.mean() * m.mean()
                slopes[k, row, column] = covariance / (g.var(unbiased=False) + 2.5e-3)
    expected = slopes[:, 2:7, 4:9].mean((1, 2))  # the window of cell (4, 6)
    assert torch.allclose(fitted.slope[0, :, 4, 6], expected, atol=1e-5)


def test_maps_of_a_flat_picture_are_its_means() -> None:
    guide = torch.full((1, 1, 64, 64), 0.3)
    maps = 2.0 + 0.5 * noise(1, 3, 64, 64)
    spread_maps = spread(fit_maps(maps, guide), guide)
    assert float(spread_maps.std()) < 0.05
    assert float((spread_maps - 2).abs().max()) < 0.15


def test_an_edge_of_the_picture_is_an_edge_of_its_maps() -> None:
    guide = torch.full((1, 1, 64, 64), 0.1)
    guide[..., 32:] = 0.9
    maps = torch.where(guide > 0.5, 1.0, -1.0) + 0.3 * noise(1, 1, 64, 64)
    spread_maps = spread(fit_maps(maps, guide), guide)[0, 0]
    assert float(spread_maps[:, 31].mean()) < -0.75 and float(spread_maps[:, 32].mean()) > 0.75


@pytest.mark.parametrize("top", [0.03, 0.12, 0.6])
def test_a_ramp_stays_monotonic_whatever_the_rounding_of_the_maps(top: float) -> None:
    ramp = torch.linspace(0, top, 512)[None, None, None].expand(1, 3, 64, -1).contiguous()
    maps = 0.02 * noise(1, N_MAPS, 64, 512)
    bright = apply_maps(ramp, torch.tensor([1.5]), maps)
    assert float(bright.diff(dim=-1)[..., 8:-8].min()) > 0


def test_maps_of_a_smaller_picture_serve_the_larger_one() -> None:
    small = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(2))
    small, large = (
        torch.nn.functional.interpolate(small, size, mode="bicubic").clamp(0, 1)
        for size in ((64, 96), (256, 384))
    )
    log_gain = torch.tensor([1.0])
    maps = torch.nn.functional.interpolate(noise(1, N_MAPS, 4, 6), (64, 96), mode="bicubic")
    small_guide, large_guide = (guide_of(blurred(x), log_gain) for x in (small, large))
    fitted = fit_maps(maps, small_guide)
    by_size = [spread(fitted, guide) for guide in (small_guide, large_guide)]
    brought = torch.nn.functional.interpolate(by_size[1], (64, 96), mode="area")
    assert float((brought - by_size[0]).abs().mean()) < 0.02
