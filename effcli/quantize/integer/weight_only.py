"""A layer of packed weights whose activations stay as they are: one weight at a time exists in floating point."""

from __future__ import annotations

import threading
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effcli.quantize.integer.gpu_product import product_of
from effcli.quantize.integer.unpacking import run
from effcli.quantize.packed.layer import LayerCodes
from effcli.quantize.packed.rows import PackedRows


class WeightOnlyLayer(nn.Module):
    """A convolution or linear layer that dequantizes its weight for each call, into memory that all layers share.

    Args:
        codes: the layer, without quantized activations.
    """

    def __init__(self, codes: LayerCodes) -> None:
        super().__init__()
        self.kind, self.geometry, self.rows = codes.kind, codes.geometry, codes.rows
        codes.rows.put_on(self)
        for name in ("scale", "zero", "in_scale", "bias"):
            self.register_buffer(name, getattr(codes, name), persistent=False)

    scale: Tensor
    zero: Tensor
    in_scale: Tensor
    bias: Tensor | None

    def weight(self) -> Tensor:
        """(codes - z) d delta, float32 of the weight's shape; good until this thread asks another layer."""
        rows = self._packed_rows()
        if self.scale.device.type == "cpu":
            return dequantized(rows, self.scale, self.zero, self.in_scale)
        weight = (rows.codes().float() - self.zero[:, None]) * self.scale[:, None]
        weight = weight.view(rows.shape)
        return weight * self.in_scale.view(-1, *[1] * (weight.ndim - 2))

    def _packed_rows(self) -> PackedRows:
        """The codes on the device of the layer."""
        return self.rows if self.scale.device.type == "cpu" else self.rows.of(self)

    def _on_gpu(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """A linear layer in bfloat16: d sum (codes - z) x delta, from packed rows."""
        rows = (x * self.in_scale.to(x.dtype)).reshape(-1, x.shape[-1])
        zero = self.zero.long()

        def reference() -> Tensor:
            return rows.float() @ (self._packed_rows().codes().float() - self.zero[:, None]).T

        out = product_of(rows, self._packed_rows(), zero, reference) * self.scale
        out = out.to(x.dtype) if bias is None else out.to(x.dtype) + bias
        return out.view(*x.shape[:-1], -1)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output, of the type of ``x``."""
        if x.device.type != "cpu" and self.kind == "linear" and x.dtype == torch.bfloat16:
            return self._on_gpu(x, None if self.bias is None else self.bias.to(x.dtype))
        weight = self.weight().to(x.dtype)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        if self.kind == "linear":
            return F.linear(x, weight, bias)
        geometry: dict[str, Any] = dict(self.geometry)
        return F.conv2d(x, weight, bias, **geometry)


def dequantized(rows: PackedRows, scale: Tensor, zero: Tensor, in_scale: Tensor) -> Tensor:
    """(codes - z) d delta on the CPU, float32 of the weight's shape, channels last; see `WeightOnlyLayer.weight`.

    Args:
        rows: the codes.
        scale, zero: d and z, float32 ``[c_out]``.
        in_scale: delta, float32 ``[c_in]``.
    """
    c_out, c_in, *kernel = rows.shape
    if len(_shared.floats) < rows.n_weights:
        _shared.floats = torch.empty(rows.n_weights)
    flat = _shared.floats[: rows.n_weights].view(c_out, -1)
    vectors = [vector.contiguous().numpy() for vector in (scale, zero, in_scale)]
    levels = None if rows.table is None else (rows.table.float() - zero[:, None]) * scale[:, None]
    for bits, packed in rows.by_bits.items():
        head = (packed.numpy(), bits, rows.n_taps, rows.rows_of(bits).numpy())
        if levels is None:
            run("floats", *head, *vectors, flat.numpy())
        else:
            run("float_levels", *head, levels.numpy(), vectors[2], flat.numpy())
    return flat.view(c_out, *kernel, c_in).movedim(-1, 1)


class _Shared(threading.local):
    """Memory for one weight at a time; of each thread its own."""

    def __init__(self) -> None:
        self.floats = torch.empty(0)


_shared = _Shared()
