"""The quantizer against its definition, written out with autograd, and against what a uniform grid must do."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from effcli.quantize.fake_quantization.quantizer import codes_of, fake_quantize, find_range, top_code


def by_definition(x, scale, zero, top):
    """MPQ-DM's form: straight-through rounding, clipping as two ReLUs."""
    rounded = x / scale + ((x / scale).round() - x / scale).detach()
    shifted = rounded + zero
    shifted = shifted + torch.relu(0 - shifted)
    shifted = shifted - torch.relu(shifted - top)
    return (shifted - zero) * scale


def case(seed=0, shape=(5, 40)):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    scale = 0.2 + torch.rand((shape[0], 1), generator=generator, dtype=torch.float64)
    zero = 2 * torch.rand((shape[0], 1), generator=generator, dtype=torch.float64)
    top = top_code(torch.tensor([1, 2, 3, 4, 8]))[:, None].double()
    return x, scale, zero, top


@pytest.mark.parametrize("per_row", [True, False])
def test_value_and_gradients_are_those_of_the_definition(per_row):
    x, scale, zero, top = case()
    if not per_row:
        scale, zero, top = scale[0], zero[0], top[1, 0]
    results = []
    for function in (fake_quantize, by_definition):
        leaves = [t.clone().requires_grad_() for t in (x, scale, zero)]
        out = function(*leaves, top)  # type: ignore[call-arg]
        (out * torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
        results.append([out.detach(), *(leaf.grad for leaf in leaves)])
    for ours, reference in zip(*results, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-10, atol=1e-10)
    assert all(gradient.any() for gradient in results[0][1:])


def test_gradient_of_x_is_one_inside_and_zero_outside():
    x = torch.tensor([-0.6, -0.1, 0.3, 2.9, 3.6], requires_grad=True)
    fake_quantize(x, torch.tensor(1.0), torch.tensor(0.0), torch.tensor(3.0)).sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 1, 0]


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 8), st.integers(0, 10_000))
def test_a_row_has_at_most_two_to_the_bits_values_and_is_its_own_image(bits, seed):
    x = torch.randn(3, 300, generator=torch.Generator().manual_seed(seed))
    top = top_code(bits)
    scale, zero = find_range(x, top)
    once = fake_quantize(x, scale[:, None], zero[:, None], top)
    assert all(row.unique().numel() <= 2**bits for row in once)
    torch.testing.assert_close(fake_quantize(once, scale[:, None], zero[:, None], top), once)


def test_max_covers_the_row_and_zero():
    x = torch.tensor([[1.0, 2.0, 4.0], [-3.0, -2.0, -1.0], [-1.0, 0.5, 2.0]])
    scale, zero = find_range(x, top_code(2), "max")
    assert scale.tolist() == [pytest.approx(4 / 3), 1.0, 1.0]
    assert zero.tolist() == [0, 3, 1]


def test_one_bit_as_the_released_code_starts_it():
    x = torch.tensor([[-1.0, -0.5, 0.2, 0.9]])
    scale, zero = find_range(x, top_code(1), "max")
    out = fake_quantize(x, scale[:, None], zero[:, None], top_code(1))
    torch.testing.assert_close(out, torch.tensor([[-1.9, 0.0, 0.0, 0.0]]))


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_mse_is_the_best_of_its_eighty_candidates(bits):
    x = torch.randn(4, 200, generator=torch.Generator().manual_seed(bits)) ** 3
    top = float(top_code(bits))
    scale, zero = find_range(x, top_code(bits))

    def error(row, d, z):
        q = torch.clamp(torch.round(row / d) + z, 0, top)
        return float(((q - z) * d - row).abs().pow(2.4).mean())

    for row, d, z in zip(x, scale, zero, strict=True):
        low, high = row.min(), row.max()
        candidates = []
        for i in range(80):
            r = 1 - 0.01 * i
            step = (high - low) * r / top
            candidates.append(error(row, step, torch.round(-low * r / step)))
        assert error(row, d, z) == pytest.approx(min(candidates), rel=1e-4)


def test_a_constant_row_gives_finite_numbers():
    for method in ("mse", "max"):
        scale, zero = find_range(torch.zeros(2, 5), top_code(4), method)
        assert scale.isfinite().all() and zero.isfinite().all() and (scale > 0).all()


def test_codes_are_whole_numbers_in_range():
    x, scale, zero, top = case()
    codes = codes_of(x, scale, zero.round(), top)
    assert torch.equal(codes, codes.round()) and (codes >= 0).all() and (codes <= top).all()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("per_row", [True, False])
def test_the_compiled_kernel_equals_the_definition(threads, layout, per_row):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 5, 40, 40, generator=generator).to(memory_format=layout)
    shape = (6, 1, 1, 1) if per_row else ()
    scale = 0.3 + torch.rand(shape, generator=generator)
    zero = torch.rand(shape, generator=generator)
    top = top_code(torch.tensor([1, 2, 3, 4, 8, 2])).view(shape) if per_row else top_code(2)
    weights = torch.randn(x.shape, generator=generator)
    results = []
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for function in (fake_quantize, by_definition):
            leaves = [t.clone(memory_format=torch.preserve_format).requires_grad_() for t in (x, scale, zero)]
            out = function(*leaves, top)  # type: ignore[call-arg]
            (out * weights).sum().backward()
            results.append([out.detach(), *(leaf.grad for leaf in leaves)])
    finally:
        torch.set_num_threads(before)
    for ours, theirs in zip(*results, strict=True):
        assert ours.shape == theirs.shape
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-3)
