"""The uniform quantizer of MPQ-DM, for weights and activations (released code `quant_scripts/quant_layer.py:34-213`).

With b bits, L = 2^b - 1 is the largest code, d > 0 the scale and z the zero-point, a float that is trained too::

    q(x) = clip(round(x / d) + z, 0, L)          Q(x) = (q(x) - z) d
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

SMALLEST_SCALE = 1e-8
_SHRINKAGES = torch.tensor([1 - 0.01 * i for i in range(80)])

RangeMethod = Literal["mse", "max"]


def top_code(bits: Tensor | int) -> Tensor:
    """L = 2^bits - 1, the largest code, as float32 of the shape of ``bits``."""
    return torch.as_tensor(2.0, dtype=torch.float32) ** torch.as_tensor(bits) - 1


def codes_of(x: Tensor, scale: Tensor, zero: Tensor, top: Tensor) -> Tensor:
    """q(x) = clip(round(x / d) + z, 0, L); integers where z is one.

    Args:
        x: any shape.
        scale, zero, top: d, z and L, broadcastable to ``x``.

    Returns:
        the shape of ``x``, float.
    """
    shifted = (x / scale).round_() + zero
    return torch.minimum(shifted.clamp_(min=0), top.to(shifted.dtype))


def fake_quantize(x: Tensor, scale: Tensor, zero: Tensor, top: Tensor) -> Tensor:
    """Q(x), differentiable in x, d and z: straight through the rounding, clipped values pass no gradient to x.

    In one pass each way, with what the backward pass needs computed again there instead of kept: the same numbers as
    autograd through the definition, from a third of its memory.

    Args:
        x: any shape.
        scale, zero: d and z, broadcastable to ``x``; gradients are summed to their shape.
        top: L, broadcastable to ``x``; a constant.

    Returns:
        the shape and dtype of ``x``.
    """
    out: Tensor = _FakeQuantize.apply(x, scale, zero, top)
    return out


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero: Tensor, top: Tensor) -> Tensor:
        ctx.save_for_backward(x, scale, zero, top)
        rows = _rows(x, scale, zero, top)
        if rows is not None:
            from effcli.quantize.fake_quantization.quantizer_cpu import fake_quantize_rows

            return fake_quantize_rows(*rows).as_strided(x.shape, x.stride())
        return (codes_of(x, scale, zero, top).sub_(zero)).mul_(scale).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, zero, top = ctx.saved_tensors
        (gradient,) = gradients
        rows = _rows(x, scale, zero, top)
        if rows is not None:
            from effcli.quantize.fake_quantization.quantizer_cpu import gradients_of_rows

            same_order = torch.empty_like(x).copy_(gradient)
            by_x, by_scale, by_zero = gradients_of_rows(
                *rows, same_order.as_strided(rows[0].shape, rows[0].stride())
            )
            shaped = (
                by_x.as_strided(x.shape, x.stride()),
                by_scale.sum_to_size(scale.numel()).view(scale.shape),
                by_zero.sum_to_size(zero.numel()).view(zero.shape),
            )
        else:
            shaped = _gradients(x, scale, zero, top, gradient)
        needed = zip(shaped, ctx.needs_input_grad, strict=False)
        return (*(grad if needs else None for grad, needs in needed), None)


def _rows(
    x: Tensor, scale: Tensor, zero: Tensor, top: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
    """The arguments of the compiled kernels: ``[R, K]`` and three times ``[R]``; None where they do not apply."""
    if x.device.type != "cpu" or x.numel() == 0 or x.ndim == 0:
        return None
    if any(value.dtype != torch.float32 for value in (x, scale, zero, top)):
        return None
    memory = _memory(x)
    if memory is None:
        return None
    n_rows = x.shape[0]
    vectors = []
    for value in (scale, zero, top):
        by_row = value.numel() == n_rows == value.shape[0] if value.ndim else False
        if value.numel() != 1 and not (by_row and x.is_contiguous()):
            return None
        vectors.append(value.detach().reshape(-1).expand(n_rows).contiguous())
    return memory.view(n_rows, -1), vectors[0], vectors[1], vectors[2]


def _memory(x: Tensor) -> Tensor | None:
    """The numbers of a tensor in the order of its memory, if there are no gaps."""
    dense = x.is_contiguous() or (x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last))
    return x.detach().as_strided((x.numel(),), (1,)) if dense else None


def _gradients(
    x: Tensor, scale: Tensor, zero: Tensor, top: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """dQ/dx = [inside], dQ/dd = q - z - [inside] x / d and dQ/dz = -[outside] d, times the gradient of Q(x)."""
    steps = x / scale
    shifted = steps.round() + zero
    inside = (shifted >= 0) & (shifted <= top)
    codes = torch.minimum(shifted.clamp(min=0), top.to(shifted.dtype))
    by_scale = ((codes - zero) - torch.where(inside, steps, 0)).mul_(gradient)
    by_zero = torch.where(inside, 0, -gradient * scale)
    return (
        torch.where(inside, gradient, 0),
        by_scale.sum_to_size(scale.shape),
        by_zero.sum_to_size(zero.shape),
    )


def find_range(x: Tensor, top: Tensor, method: RangeMethod = "mse") -> tuple[Tensor, Tensor]:
    """Initial d and z of each row (docs/methods/mpq-dm.md, Uniform quantizer).

    ``max`` covers the row and zero. ``mse`` shrinks both ends of the row's range together, by 0, 1, ..., 79 %, and
    keeps what gives the smallest mean |x - Q(x)|^2.4.

    Args:
        x: ``[R, K]``, a row for each pair (d, z): an output channel's weights, or all activations as one row.
        top: L, ``[R]`` or a scalar.
        method: ``mse`` or ``max``.

    Returns:
        d and z, ``[R]`` each; z is an integer, d at least 1e-8 (a constant row has no range).
    """
    top = top.to(x.dtype).expand(x.shape[0])
    low, high = x.amin(1), x.amax(1)
    if method == "max":
        scale = ((high.clamp(min=0) - low.clamp(max=0)) / top).clamp(min=SMALLEST_SCALE)
        return scale, (-low.clamp(max=0) / scale).round()
    from effcli.quantize.fake_quantization.range_search import best_shrinkages

    rows = x.detach().to("cpu", torch.float32).contiguous()
    chosen = best_shrinkages(rows, _SHRINKAGES, top.detach().to("cpu", torch.float32), SMALLEST_SCALE)
    shrinkage = _SHRINKAGES[chosen].to(x)
    scale = ((high - low) * shrinkage / top).clamp(min=SMALLEST_SCALE)
    return scale, (-low * shrinkage / scale).round()


def rounded(zero: Tensor) -> Tensor:
    """z as an integer, with the gradient of z."""
    return zero + (zero.round() - zero).detach()
