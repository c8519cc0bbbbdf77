"""The compiled pass of the exposure head against its formulas, for all kinds of sizes and gains."""

from __future__ import annotations

import ast
import hashlib
from pathlib import Path

import pytest
import torch
from torch import Tensor

from effcli.enhance.network import exposure_cpu
from effcli.enhance.network.exposure_head import (
    N_MAPS,
    GuidedMaps,
    blurred,
    guide_of,
    render,
    render_fitted,
    spread,
)


def picture(height: int, width: int, *, seed: int = 0) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed)) ** 3


def fitted_maps(height: int, width: int) -> GuidedMaps:
    drawn = torch.Generator().manual_seed(1)
    slope, offset = torch.randn(2, 1, N_MAPS, height, width, generator=drawn)
    return GuidedMaps(slope, 2 * offset)


def by_formulas(x: Tensor, log_gain: Tensor, fitted: GuidedMaps) -> Tensor:
    scales = blurred(x)
    return render(scales, log_gain, spread(fitted, guide_of(scales, log_gain)))


@pytest.mark.parametrize("log_gain", [-0.7, 0.0, 1.4, 5.0])
@pytest.mark.parametrize("size", [(4, 4), (13, 17), (330, 17), (64, 256), (65, 530), (150, 261)])
def test_the_compiled_pass_is_the_formulas(size: tuple[int, int], log_gain: float) -> None:
    x, gain = picture(*size), torch.tensor([log_gain])
    fitted = fitted_maps(-(-size[0] // 7), -(-size[1] // 7))
    torch.testing.assert_close(
        render_fitted(x, gain, fitted), by_formulas(x, gain, fitted), atol=3e-4, rtol=0
    )
    error = (render_fitted(x, gain, fitted) - by_formulas(x, gain, fitted)).abs().mean()
    assert float(error) < 1e-6


def test_the_result_has_the_strides_of_the_picture_and_does_not_depend_on_them() -> None:
    x, gain, fitted = picture(70, 90), torch.tensor([1.0]), fitted_maps(9, 9)
    interleaved = x.contiguous(memory_format=torch.channels_last)
    result = render_fitted(interleaved, gain, fitted)
    assert result.stride() == interleaved.stride()
    assert torch.equal(result, render_fitted(x, gain, fitted))


def test_each_picture_of_a_batch_has_its_own_gain_and_maps() -> None:
    both = torch.cat((picture(20, 30), picture(20, 30, seed=5)))
    maps = [fitted_maps(5, 8), GuidedMaps(*(-part for part in fitted_maps(5, 8)))]
    gains = torch.tensor([0.5, 2.0])
    together = render_fitted(both, gains, GuidedMaps(*(torch.cat(part) for part in zip(*maps, strict=True))))
    for k in range(2):
        assert torch.equal(together[k : k + 1], render_fitted(both[k : k + 1], gains[k : k + 1], maps[k]))


def test_grey_stays_grey_and_black_stays_black_bit_for_bit() -> None:
    fitted, gain = fitted_maps(20, 30), torch.tensor([2.0])
    grey = picture(80, 300)[:, :1].repeat(1, 3, 1, 1)
    result = render_fitted(grey, gain, fitted)
    assert torch.equal(result[:, 0], result[:, 1]) and torch.equal(result[:, 0], result[:, 2])
    assert not render_fitted(torch.zeros(1, 3, 80, 300), gain, fitted).any()


def test_what_is_not_a_number_is_not_hidden() -> None:
    x, gain, fitted = picture(50, 50), torch.tensor([1.0]), fitted_maps(5, 5)
    x[0, 1, 30, 30] = float("nan")
    assert render_fitted(x, gain, fitted)[0, 1, 30, 30].isnan()
    fitted.offset[0, 3, 2, 2] = float("nan")
    assert render_fitted(picture(50, 50), gain, fitted)[0, :, 25, 25].isnan().all()


@torch.no_grad()
def test_the_number_of_threads_changes_nothing() -> None:
    x, gain, fitted = picture(200, 40), torch.tensor([1.0]), fitted_maps(9, 9)
    n_threads = torch.get_num_threads()
    results = []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            results.append(render_fitted(x, gain, fitted))
    finally:
        torch.set_num_threads(n_threads)
    assert torch.equal(*results)


def test_a_change_of_the_constants_changes_the_kernels_file() -> None:
    """numba takes a kernel from its cache on disk while the content of that file stays the same."""
    tree = ast.parse(Path(exposure_cpu.__file__).read_text(encoding="utf-8"))
    imports = [one for one in tree.body if isinstance(one, ast.ImportFrom)]
    names = next(one.names for one in imports if str(one.module).endswith("exposure_head"))
    values = [getattr(exposure_cpu, one.name) for one in names]
    assert hashlib.sha256(repr(values).encode()).hexdigest()[:12] == exposure_cpu.CONSTANTS_SHA256
