"""Quantized layers in integers: uint8 activations times int8 weights, accumulated in int32.

With X = d_a (q - z) and W = d_w (w - f), where q are the activations' codes, w = codes - o fits in int8 and
f = z_w - o, a layer's output is, over the taps that do not fall on padding::

    d_a d_w [ sum (q - z) w  -  f sum (q - z) ]

The first sum is an integer product. f is 0 but for weights of 8 bits, whose codes - z may not fit; where it is not, and
where z is outside 0..255, the difference is added exactly.

Weights stay packed and are unpacked for each product, straight to where oneDNN wants them (`prepacked.py`). On x86 CPUs
with AVX-512 VNNI the product is oneDNN's, elsewhere `torch._int_mm` on unfolded images. Without VNNI x86 CPUs add pairs
of products in 16 bits, which overflow: there it is computed in floating point, exact but slower.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effcli.quantize.fake_quantization.layers import StepClock
from effcli.quantize.fake_quantization.quantizer import codes_of
from effcli.quantize.integer.gpu_product import product_of
from effcli.quantize.integer.prepacked import Place, layout_of, prepack, unpacked
from effcli.quantize.packed.layer import LayerCodes
from effcli.quantize.packed.model import PackedModel
from effcli.quantize.packed.rows import PackedRows

Kernel = Literal["onednn", "int_mm"]

_MOST_TAPS_IN_FLOAT32 = 2**24 // 2**14
"""So many products of two int8 are below 2^24, up to which float32 has all integers."""


def unsupported_reason(model: PackedModel) -> str | None:
    """Why a packed model cannot be computed in integers; None when it can."""
    if any(codes.activation_bits is None for codes in model.layers.values()):
        return "its activations are not quantized"
    return None


def default_kernel() -> Kernel:
    """The fastest product of this machine's CPU."""
    return "onednn" if torch.cpu._is_vnni_supported() else "int_mm"


