"""The same network for detection alone: batch norms folded into the convolutions before them."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_conv_bn_weights

from effcli.detect_stream.network.convolution_3d import Conv3d, ConvBn3d
from effcli.detect_stream.network.streamdsgn import StreamDsgn


def fast_network(
    network: StreamDsgn, dtype: torch.dtype = torch.float32, *, depth: bool = False
) -> StreamDsgn:
    """A copy that gives the same boxes up to rounding; it cannot be trained.

    Args:
        network: to copy.
        dtype: that autocast will compute convolutions in; their weights are kept in it, not converted every frame.
        depth: keep the depth head.
    """
    fast = copy.deepcopy(network).eval().requires_grad_(False)
    if not depth:
        fast.depth_head = None
    _fold(fast)
    for module in fast.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | Conv3d):
            module.to(dtype)
        if isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
    return fast


def _fold(module: nn.Module) -> None:
    for child in module.children():
        if isinstance(child, ConvBn3d):
            _fold_3d(child)
        elif isinstance(child, nn.Sequential):
            _fold_sequence(child)
            _fold(child)
        else:
            _fold(child)


def _fold_3d(block: ConvBn3d) -> None:
    norm = block.norm
    assert isinstance(norm, nn.BatchNorm2d)  # a fresh copy is folded once
    assert norm.running_mean is not None and norm.running_var is not None
    weight, bias = fuse_conv_bn_weights(
        block.conv.weight,
        block.conv.bias,
        norm.running_mean,
        norm.running_var,
        norm.eps,
        norm.weight,
        norm.bias,
        transpose=block.conv.transposed,
    )
    block.conv.weight, block.conv.bias, block.norm = weight, bias, nn.Identity()


def _fold_sequence(sequence: nn.Sequential) -> None:
    """A convolution followed by batch norm becomes one with a bias; the batch norm goes."""
    layers = list(sequence.children())
    kept: list[nn.Module] = []
    for layer in layers:
        before = kept[-1] if kept else None
        if isinstance(layer, nn.BatchNorm2d) and isinstance(before, nn.Conv2d | nn.ConvTranspose2d):
            kept[-1] = fuse_conv_bn_eval(before, layer, transpose=isinstance(before, nn.ConvTranspose2d))
        else:
            kept.append(layer)
    for name in list(sequence._modules):
        del sequence._modules[name]
    for i, layer in enumerate(kept):
        sequence.add_module(str(i), layer)
