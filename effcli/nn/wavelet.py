"""Wavelet transforms of feature maps, one level: Haar by additions on strided views, the others by their filters.

The bands of Haar are those of docs/methods/walmafa.md, Haar transform: for each 2x2 cell with upper left
``p``, lower left ``q``, upper right ``r`` and lower right ``s``

    LL = ( p + q + r + s) / 2    HL = (-p - q + r + s) / 2
    LH = (-p + q - r + s) / 2    HH = ( p - q - r + s) / 2

The transform is orthonormal, so its inverse is its transpose: each direction is the other's backward pass.

The others are PyWavelets' transform with ``mode="periodization"``: a map continues at its other end, as often as the
filter is long. Of its bands ``cA, (cH, cV, cD)`` LL is cA, HL is -cV, LH is -cH and HH is cD, as they are with Haar.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from effcli.nn.wavelet_names import HAAR, Filters, filters_of


def dwt(x: Tensor, wavelet: str = HAAR) -> tuple[Tensor, Tensor]:
    """Split feature maps into the bands of a wavelet, periodic at the ends.

    Args:
        x: [B, C, H, W], H and W even, shorter or longer than the filter; any floating dtype.
        wavelet: the name of a discrete wavelet in PyWavelets.

    Returns:
        ``ll`` and ``details`` as :func:`haar_dwt` returns them.

    Raises:
        ValueError: H or W is odd, or the wavelet is unknown.
    """
    if wavelet == HAAR:
        return haar_dwt(x)
    if x.shape[-2] % 2 or x.shape[-1] % 2:
        raise ValueError(f"the {wavelet} transform needs even sides, not {x.shape[-2]}x{x.shape[-1]}")
    ll, details = _FilterDWT.apply(x, filters_of(wavelet)[0])
    return ll, details


def iwt(ll: Tensor, details: Tensor, wavelet: str = HAAR) -> Tensor:
    """Rebuild feature maps from their bands: the inverse of :func:`dwt`.

    Args:
        ll: [B, C, h, w].
        details: [3B, C, h, w], bands HL, LH, HH stacked on the batch axis.
        wavelet: the name of a discrete wavelet in PyWavelets.

    Returns:
        [B, C, 2h, 2w] in the promoted dtype of the two.

    Raises:
        ValueError: the wavelet is unknown.
    """
    if wavelet == HAAR:
        return haar_iwt(ll, details)
    out: Tensor = _FilterIWT.apply(ll, details, filters_of(wavelet)[1])
    return out


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


class _FilterDWT(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, filters: Filters) -> tuple[Tensor, Tensor]:
        ctx.filters = filters
        ll, details = _filter(x.to(_summed_in(x.dtype)), filters)
        return ll.to(x.dtype), details.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _FilterIWT.apply(*grads, ctx.filters.backwards()), None


class _FilterIWT(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ll: Tensor, details: Tensor, filters: Filters) -> Tensor:
        ctx.filters, ctx.dtypes = filters, (ll.dtype, details.dtype)
        dtype = torch.promote_types(ll.dtype, details.dtype)
        exact = _summed_in(dtype)
        return _unfilter(ll.to(exact), details.to(exact), filters).to(dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        ll, details = _FilterDWT.apply(grads[0], ctx.filters.backwards())
        return ll.to(ctx.dtypes[0]), details.to(ctx.dtypes[1]), None


def _summed_in(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


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


def _filter(x: Tensor, filters: Filters) -> tuple[Tensor, Tensor]:
    low, high = (_correlated(x, taps, -2) for taps in filters)
    hl, lh, hh = (
        _correlated(half, taps, -1)
        for half, taps in ((low, filters.high), (high, filters.low), (high, filters.high))
    )
    return _correlated(low, filters.low, -1), torch.cat((hl, lh, hh))


def _unfilter(ll: Tensor, details: Tensor, filters: Filters) -> Tensor:
    hl, lh, hh = details.chunk(3)
    low, high = _spread(ll, hl, filters, -1), _spread(lh, hh, filters, -1)
    return _spread(low, high, filters, -2)


def _correlated(x: Tensor, taps: tuple[float, ...], axis: int) -> Tensor:
    """band[o] = sum_j taps[j] x[2 o + n / 2 - j] along an axis, for n taps and periodic x."""
    n = len(taps)
    x = _continued(x, n // 2 - 1, axis)
    end = x.shape[axis] - n + 1
    band = _every_second(x, n - 1, n - 1 + end, axis) * taps[0]
    for j in range(1, n):
        if taps[j]:
            band.add_(_every_second(x, n - 1 - j, n - 1 - j + end, axis), alpha=taps[j])
    return band


def _spread(low: Tensor, high: Tensor, filters: Filters, axis: int) -> Tensor:
    """x[i] = sum_o low[o] filters.low[i - 2 o + n / 2 - 1] + the same of high, for n taps and periodic bands."""
    size, n = low.shape[axis], len(filters.low)
    shape = list(low.shape)
    shape[axis] *= 2
    memory_format = _memory_format(low)
    out = torch.empty(shape, dtype=low.dtype, device=low.device, memory_format=memory_format).zero_()
    for half, taps in zip((low, high), filters, strict=True):
        band = _continued(half, n // 4, axis)
        for j, tap in enumerate(taps):
            phase = (n // 2 - 1 - j) % 2
            first = (phase + n // 2 - 1 - j) // 2 + n // 4
            if tap:
                part = _every_second(out, phase, shape[axis], axis)
                part.add_(band.narrow(axis, first, size), alpha=tap)
    return out


def _every_second(x: Tensor, start: int, end: int, axis: int) -> Tensor:
    """The view start:end:2 along axis -2 or -1."""
    return x[..., start:end:2, :] if axis == -2 else x[..., start:end:2]


def _continued(x: Tensor, amount: int, axis: int) -> Tensor:
    """Periodic x with ``amount`` more entries at both ends of an axis, however short it is."""
    size, start, parts = x.shape[axis], -amount, []
    while start < size + amount:
        length = min(size - start % size, size + amount - start)
        parts.append(x.narrow(axis, start % size, length))
        start += length
    return x if len(parts) == 1 else torch.cat(parts, axis)