class IntegerLayer(nn.Module):
    """A convolution or linear layer in integers.

    Args:
        codes: the layer, with quantized activations.
        clock: tells the sampling step.
        out_dtype: of the output.
        kernel: see the first lines of this file.
    """

    def __init__(
        self,
        codes: LayerCodes,
        clock: StepClock,
        *,
        out_dtype: torch.dtype = torch.float32,
        kernel: Kernel | None = None,
    ) -> None:
        super().__init__()
        assert codes.activation_bits is not None
        self.kind, self.shape, self.geometry = codes.kind, codes.shape, codes.geometry
        self.clock = clock
        self.out_dtype = out_dtype
        self.kernel = kernel or default_kernel()
        self.top = float(2**codes.activation_bits - 1)
        offset, self.weight_residual = _split_zero(codes)
        self.rows = codes.rows
        self.register_buffer("offset", offset.long(), persistent=False)
        codes.rows.put_on(self)
        for name in ("scale", "bias", "in_scale", "act_scale"):
            self.register_buffer(name, getattr(codes, name), persistent=False)
        self.steps = [
            (float(d), float(z), int(min(max(round(float(z)), 0), 255)))
            for d, z in zip(codes.act_scale, codes.act_zero, strict=True)
        ]
        self._prepacked: Any = None
        self._sums: Tensor | None = None
        self._weight_zeros = torch.zeros(codes.shape[0], dtype=torch.int64)
        self._corrections: dict[tuple[Any, ...], Tensor] = {}

    offset: Tensor
    scale: Tensor
    bias: Tensor | None
    in_scale: Tensor
    act_scale: Tensor

    def weight(self) -> Tensor:
        """The codes less each row's offset, int8 of ``shape``; unpacked at each call."""
        codes = self._packed_rows().codes()
        return (codes.short() - self.offset[:, None].short()).to(torch.int8).view(self.shape)

    def _packed_rows(self) -> PackedRows:
        """The codes on the device of the layer."""
        return self.rows if self.scale.device.type == "cpu" else self.rows.of(self)

    def step(self) -> tuple[Tensor, float, float, int]:
        """delta / d_a ``[c_in]``, d_a, z and the integer nearest to z in 0..255, at the present step."""
        i = min(self.clock.index, len(self.steps) - 1)
        return (self.in_scale / self.act_scale[i], *self.steps[i])

    def quantize(self, x: Tensor) -> Tensor:
        """The codes of the layer's input, uint8 of its shape; images are channels-last in memory."""
        multiplier, d, z, _ = self.step()
        is_image = self.kind == "conv2d"
        rows = x.permute(0, 2, 3, 1) if is_image else x
        if x.device.type == "cpu" and rows.shape[-1] % 16 == 0:
            from effcli.quantize.integer.kernels import quantize

            codes = quantize(rows, multiplier, z, self.top)
        else:
            smoothed = rows.float() * self.in_scale
            codes = codes_of(smoothed, torch.tensor(d), torch.tensor(z), torch.tensor(self.top)).to(
                torch.uint8
            )
        return codes.permute(0, 3, 1, 2) if is_image else codes

    def multiply(self, codes: Tensor) -> Tensor:
        """The layer's output from the codes of its input."""
        _, d, z, zero = self.step()
        out = self._onednn(codes, d, zero) if self.kernel == "onednn" else self._int_mm(codes, d, zero)
        if self.weight_residual is not None or z != zero:
            out = out + self._correction(codes, d, z, zero).to(out.dtype)
        return out

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output, in ``out_dtype``."""
        return self.multiply(self.quantize(x))

    def _place(self) -> Place:
        if self.kind == "linear":
            return ()
        return tuple(self.geometry[name] for name in ("stride", "padding", "dilation"))

    def _weight_of_onednn(self) -> Any:
        """The weight in the order that oneDNN's kernels read: unpacked into shared memory, where that is possible."""
        if self._prepacked is not None:
            return self._prepacked
        layout = layout_of(self.shape, self._place())
        if layout is None:
            self._prepacked = prepack(self.weight(), self._place())
            return self._prepacked
        sums = None if layout.sums_at is None else self._row_sums()
        return unpacked(layout, self._packed_rows(), self.offset, sums)

    def _row_sums(self) -> Tensor:
        """The sum of each row's weights, int32 ``[c_out]``."""
        if self._sums is None:
            self._sums = self.weight().flatten(1).sum(1, dtype=torch.int32)
        return self._sums

    def _product(self, rows: Tensor) -> Tensor:
        """int8 ``[M, K]``, columns in the weight's own order, times the weight; int32 ``[M, c_out]``."""

        def reference() -> Tensor:
            return _int8_product(rows, self.weight().flatten(1))

        if rows.device.type == "cpu":
            return reference()
        turned = rows.view(len(rows), self.shape[1], -1).mT.reshape(rows.shape)
        return product_of(turned, self._packed_rows(), self.offset, reference)

    def _onednn(self, codes: Tensor, d: float, zero: int) -> Tensor:
        ops: Any = torch.ops.onednn
        weights = (self._weight_of_onednn(), self.scale, self._weight_zeros, self.bias)
        tail: tuple[Any, ...] = (1.0, 0, self.out_dtype, "none", [], "")
        if self.kind == "linear":
            rows = codes.reshape(-1, codes.shape[-1])
            out: Tensor = ops.qlinear_pointwise(rows, d, zero, *weights, *tail)
            return out.view(*codes.shape[:-1], -1)
        place = [list(pair) for pair in self._place()]
        out = ops.qconv2d_pointwise(codes, d, zero, *weights, *place, 1, *tail)
        return out

    def _int_mm(self, codes: Tensor, d: float, zero: int) -> Tensor:
        """int8 x int8 on unfolded images: q - 128, with z - 128 on the padding, and what 128 adds taken off again."""
        centred = codes.short() - 128
        if self.kind == "conv2d":
            left, top = self.geometry["padding"][1], self.geometry["padding"][0]
            padded = F.pad(centred.float(), (left, left, top, top), value=float(zero - 128))
            settings = {name: self.geometry[name] for name in ("stride", "dilation")}
            columns = F.unfold(padded, self.shape[2:], **settings)
            rows = columns.mT.reshape(-1, columns.shape[1])
        else:
            rows = centred.reshape(-1, codes.shape[-1])
        product = self._product(rows.to(torch.int8))
        out = (product - (zero - 128) * self._row_sums()).float() * (self.scale * d)
        if self.bias is not None:
            out = out + self.bias
        out = out.to(self.out_dtype)
        if self.kind == "linear":
            return out.view(*codes.shape[:-1], -1)
        height, width = (
            _out_side(codes.shape[2 + axis], self.shape[2 + axis], self.geometry, axis) for axis in (0, 1)
        )
        return out.view(len(codes), height * width, -1).mT.reshape(len(codes), -1, height, width)

    def _correction(self, codes: Tensor, d: float, z: float, zero: int) -> Tensor:
        """- g sum w - f sum (q - zero) + f g n, with g = z - zero and the sums over taps that are no padding."""
        g = z - zero
        ones_map, n_taps = self._map_of_ones(codes)
        out = -g * ones_map
        if self.weight_residual is not None:
            f = self.weight_residual.to(codes.device)
            ones = torch.ones(1, *self.shape[1:], device=codes.device)
            box = self._float_layer(codes.float() - zero, ones)
            f = f.view(-1, 1, 1) if self.kind == "conv2d" else f
            out = out - f * (box - g * n_taps)
        scale = self.scale.view(-1, 1, 1) if self.kind == "conv2d" else self.scale
        return out * scale * d

    def _map_of_ones(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Sums of w, and numbers of taps, at each position of an image of this size."""
        key = (*codes.shape[1:], codes.device) if self.kind == "conv2d" else (codes.device,)
        if key not in self._corrections:
            ones = torch.ones_like(
                codes[:1] if self.kind == "conv2d" else codes.reshape(-1, codes.shape[-1])[:1]
            ).float()
            weight = self.weight().float()
            weight = torch.cat([weight, torch.ones_like(weight[:1])])
            self._corrections[key] = self._float_layer(ones, weight)
        both = self._corrections[key]
        return both[:, : self.shape[0]], both[:, self.shape[0] :]

    def _float_layer(self, x: Tensor, weight: Tensor) -> Tensor:
        if self.kind == "linear":
            return F.linear(x, weight)
        geometry: dict[str, Any] = dict(self.geometry)
        return F.conv2d(x, weight, **geometry)


def _split_zero(codes: LayerCodes) -> tuple[Tensor, Tensor | None]:
    """z_w = o + f with o such that codes - o fits in int8; f is None where it is 0 for all rows."""
    top = float(2 ** int(codes.row_bits.max()) - 1)
    if bool(((codes.zero >= top - 127) & (codes.zero <= 128)).all()):
        return codes.zero.round(), None  # fits, whatever the codes are
    every = codes.codes
    low, high = every.amin(1).float(), every.amax(1).float()
    offset = torch.minimum(torch.maximum(codes.zero.round(), high - 127), low + 128)
    residual = codes.zero - offset
    return offset, residual if bool((residual != 0).any()) else None


def _int8_product(rows: Tensor, weight: Tensor) -> Tensor:
    """``rows @ weight.T`` in int32; padded to what the CUDA kernel takes (more than 16 rows, sides in eights)."""
    n_rows, k = rows.shape
    n_out = len(weight)
    if rows.device.type == "cpu" and torch.cpu._is_avx2_supported() and not torch.cpu._is_vnni_supported():
        exact = torch.float32 if k <= _MOST_TAPS_IN_FLOAT32 else torch.float64
        return (rows.to(exact) @ weight.to(exact).T).to(torch.int32)
    padded_rows = F.pad(rows, (0, -k % 8, 0, max(0, 17 - n_rows)))
    padded_weight = F.pad(weight, (0, -k % 8, 0, -n_out % 8))
    return torch._int_mm(padded_rows, padded_weight.T)[:n_rows, :n_out]


def _out_side(side: int, kernel: int, geometry: dict[str, tuple[int, int]], axis: int) -> int:
    reach = geometry["dilation"][axis] * (kernel - 1) + 1
    return (side + 2 * geometry["padding"][axis] - reach) // geometry["stride"][axis] + 1
