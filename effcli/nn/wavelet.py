"""The orthonormal Haar wavelet transform of feature maps, one level, by additions on strided views.

The bands are those of docs/methods/walmafa.md, Haar transform: for each 2x2 cell with upper left
``p``, lower left ``q``, upper right ``r`` and lower right ``s``

    LL = ( p + q + r + s) / 2    HL = (-p - q + r + s) / 2
    LH = (-p + q - r + s) / 2    HH = ( p - q - r + s) / 2

The transform is orthonormal, so its inverse is its transpose: each direction is the other's backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def haar_dwt(x: Tensor) -> tuple[Tensor, Tensor]:
    """Split feature maps into their Haar bands.

    Args:
        x: [B, C, H, W], H and W even, any floating dtype; the memory format (channels-last or not) is kept.

    Returns:
        ``ll`` [B, C, H/2, W/2] and ``details`` [3B, C, H/2, W/2], the bands HL, LH, HH of all images stacked
        on the batch axis, HL first. The dtype is x's.

    Raises:
        ValueError: if H or W is odd.
    """
    if x.shape[-2] % 2 or x.shape[-1] % 2:
        raise ValueError(f"the Haar transform needs even sides, not {x.shape[-2]}x{x.shape[-1]}")
    ll, details = _HaarDWT.apply(x)
    return ll, details


def haar_iwt(ll: Tensor, details: Tensor) -> Tensor:
    """Rebuild feature maps from their Haar bands: the exact inverse of :func:`haar_dwt`.

    Args:
        ll: [B, C, h, w].
        details: [3B, C, h, w], bands HL, LH, HH stacked on the batch axis.

    Returns:
        [B, C, 2h, 2w] in the promoted dtype of the two.
    """
    out: Tensor = _HaarIWT.apply(ll, details)
    return out


class _HaarDWT(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        return _analyse(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return haar_iwt(*grads)


class _HaarIWT(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ll: Tensor, details: Tensor) -> Tensor:
        ctx.dtypes = ll.dtype, details.dtype
        return _synthesise(ll, details)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        ll, details = haar_dwt(grads[0])
        return ll.to(ctx.dtypes[0]), details.to(ctx.dtypes[1])


def _memory_format(x: Tensor) -> torch.memory_format:
    channels_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if channels_last else torch.contiguous_format


def _analyse(x: Tensor) -> tuple[Tensor, Tensor]:
    b, c, h, w = x.shape
    half = x * 0.5
    vertical_sum = half[:, :, 0::2] + half[:, :, 1::2]
    vertical_step = half[:, :, 1::2] - half[:, :, 0::2]
    details = torch.empty(
        (3 * b, c, h // 2, w // 2), dtype=x.dtype, device=x.device, memory_format=_memory_format(x)
    )
    ll = vertical_sum[..., 0::2] + vertical_sum[..., 1::2]
    torch.sub(vertical_sum[..., 1::2], vertical_sum[..., 0::2], out=details[:b])
    torch.add(vertical_step[..., 0::2], vertical_step[..., 1::2], out=details[b : 2 * b])
    torch.sub(vertical_step[..., 1::2], vertical_step[..., 0::2], out=details[2 * b :])
    return ll, details


def _synthesise(ll: Tensor, details: Tensor) -> Tensor:
    hl, lh, hh = details.chunk(3)
    b, c, h, w = ll.shape
    dtype = torch.promote_types(ll.dtype, details.dtype)
    out = torch.empty((b, c, 2 * h, 2 * w), dtype=dtype, device=ll.device, memory_format=_memory_format(ll))
    for column, mean, step in ((0, ll - hl, lh - hh), (1, ll + hl, lh + hh)):
        torch.sub(mean, step, out=out[:, :, 0::2, column::2])
        torch.add(mean, step, out=out[:, :, 1::2, column::2])
    return out.mul_(0.5)
