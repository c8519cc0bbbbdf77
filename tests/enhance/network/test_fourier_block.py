"""The Fourier blocks: identity stacks, odd sizes, gradients where amplitude and phase are delicate."""

import pytest
import torch
from torch import nn

from effcli.enhance.network.fourier_block import (
    FourierAdjustmentBlock,
    FourierEnhancement,
    FourierProcess,
    half_spectrum,
)


def with_identity_stacks(block: FourierEnhancement) -> FourierEnhancement:
    block.amplitude, block.phase = nn.Identity(), nn.Identity()  # type: ignore[assignment]
    return block


@pytest.mark.parametrize("size", [(8, 8), (7, 5), (4, 9), (1, 6), (1, 1)])
def test_identity_stacks_leave_the_projection(size):
    block = with_identity_stacks(FourierEnhancement(4))
    v = torch.randn(2, 4, *size)
    torch.testing.assert_close(block(v), block.project(v) + v, rtol=1e-4, atol=1e-5)


def test_amplitude_and_phase_are_adjusted_apart():
    """Doubling the amplitude doubles the signal; adding pi to every phase negates it."""
    block = with_identity_stacks(FourierEnhancement(2))
    v = torch.randn(1, 2, 6, 6)
    projected = block.project(v)
    block.amplitude = nn.Conv2d(2, 2, 1, bias=False)  # type: ignore[assignment]
    block.amplitude.weight = nn.Parameter(2 * torch.eye(2).view(2, 2, 1, 1))
    torch.testing.assert_close(block(v), 2 * projected + v, rtol=1e-4, atol=1e-5)
    block.amplitude.weight = nn.Parameter(-torch.eye(2).view(2, 2, 1, 1))
    torch.testing.assert_close(block(v), -projected + v, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(9, 7), (1, 1), (300, 1200)])
def test_without_gradients_the_result_is_that_with_them(size):
    torch.manual_seed(0)
    block, v = FourierEnhancement(4), torch.randn(2, 4, *size)
    with_gradients = block(v.clone()).detach()
    with torch.no_grad():
        torch.testing.assert_close(block(v), with_gradients, rtol=1e-4, atol=1e-4)


def test_process_block_and_parameter_count():
    process = FourierProcess(3)
    v = torch.randn(1, 3, 5, 6)
    torch.testing.assert_close(process(v), process.project(process.enhance(v)) + v)
    assert sum(p.numel() for p in FourierAdjustmentBlock(128).parameters()) == 1_695_744


def test_stage_wiring():
    """With every process block the identity, what remains is the 1x1 convolutions in their places."""
    block = FourierAdjustmentBlock(2)
    for name, module in block.named_modules():
        if isinstance(module, FourierProcess):
            block.set_submodule(name, nn.Identity())
    x = torch.randn(1, 2, 4, 4)
    x0 = block.entry(x)
    x4 = block.merge_2.project(torch.cat((x0, x0), 1))
    x5 = block.merge_1.project(torch.cat((x0, x4), 1))
    torch.testing.assert_close(block(x), block.merge_0.project(torch.cat((x0, x5), 1)))


def test_gradients_with_negative_amplitude():
    torch.manual_seed(0)
    block = FourierEnhancement(2).double()
    block.amplitude[2].bias.data.fill_(-20.0)
    v = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    assert (block.amplitude(torch.fft.rfft2(block.project(v)).abs()) < 0).any()
    assert torch.autograd.gradcheck(block, (v,), atol=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.7])
def test_gradients_of_constant_maps_are_finite(value):
    block = FourierAdjustmentBlock(4)
    v = torch.full((1, 4, 8, 6), value, requires_grad=True)
    block(v).square().sum().backward()
    assert v.grad is not None and v.grad.isfinite().all()
    for name, parameter in block.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("size", [(8, 10), (7, 10), (8, 9), (5, 3), (2, 2), (1, 1)])
def test_bins_that_are_real_by_symmetry_are_real(size):
    x = torch.randn(2, 3, *size)
    spectrum = half_spectrum(x)
    torch.testing.assert_close(spectrum, torch.fft.rfft2(x))
    rows = [i for i in range(size[0]) if 2 * i % size[0] == 0]
    columns = [j for j in range(size[1] // 2 + 1) if 2 * j % size[1] == 0]
    for i in rows:
        for j in columns:
            assert not spectrum.imag[..., i, j].any()
    assert (spectrum.imag == 0).sum() == 2 * 3 * len(rows) * len(columns)


def test_rounding_is_not_amplified():
    torch.manual_seed(0)
    block = FourierAdjustmentBlock(16)
    v = torch.randn(1, 16, 20, 10)
    with torch.no_grad():
        torch.testing.assert_close(block(v * (1 + 1e-7)), block(v), rtol=0, atol=1e-4)


def test_frequency_domain_is_float32_under_autocast():
    block = FourierEnhancement(4)
    seen: list[torch.dtype] = []
    block.phase.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = block(torch.randn(1, 4, 8, 8))
    assert seen == [torch.float32]
    torch.testing.assert_close(out, out.float(), check_dtype=False)
