"""The Haar transform against its four formulas, its inverse and closed forms."""

import pytest
import torch

from effcli.nn.wavelet import haar_dwt, haar_iwt


def slow_bands(x: torch.Tensor) -> torch.Tensor:
    """LL, HL, LH, HH stacked on a new first axis, cell by cell from the definition."""
    b, c, h, w = x.shape
    bands = torch.empty(4, b, c, h // 2, w // 2, dtype=x.dtype)
    for i in range(h // 2):
        for j in range(w // 2):
            p, q = x[:, :, 2 * i, 2 * j], x[:, :, 2 * i + 1, 2 * j]
            r, s = x[:, :, 2 * i, 2 * j + 1], x[:, :, 2 * i + 1, 2 * j + 1]
            bands[0, :, :, i, j] = (p + q + r + s) / 2
            bands[1, :, :, i, j] = (-p - q + r + s) / 2
            bands[2, :, :, i, j] = (-p + q - r + s) / 2
            bands[3, :, :, i, j] = (p - q - r + s) / 2
    return bands


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_bands_follow_the_formulas(memory_format):
    x = torch.randn(2, 3, 6, 10).contiguous(memory_format=memory_format)
    ll, details = haar_dwt(x)
    expected = slow_bands(x)
    torch.testing.assert_close(ll, expected[0])
    torch.testing.assert_close(details, expected[1:].flatten(0, 1))
    assert ll.is_contiguous(memory_format=memory_format)
    assert details.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_inverse_and_energy(memory_format):
    x = torch.randn(2, 5, 8, 12).contiguous(memory_format=memory_format)
    ll, details = haar_dwt(x)
    back = haar_iwt(ll, details)
    assert (back - x).abs().max() < 1e-6
    assert back.is_contiguous(memory_format=memory_format)
    assert float(ll.square().sum() + details.square().sum()) == pytest.approx(
        float(x.square().sum()), rel=1e-5
    )


def test_constant_has_no_details():
    ll, details = haar_dwt(torch.full((1, 2, 4, 4), 0.3))
    torch.testing.assert_close(ll, torch.full_like(ll, 0.6))
    assert not details.any()


def test_horizontal_ramp_is_in_hl_alone():
    hl, lh, hh = haar_dwt(torch.arange(8.0).expand(1, 1, 4, 8))[1]
    torch.testing.assert_close(hl, torch.ones_like(hl))
    assert not lh.any() and not hh.any()


def test_gradients_are_exact():
    x = torch.randn(2, 2, 4, 6, dtype=torch.float64, requires_grad=True)
    ll, details = (band.detach().requires_grad_() for band in haar_dwt(x))
    assert torch.autograd.gradcheck(haar_dwt, (x,))
    assert torch.autograd.gradcheck(haar_iwt, (ll, details))


def test_dtype_is_kept_forward_and_backward():
    x = torch.randn(1, 2, 4, 4, dtype=torch.bfloat16, requires_grad=True)
    ll, details = haar_dwt(x)
    back = haar_iwt(ll, details)
    assert ll.dtype == details.dtype == back.dtype == torch.bfloat16
    assert haar_iwt(ll.float(), details).dtype == torch.float32
    haar_iwt(ll.float(), details).sum().backward()
    assert x.grad is not None and x.grad.dtype == torch.bfloat16


def test_odd_sides_are_refused():
    with pytest.raises(ValueError, match="even sides, not 4x5"):
        haar_dwt(torch.zeros(1, 1, 4, 5))
