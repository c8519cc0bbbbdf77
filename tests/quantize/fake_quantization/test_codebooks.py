"""Codebooks against a search of every split, and their gradients against the definition."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from effcli.quantize.fake_quantization.best_levels import best_levels
from effcli.quantize.fake_quantization.codebooks import (
    MIDDLE,
    column_scale,
    find_codebook,
    nearest_places,
    quantize_by_table,
)
from effcli.quantize.fake_quantization.quantizer import find_range, top_code
from effcli.quantize.fake_quantization.row_formats import find_format, mixed

GENERATOR = torch.Generator().manual_seed(0)


def error_of(row: Tensor, weights: Tensor, levels: Tensor) -> float:
    away = (row[:, None] - levels[None]).double().square().amin(1)
    return float((weights * away).sum())


def least_error(row: Tensor, weights: Tensor, n_levels: int) -> float:
    """Over every way to cut the sorted row into cells, each with its mean as level."""
    order = row.argsort()
    x, w = row[order].double(), weights[order].double()
    least = float("inf")
    for cuts in itertools.combinations(range(1, len(x)), n_levels - 1):
        cells = list(itertools.pairwise((0, *cuts, len(x))))
        means = torch.stack([(w[a:b] * x[a:b]).sum() / w[a:b].sum() for a, b in cells])
        error = sum(
            float((w[a:b] * (x[a:b] - m).square()).sum()) for (a, b), m in zip(cells, means, strict=True)
        )
        least = min(least, error)
    return least


@pytest.mark.parametrize("n_levels", [1, 2, 3, 4])
@pytest.mark.parametrize("is_weighted", [False, True])
def test_levels_are_the_best_of_all(n_levels: int, is_weighted: bool) -> None:
    rows = torch.cat(
        [
            torch.randn(3, 11, generator=GENERATOR),
            torch.randn(2, 11, generator=GENERATOR) ** 3 + 50,
            torch.tensor([[1.0] * 9 + [2.0, 2.0]]),
        ]
    )
    weights = torch.rand(11, generator=GENERATOR) + 0.1 if is_weighted else torch.ones(11)
    found = best_levels(rows, weights, torch.full((len(rows),), n_levels))
    assert bool((found[:, 1:] >= found[:, :-1]).all())
    for row, levels in zip(rows, found, strict=True):
        assert error_of(row, weights, levels) <= least_error(row, weights, n_levels) * 1.0001 + 1e-9


def test_rows_may_have_fewer_levels_or_values_than_others() -> None:
    rows = torch.randn(3, 3, generator=GENERATOR)
    found = best_levels(rows, torch.ones(3), torch.tensor([2, 4, 1]))
    assert found.shape == (3, 4)
    torch.testing.assert_close(found[1, :3], rows[1].sort().values)
    assert found[0, 1] == found[0, 2] == found[0, 3]
    assert found[2].unique().numel() == 1


def test_levels_do_not_depend_on_the_number_of_threads() -> None:
    rows = torch.randn(20, 600, generator=GENERATOR)
    before = torch.get_num_threads()
    try:
        found = []
        for n in (1, 2):
            torch.set_num_threads(n)
            found.append(best_levels(rows, torch.ones(600), torch.full((20,), 8)))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_a_codebook_is_closer_than_equal_steps(bits: int) -> None:
    rows = torch.randn(8, 576, generator=GENERATOR)
    affine, codebook = (
        find_format(rows, bits, codes, "mse").quantized(rows) for codes in ("affine", "codebook")
    )
    assert float((codebook - rows).square().sum()) < 0.95 * float((affine - rows).square().sum())
    levels = best_levels(rows, torch.ones(576), torch.full((8,), 2**bits))
    exact = sum(error_of(row, torch.ones(576), own) for row, own in zip(rows, levels, strict=True))
    assert float((codebook - rows).square().sum()) < 1.01 * exact  # entries have 8 bits


def test_columns_of_any_size_cost_no_levels() -> None:
    weight = torch.randn(16, 12, 3, 3, generator=GENERATOR)
    sizes = torch.linspace(0.1, 4, 12)
    weight *= sizes[:, None, None] * torch.logspace(-1, 1, 16)[:, None, None, None]
    scale = column_scale(weight)
    torch.testing.assert_close(scale / scale.mean(), sizes / sizes.mean(), rtol=0.25, atol=0)
    delta = scale[:, None, None]

    def error(found: Tensor) -> float:
        return float((found.view_as(weight) - weight).square().sum())

    plain = find_format(weight.flatten(1), 3, "codebook", "mse").quantized(weight.flatten(1))
    rows = (weight / delta).flatten(1)
    scaled = find_format(rows, 3, "codebook", "mse", scale.square()).quantized(rows).view_as(weight) * delta
    assert error(scaled) < 0.85 * error(plain)
    assert torch.equal(column_scale(torch.zeros(4, 3)), torch.ones(3))


def test_errors_are_weighed_by_input_channel() -> None:
    rows = torch.randn(4, 120, generator=GENERATOR)
    importance = torch.tensor([50.0, 1.0, 0.0])
    found = find_format(rows, 2, "codebook", "mse", importance).quantized(rows)
    plain = find_format(rows, 2, "codebook", "mse").quantized(rows)
    assert float((found - rows)[:, :40].square().sum()) < 0.95 * float((plain - rows)[:, :40].square().sum())


@pytest.mark.parametrize("value", [0.0, 3.7, -1e-6, 1e20])
def test_constant_rows_keep_their_value(value: float) -> None:
    rows = torch.full((2, 40), value)
    found = find_format(rows, 2, "codebook", "mse").quantized(rows)
    torch.testing.assert_close(found, rows, rtol=1e-5, atol=1e-8)


def test_rows_are_mixed_over_widths() -> None:
    rows = torch.randn(4, 100, generator=GENERATOR)
    formats = {bits: find_format(rows, bits, "codebook", "mse") for bits in (1, 2, 3)}
    row_bits = torch.tensor([2, 1, 2, 1], dtype=torch.uint8)
    chosen = mixed(formats, row_bits)
    assert chosen.table is not None
    assert chosen.table.shape == (4, 4)
    codes = chosen.codes(rows)
    for i, bits in enumerate(row_bits.tolist()):
        assert int(codes[i].max()) < 2**bits
        assert torch.equal(chosen.quantized(rows)[i], formats[bits].quantized(rows)[i])
    affine = {bits: find_format(rows, bits, "affine", "mse") for bits in (1, 2, 3)}
    scale, zero = find_range(rows, top_code(row_bits))
    assert torch.equal(mixed(affine, row_bits).scale, scale)
    assert torch.equal(mixed(affine, row_bits).zero, zero)


def test_gradients_are_straight_through() -> None:
    table, scale = find_codebook(torch.randn(3, 200, generator=GENERATOR), 2)
    top = torch.full((3,), 3.0)
    x = (torch.randn(3, 50, generator=GENERATOR) * 2).requires_grad_()
    scale.requires_grad_()
    out = quantize_by_table(x, scale, table, top)
    gradient = torch.randn(out.shape, generator=GENERATOR)
    out.backward(gradient)
    levels = table.float() - MIDDLE
    chosen = levels.gather(1, nearest_places(x.detach(), scale.detach(), table, top))
    torch.testing.assert_close(out, chosen * scale[:, None])
    half_cell = (levels[:, 3] - levels[:, 0]) / 6
    steps = x.detach() / scale.detach()[:, None]
    inside = (steps > (levels[:, 0] - half_cell)[:, None]) & (steps < (levels[:, 3] + half_cell)[:, None])
    assert 0 < int(inside.sum()) < inside.numel()
    assert x.grad is not None
    assert scale.grad is not None
    assert torch.equal(x.grad, torch.where(inside, gradient, 0))
    torch.testing.assert_close(scale.grad, (gradient * (chosen - steps * inside)).sum(1))
