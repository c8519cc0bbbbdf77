"""OMQ and the error-driven split: closed forms, brute force, and the synthetic experiment of docs/methods/mpq-dm.md."""

import itertools

import pytest
import torch

from effcli.quantize.allocation import (
    allocate_by_error,
    allocate_by_kurtosis,
    kurtosis,
    raise_tenth,
    smoothing,
    split_by_rank,
    total_error,
    uniform_bits,
)
from effcli.quantize.fake_quantization.quantizer import fake_quantize, find_range, top_code


def test_kurtosis_of_known_distributions():
    generator = torch.Generator().manual_seed(0)
    n = 1_000_000
    normal = torch.randn(1, n, generator=generator, dtype=torch.float64)
    uniform = torch.rand(1, n, generator=generator, dtype=torch.float64)
    exponential = -torch.rand(1, n, generator=generator, dtype=torch.float64).log()
    sign = torch.randint(0, 2, (1, n), generator=generator) * 2 - 1
    assert float(kurtosis(normal)) == pytest.approx(3, abs=0.02)
    assert float(kurtosis(uniform)) == pytest.approx(1.8, abs=0.02)
    assert float(kurtosis(exponential * sign)) == pytest.approx(6, abs=0.1)
    assert float(kurtosis(torch.tensor([[1.0] + [0.0] * 8]))) == pytest.approx(5.63, abs=0.005)
    assert float(kurtosis(torch.ones(1, 9))) == 0


@pytest.mark.parametrize("n_rows", [7, 10, 32, 200])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_the_mean_is_exactly_the_target(n_rows, bits):
    ranking = torch.randn(n_rows, generator=torch.Generator().manual_seed(n_rows))
    for n_moved in range(0, n_rows // 2 + 1):
        row_bits = split_by_rank(ranking, bits, n_moved)
        assert int(row_bits.sum()) == n_rows * bits
        assert int((row_bits == bits + 1).sum()) == int((row_bits == bits - 1).sum()) == n_moved
        if n_moved:
            assert ranking[row_bits == bits + 1].min() >= ranking[row_bits != bits + 1].max()
            assert ranking[row_bits == bits - 1].max() <= ranking[row_bits != bits - 1].min()


def errors_of(seed, n_rows, bits):
    draws = (
        torch.rand(3, n_rows, generator=torch.Generator().manual_seed(seed)).sort(0, descending=True).values
    )
    return {bits - 1: draws[0], bits: draws[1], bits + 1: draws[2]}


@pytest.mark.parametrize("seed", range(5))
def test_the_split_is_never_worse_than_none(seed):
    errors = errors_of(seed, 40, 2)
    ranking = torch.randn(40, generator=torch.Generator().manual_seed(seed))
    best = total_error(allocate_by_kurtosis(ranking, errors, 2), errors)
    tried = [total_error(split_by_rank(ranking, 2, 4 * g), errors) for g in range(6)]
    assert best == pytest.approx(min(tried))
    assert best <= total_error(uniform_bits(40, 2), errors)
    assert allocate_by_kurtosis(ranking, errors, 2, groups=(0,)).tolist() == [2] * 40


def test_fewer_than_ten_rows_are_not_split():
    errors = errors_of(0, 9, 2)
    assert allocate_by_kurtosis(torch.arange(9.0), errors, 2).tolist() == [2] * 9


@pytest.mark.parametrize("seed", range(20))
def test_error_driven_is_the_best_split_of_equal_mean(seed):
    """Quantization errors fall by less with each bit, and then pairing greedily is optimal: checked exhaustively."""
    errors = errors_of(seed, 6, 3)
    middle = (errors[2] + errors[4]) / 2
    errors[3] = torch.minimum(errors[3], middle)
    found = total_error(allocate_by_error(errors, 3), errors)
    best = min(
        total_error(torch.tensor(bits, dtype=torch.uint8), errors)
        for bits in itertools.product((2, 3, 4), repeat=6)
        if sum(bits) == 18
    )
    assert found == pytest.approx(best, rel=1e-6)


def test_plus_raises_a_tenth_and_lowers_none():
    row_bits = raise_tenth(torch.arange(32.0), 2)
    assert row_bits.tolist() == [2] * 29 + [3] * 3


def test_smoothing_is_exact_and_leaves_dead_channels_alone():
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(6, 4, 3, 3, generator=generator)
    x = torch.randn(2, 4, 9, 9, generator=generator) * torch.tensor([0.01, 1, 50, 0])[:, None, None]
    delta = smoothing(weight.abs().amax((0, 2, 3)), x.abs().amax((0, 2, 3)))
    assert delta[3] == 1
    view = delta[:, None, None]
    plain = torch.nn.functional.conv2d(x, weight, padding=1, stride=2)
    smoothed = torch.nn.functional.conv2d(x * view, weight / view, padding=1, stride=2)
    torch.testing.assert_close(smoothed, plain, rtol=1e-5, atol=1e-4)
    maxima = (x * view).abs().amax((0, 2, 3))[:3] / (weight / view).abs().amax((0, 2, 3))[:3]
    torch.testing.assert_close(maxima, torch.ones(3))  # both share the range evenly


def relative_errors(case, bits, seed):
    """Squared output error over that of uniform bits; docs/methods/mpq-dm.md, Synthetic allocation experiment."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(512, 288, generator=g) * torch.exp(2 * torch.rand(288, generator=g))
    weight = 0.05 * torch.randn(200, 288, generator=g)
    if case == "outlier rows":
        for row in torch.randperm(200, generator=g)[:20]:
            weight[row, torch.randperm(288, generator=g)[:3]] *= 20
    else:
        weight *= torch.exp(1.5 * (2 * torch.rand(200, 1, generator=g) - 1))
    delta = smoothing(weight.abs().amax(0), x.abs().amax(0))
    errors = {}
    for width in (bits - 1, bits, bits + 1):
        scale, zero = find_range(weight / delta, top_code(width))
        quantized = fake_quantize(weight / delta, scale[:, None], zero[:, None], top_code(width))
        errors[width] = ((x * delta) @ quantized.T - x @ weight.T).square().sum(0)
    uniform = total_error(uniform_bits(200, bits), errors)
    ranking = kurtosis(weight / delta)
    splits = {
        "random": split_by_rank(torch.randn(200, generator=g), bits, 20),
        "kurtosis": allocate_by_kurtosis(ranking, errors, bits),
        "error": allocate_by_error(errors, bits),
    }
    return {name: total_error(split, errors) / uniform for name, split in splits.items()}


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_kurtosis_finds_rows_with_outliers(bits):
    rows = [relative_errors("outlier rows", bits, seed) for seed in range(3)]
    mean = {name: sum(row[name] for row in rows) / 3 for name in rows[0]}
    assert mean["kurtosis"] <= 0.93
    assert mean["random"] > 1.0
    assert mean["error"] <= mean["kurtosis"]


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_kurtosis_sees_no_scale_and_the_error_does(bits):
    found = relative_errors("row scale", bits, 0)
    assert found["kurtosis"] == 1.0
    assert found["error"] < 0.6
