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
        ValueError: if H or W is odd, or there is no such wavelet.
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
        ValueError: if there is no such wavelet.
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
    b, c, h, w = x.shape
    low, high = (_zeros((b, c, h // 2, w), x) for _ in filters)
    ll, details = _zeros((b, c, h // 2, w // 2), x), _zeros((3 * b, c, h // 2, w // 2), x)
    hl, lh, hh = details.chunk(3)
    _correlate(low, x, filters.low, -2)
    _correlate(high, x, filters.high, -2)
    for band, half, taps in ((ll, low, 0), (hl, low, 1), (lh, high, 0), (hh, high, 1)):
        _correlate(band, half, filters[taps], -1)
    return ll, details


def _unfilter(ll: Tensor, details: Tensor, filters: Filters) -> Tensor:
    hl, lh, hh = details.chunk(3)
    b, c, h, w = ll.shape
    low, high = (_zeros((b, c, h, 2 * w), ll) for _ in filters)
    for band, half, taps in ((ll, low, 0), (hl, low, 1), (lh, high, 0), (hh, high, 1)):
        _spread(half, band, filters[taps], -1)
    out = _zeros((b, c, 2 * h, 2 * w), ll)
    _spread(out, low, filters.low, -2)
    _spread(out, high, filters.high, -2)
    return out


def _correlate(band: Tensor, x: Tensor, taps: tuple[float, ...], axis: int) -> None:
    """band[o] += sum_j taps[j] x[2 o + n / 2 - j] along an axis, for n taps and periodic x."""
    for j, tap in enumerate(taps):
        turn, phase = divmod(len(taps) // 2 - j, 2)
        _add_turned(band, _phase(x, phase, axis), turn, tap, axis)


def _spread(x: Tensor, band: Tensor, taps: tuple[float, ...], axis: int) -> None:
    """x[i] += sum_o band[o] taps[i - 2 o + n / 2 - 1] along an axis, for n taps and periodic band."""
    for j, tap in enumerate(taps):
        phase = (len(taps) // 2 - 1 - j) % 2
        turn = (phase + len(taps) // 2 - 1 - j) // 2
        _add_turned(_phase(x, phase, axis), band, turn, tap, axis)


def _phase(x: Tensor, phase: int, axis: int) -> Tensor:
    """The even (0) or odd (1) entries along axis -2 or -1, a view."""
    return x[..., phase::2, :] if axis == -2 else x[..., phase::2]


def _add_turned(out: Tensor, x: Tensor, turn: int, factor: float, axis: int) -> None:
    """out[o] += factor x[(o + turn) mod n] along an axis of length n."""
    if factor == 0:
        return
    n = out.shape[axis]
    turn %= n
    out.narrow(axis, 0, n - turn).add_(x.narrow(axis, turn, n - turn), alpha=factor)
    if turn:
        out.narrow(axis, n - turn, turn).add_(x.narrow(axis, 0, turn), alpha=factor)


def _zeros(shape: tuple[int, int, int, int], like: Tensor) -> Tensor:
    """Zeros of a shape in the dtype and memory format of a tensor."""
    memory_format = _memory_format(like)
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=memory_format).zero_()
