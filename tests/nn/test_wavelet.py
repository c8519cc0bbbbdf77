"""Haar against its four formulas, its inverse and closed forms; the other wavelets against PyWavelets."""

import pytest
import pywt
import torch

from effcli.nn.wavelet import dwt, haar_dwt, haar_iwt, iwt
from effcli.nn.wavelet_names import reach_of

NAMES = ["haar", "db1", "db2", "db4", "sym4", "coif1", "bior1.3", "bior2.2", "rbio3.1", "dmey"]


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


def pywt_bands(x: torch.Tensor, name: str) -> torch.Tensor:
    """LL, HL, LH and HH of PyWavelets, stacked on a new first axis."""
    ll, (ch, cv, cd) = pywt.dwt2(x.numpy(), name, mode="periodization")
    return torch.stack([torch.from_numpy(band) for band in (ll, -cv, -ch, cd)])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(2, 2), (4, 18), (32, 6)])  # shorter and longer than the filters
def test_all_four_bands_and_the_inverse_are_those_of_pywavelets(name, size):
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    ll, details = dwt(x, name)
    expected = pywt_bands(x, name)
    torch.testing.assert_close(ll, expected[0])
    torch.testing.assert_close(details, expected[1:].flatten(0, 1))
    other_ll, other = torch.randn_like(ll), torch.randn_like(details)
    hl, lh, hh = other.chunk(3)
    bands = (other_ll.numpy(), (-lh.numpy(), -hl.numpy(), hh.numpy()))
    back = torch.from_numpy(pywt.idwt2(bands, name, mode="periodization"))
    torch.testing.assert_close(iwt(other_ll, other, name), back)


@pytest.mark.parametrize("name", ["haar", "db2", "bior2.2"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_memory_format_is_kept(name, memory_format):
    x = torch.randn(2, 3, 4, 18).contiguous(memory_format=memory_format)
    ll, details = dwt(x, name)
    torch.testing.assert_close((ll, details), dwt(x.contiguous(), name))
    for result in (ll, details, iwt(ll, details, name)):
        assert result.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "dmey"])  # its filters are approximate
def test_every_wavelet_is_inverted_in_float32(name):
    x = torch.randn(2, 3, 12, 20)
    torch.testing.assert_close(iwt(*dwt(x, name), name), x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["db2", "sym4", "bior2.2", "rbio3.1"])
def test_gradients_of_every_family_are_exact(name):
    x = torch.randn(1, 2, 4, 6, dtype=torch.float64, requires_grad=True)
    ll, details = (band.detach().requires_grad_() for band in dwt(x, name))
    assert torch.autograd.gradcheck(lambda x: dwt(x, name), (x,))
    assert torch.autograd.gradcheck(lambda ll, details: iwt(ll, details, name), (ll, details))


def test_haar_by_name_has_the_bits_of_the_fast_path_and_db1_its_values():
    x = torch.randn(2, 3, 8, 6)
    for ours, fast, filtered in zip(dwt(x), haar_dwt(x), dwt(x, "db1"), strict=True):
        assert torch.equal(ours, fast)
        torch.testing.assert_close(filtered, fast)
    bands = haar_dwt(x)
    assert torch.equal(iwt(*bands), haar_iwt(*bands))


def test_half_precision_is_kept_and_summed_in_float32():
    x = torch.randn(1, 2, 8, 8, dtype=torch.bfloat16, requires_grad=True)
    ll, details = dwt(x, "db4")
    exact_ll, exact = dwt(x.detach().float(), "db4")
    assert torch.equal(ll, exact_ll.bfloat16()) and torch.equal(details, exact.bfloat16())
    back = iwt(ll.float(), details, "db4")
    assert back.dtype == torch.float32
    back.sum().backward()
    assert x.grad is not None and x.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["db2", "bior2.2", "sym4", "db7"])
def test_a_cell_depends_on_the_rows_within_reach_alone(name):
    reach, n = reach_of(name), 64
    x, changed = torch.randn(2, 1, 1, n, 4, dtype=torch.float64).unbind()
    changed[..., 20 - reach : 40 + reach, :] = x[..., 20 - reach : 40 + reach, :]
    for ours, theirs in zip(dwt(x, name), dwt(changed, name), strict=True):
        assert torch.equal(ours[..., 10:20, :], theirs[..., 10:20, :])
    (ll, details), (other_ll, other) = (dwt(one, name) for one in (x, torch.randn_like(x)))
    rows = slice(10 - reach // 2, 20 + reach // 2)
    other_ll[..., rows, :], other[..., rows, :] = ll[..., rows, :], details[..., rows, :]
    ours, theirs = iwt(ll, details, name), iwt(other_ll, other, name)
    assert torch.equal(ours[..., 20:40, :], theirs[..., 20:40, :])


def test_odd_sides_and_unknown_names_are_refused():
    with pytest.raises(ValueError, match="db2 transform needs even sides, not 4x5"):
        dwt(torch.zeros(1, 1, 4, 5), "db2")
    for call in (
        lambda: dwt(torch.zeros(1, 1, 4, 4), "db0"),
        lambda: iwt(*dwt(torch.zeros(1, 1, 4, 4)), "db0"),
    ):
        with pytest.raises(ValueError, match="unknown wavelet 'db0'"):
            call()
