"""The compiled passes against PyTorch."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from effcli.quantize.integer.kernels import group_norm_quantize, quantize


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize(("channels", "groups"), [(32, 8), (48, 8), (96, 16), (16, 1), (80, 5)])
@pytest.mark.parametrize("threads", [1, 2])
def test_group_norm_silu_quantize(dtype, layout, silu, channels, groups, threads):
    generator = torch.Generator().manual_seed(0)
    x = 3 + 2 * torch.randn(3, channels, 5, 7, generator=generator)
    x = x.to(dtype).to(memory_format=layout)
    shift, multiplier = (
        torch.randn(3, channels, generator=generator),
        1 + 4 * torch.rand(channels, generator=generator),
    )
    norm = nn.GroupNorm(groups, channels)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        codes = group_norm_quantize(x, shift, norm, silu, multiplier, 6.0, 15.0)
    finally:
        torch.set_num_threads(before)
    y = norm(x.float() + shift[:, :, None, None])
    y = F.silu(y) if silu else y
    expected = ((y * multiplier[:, None, None]).round() + 6).clamp(0, 15)
    assert codes.dtype == torch.uint8
    assert codes.is_contiguous(memory_format=torch.channels_last)
    assert int((codes.int() - expected.int()).abs().max()) <= 1  # a value on the edge between two codes
    assert float((codes != expected).float().mean()) < 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_quantize(dtype):
    x = torch.randn(2, 7, 48, generator=torch.Generator().manual_seed(0)).to(dtype)
    multiplier = torch.linspace(1, 5, 48)
    expected = ((x.float() * multiplier).round() - 3).clamp(0, 7)
    assert torch.equal(quantize(x, multiplier, -3.0, 7.0), expected.to(torch.uint8))
