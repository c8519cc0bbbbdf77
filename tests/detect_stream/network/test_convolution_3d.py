"""3D convolutions as 2D ones give what torch's own give."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from effcli.detect_stream.network.convolution_3d import Conv3d, ConvBn3d


def layers_of(volume: Tensor, channels_together: bool) -> Tensor:
    """``[B, C, D, H, W]`` to ``[B, D, C, H, W]``, in either order in memory."""
    if not channels_together:
        return volume.transpose(1, 2).contiguous()
    return volume.permute(0, 2, 3, 4, 1).contiguous().permute(0, 1, 4, 2, 3)


@pytest.mark.parametrize("channels_together", [False, True])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (3, 2)])
@pytest.mark.parametrize("depth", [1, 5, 6])
def test_a_convolution(kernel: int, stride: int, depth: int, channels_together: bool) -> None:
    torch.manual_seed(0)
    slow = nn.Conv3d(3, 4, kernel, stride, kernel // 2, bias=True)
    fast = Conv3d(3, 4, kernel, stride, bias=True)
    fast.load_state_dict(slow.state_dict())
    volume = torch.randn(2, 3, depth, 8, 6)
    found = fast(layers_of(volume, channels_together))
    torch.testing.assert_close(found.transpose(1, 2), slow(volume), rtol=1e-5, atol=1e-5)
    assert (found.stride(2) == 1) == channels_together


@pytest.mark.parametrize("channels_together", [False, True])
@pytest.mark.parametrize("depth", [1, 3])
def test_a_transposed_convolution(depth: int, channels_together: bool) -> None:
    torch.manual_seed(0)
    slow = nn.ConvTranspose3d(3, 4, 3, 2, 1, output_padding=1, bias=False)
    fast = Conv3d(3, 4, transposed=True)
    fast.load_state_dict(slow.state_dict())
    volume = torch.randn(2, 3, depth, 4, 6)
    found = fast(layers_of(volume, channels_together))
    torch.testing.assert_close(found.transpose(1, 2), slow(volume), rtol=1e-5, atol=1e-5)
    assert (found.stride(2) == 1) == channels_together


def test_batch_norm_is_that_of_a_volume() -> None:
    torch.manual_seed(0)
    fast = ConvBn3d(3, 4)
    slow = nn.Sequential(nn.Conv3d(3, 4, 3, padding=1, bias=False), nn.BatchNorm3d(4))
    slow.load_state_dict(dict(zip(slow.state_dict(), fast.state_dict().values(), strict=True)))
    volume = torch.randn(2, 3, 5, 8, 6)
    torch.testing.assert_close(
        fast(volume.transpose(1, 2)).transpose(1, 2), slow(volume), rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(fast.norm.running_var, slow[1].running_var)


def test_unfolded_is_the_same() -> None:
    torch.manual_seed(0)
    for conv in (Conv3d(3, 4), Conv3d(3, 4, stride=2), Conv3d(3, 4, 1), Conv3d(3, 4, transposed=True)):
        layers = torch.randn(1, 4, 3, 6, 6)
        folded = conv(layers)
        conv.folded = False
        torch.testing.assert_close(conv(layers), folded, rtol=1e-5, atol=1e-5)
