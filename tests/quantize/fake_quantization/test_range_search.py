"""The compiled search against the full one: every shrinkage tried on the whole row."""

import pytest
import torch

from effcli.quantize.fake_quantization.quantizer import SMALLEST_SCALE, codes_of, find_range, top_code


def full_search(x, top):
    """Ranges, and the error of each, as find_range defines them."""
    top = top.expand(len(x))
    low, high = x.amin(1), x.amax(1)
    best = torch.full(low.shape, torch.inf, dtype=torch.float64)
    best_scale, best_zero = torch.ones_like(low), torch.zeros_like(low)
    for i in range(80):
        scale = ((high - low) * (1 - 0.01 * i) / top).clamp(min=SMALLEST_SCALE)
        zero = (-low * (1 - 0.01 * i) / scale).round()
        error = error_of(x, scale, zero, top)
        better = error < best
        best = torch.where(better, error, best)
        best_scale, best_zero = torch.where(better, scale, best_scale), torch.where(better, zero, best_zero)
    return best_scale, best_zero, best


def error_of(x, scale, zero, top):
    codes = codes_of(x, scale[:, None], zero[:, None], top[:, None])
    return ((codes - zero[:, None]) * scale[:, None] - x).double().abs().pow(2.4).mean(1)


GENERATOR = torch.Generator().manual_seed(0)
OUTLIERS = 1 + 20 * (torch.rand(8, 2304, generator=GENERATOR) < 0.001)
ROWS = {
    "normal": torch.randn(8, 2304, generator=GENERATOR),
    "uniform": torch.rand(8, 1000, generator=GENERATOR),
    "outliers": torch.randn(8, 2304, generator=GENERATOR) * OUTLIERS,
    "short": torch.randn(20, 9, generator=GENERATOR),
    "one": torch.randn(5, 1, generator=GENERATOR),
    "constant": torch.full((2, 50), 3.7),
    "zero": torch.zeros(2, 50),
    "far from zero": torch.randn(4, 500, generator=GENERATOR) + 100,
    "tiny": torch.randn(4, 100, generator=GENERATOR) * 1e-6,
}


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("name", ROWS)
def test_the_search_finds_the_least_error(name, bits):
    x, top = ROWS[name], top_code(bits).expand(len(ROWS[name]))
    scale, zero = find_range(x, top)
    wanted_scale, wanted_zero, least = full_search(x, top)
    assert bool((error_of(x, scale, zero, top) <= least * (1 + 1e-3)).all())
    assert torch.equal(scale, wanted_scale)
    assert torch.equal(zero, wanted_zero)


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_rows_of_any_size_have_the_same_shrinkage(size):
    x = ROWS["normal"][:3]
    scale, zero = find_range(x, top_code(3))
    far_scale, far_zero = find_range(x * size, top_code(3))
    if size > 1:
        torch.testing.assert_close(far_scale / size, scale)
        assert torch.equal(far_zero, zero)
    else:
        assert bool((far_scale == SMALLEST_SCALE).all())


def test_each_row_may_have_a_width_of_its_own_whatever_the_threads():
    x = torch.randn(12, 2000, generator=torch.Generator().manual_seed(1))
    top = top_code(torch.tensor([2, 3, 4] * 4))
    alone = [find_range(row[None], top[i : i + 1])[0] for i, row in enumerate(x)]
    before = torch.get_num_threads()
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            assert torch.equal(find_range(x, top)[0], torch.cat(alone))
    finally:
        torch.set_num_threads(before)
