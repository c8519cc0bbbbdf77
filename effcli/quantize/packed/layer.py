"""A quantized layer as it is kept and used: integer codes with their scales."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effcli.quantize.fake_quantization.layers import QuantizedLayer, StepClock, per_input
from effcli.quantize.fake_quantization.quantizer import codes_of, top_code
from effcli.quantize.packed.rows import PackedRows

Kind = Literal["conv2d", "linear"]
PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]


@dataclass(frozen=True)
class LayerCodes:
    """Everything that a quantized layer is, in numbers.

    Attributes:
        kind: of the layer.
        rows: the codes of its weight ``[c_out, c_in(, kh, kw)]``, packed, with their codebooks.
        scale, zero: d_w and z_w, float32 ``[c_out]``; zero-points are whole numbers, or codes would not be. Those of
            rows with codebooks are 128.
        in_scale: delta, float32 ``[c_in]``.
        activation_bits: None where activations are not quantized.
        act_scale, act_zero: d_a and z_a, float32 ``[S]``; empty where activations are not quantized.
        bias: float32 ``[c_out]``.
        geometry: stride, padding and dilation of a convolution, a pair each; empty for a linear layer.
        padding_mode: what a convolution pads with.
    """

    kind: Kind
    rows: PackedRows
    scale: Tensor
    zero: Tensor
    in_scale: Tensor
    activation_bits: int | None
    act_scale: Tensor
    act_zero: Tensor
    bias: Tensor | None
    geometry: dict[str, tuple[int, int]]
    padding_mode: PaddingMode = "zeros"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight, ``(c_out, c_in[, kh, kw])``."""
        return self.rows.shape

    @property
    def row_bits(self) -> Tensor:
        """The width of the codes of each row, uint8 ``[c_out]``: 8 where a codebook holds them."""
        return self.rows.row_bits if self.rows.table is None else torch.full_like(self.rows.row_bits, 8)

    @property
    def codes(self) -> Tensor:
        """Unpacked anew and looked up, uint8 ``[c_out, K]``, K = c_in kh kw."""
        return self.rows.codes()

    def smoothed_weight(self) -> Tensor:
        """(codes - z) d, which multiplies inputs that are multiplied by delta; float32, of ``shape``."""
        return ((self.codes.float() - self.zero[:, None]) * self.scale[:, None]).view(self.shape)

    def weight(self) -> Tensor:
        """(codes - z) d delta, which multiplies plain inputs; float32, of ``shape``."""
        weight = self.smoothed_weight()
        return weight * per_input(self.in_scale, weight)


@torch.no_grad()
def codes_of_layer(layer: QuantizedLayer) -> LayerCodes:
    """What a trained layer has come to; zero-points that were trained as fractions are rounded."""
    module = layer.layer
    row_bits, table = layer.row_bits.cpu(), None
    if layer.has_codebooks:
        table = layer.table[:, : 2 ** int(row_bits.max())].cpu().contiguous()
    return LayerCodes(
        **form_of(module),
        rows=PackedRows.of_codes(layer.codes().cpu(), row_bits, tuple(module.weight.shape), table),
        scale=_plain(layer.scale),
        zero=_plain(layer.zero.round()),
        in_scale=_plain(layer.in_scale),
        activation_bits=layer.activation_bits,
        act_scale=_plain(layer.act_scale),
        act_zero=_plain(layer.act_zero.round()),
        bias=None if module.bias is None else _plain(module.bias),
    )


def form_of(layer: nn.Conv2d | nn.Linear) -> dict[str, Any]:
    """Kind, geometry and padding mode of a layer, by the names that :class:`LayerCodes` has for them."""
    if isinstance(layer, nn.Linear):
        return {"kind": "linear", "geometry": {}}
    geometry = {name: _pair(getattr(layer, name)) for name in ("stride", "padding", "dilation")}
    return {"kind": "conv2d", "geometry": geometry, "padding_mode": layer.padding_mode}


class PackedLayer(nn.Module):
    """A quantized layer for inference, computed in floating point: what integer kernels are compared with.

    Args:
        codes: the layer.
        clock: tells the sampling step.
    """

    def __init__(self, codes: LayerCodes, clock: StepClock) -> None:
        super().__init__()
        self.clock = clock
        self.kind = codes.kind
        self.geometry = codes.geometry
        self.activation_bits = codes.activation_bits
        quantizes_input = codes.activation_bits is not None
        self.register_buffer("weight", codes.smoothed_weight() if quantizes_input else codes.weight())
        self.register_buffer("bias", codes.bias)
        self.register_buffer("in_scale", codes.in_scale)
        self.register_buffer("act_scale", codes.act_scale)
        self.register_buffer("act_zero", codes.act_zero)
        self.codes = codes

    weight: Tensor
    bias: Tensor | None
    in_scale: Tensor
    act_scale: Tensor
    act_zero: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output, ``x`` being what the full-precision layer takes."""
        if self.activation_bits is not None:
            i = min(self.clock.index, len(self.act_scale) - 1)
            d, z = self.act_scale[i], self.act_zero[i]
            multiplier = (self.in_scale / d).view((-1, 1, 1) if self.kind == "conv2d" else (-1,))
            codes = codes_of(x.float() * multiplier, torch.ones_like(d), z, top_code(self.activation_bits))
            x = ((codes - z) * d).to(x.dtype)
        if self.kind == "linear":
            return F.linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))
        bias = None if self.bias is None else self.bias.to(x.dtype)
        geometry: dict[str, Any] = dict(self.geometry)
        return F.conv2d(x, self.weight.to(x.dtype), bias, **geometry)


def as_full_precision(codes: LayerCodes) -> nn.Module:
    """An ordinary layer with the dequantized weight, for export."""
    layer: nn.Conv2d | nn.Linear
    c_out, c_in = codes.shape[:2]
    if codes.kind == "linear":
        layer = nn.Linear(c_in, c_out, bias=codes.bias is not None)
    else:
        kernel: Any = codes.shape[2:]
        geometry: dict[str, Any] = {**codes.geometry, "padding_mode": codes.padding_mode}
        layer = nn.Conv2d(c_in, c_out, kernel, bias=codes.bias is not None, **geometry)
    layer.requires_grad_(False).weight.copy_(codes.weight())
    if codes.bias is not None and layer.bias is not None:
        layer.bias.copy_(codes.bias)
    return layer


def with_dtype_of_file(codes: LayerCodes, dtype: torch.dtype) -> LayerCodes:
    """The layer with its bias rounded as the file stores it."""
    return codes if codes.bias is None else replace(codes, bias=codes.bias.to(dtype).float())


def _pair(value: Any) -> tuple[int, int]:
    first, second = value if isinstance(value, tuple) else (value, value)
    return int(first), int(second)


def _plain(value: Tensor) -> Tensor:
    return value.detach().float().cpu().contiguous().clone()
