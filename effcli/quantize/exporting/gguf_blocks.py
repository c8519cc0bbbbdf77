"""Weights as GGUF's blocks of 32 neighbours in a row: whole numbers q, with a scale d and a minimum m in fp16.

======  =========  ============  ==============================================
type    weight     q             bytes of a block
======  =========  ============  ==============================================
Q4_1    d q + m    0 to 15       d, m, 16 of q (first half low, second high)
Q5_1    d q + m    0 to 31       d, m, 4 of the fifth bits, 16 as above
Q8_0    d q        -127 to 127   d, 32 of q
======  =========  ============  ==============================================

A packed row is (code - z) d_w delta, d_w of the row, delta of the input. Where delta is the same for a whole block, its
codes become q as they are, and only the rounding of d and m to fp16 is lost. Elsewhere (weights smoothed for quantized
activations, rows with a table of values) the weights are rounded anew, block by block.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from effcli.quantize.packed.layer import LayerCodes

BLOCK = 32
TOP = {"Q4_1": 15, "Q5_1": 31, "Q8_0": 127}
"""Type -> the largest q."""


class Blocks(NamedTuple):
    """The numbers of blocks: q ``[..., 32]`` as float32; d and m ``[..., 1]``, in fp16; m is 0 in Q8_0."""

    q: Tensor
    d: Tensor
    m: Tensor

    def weight(self) -> Tensor:
        """d q + m ``[..., 32]`` in fp16, as diffusers computes it; returned as float32."""
        return (self.d * self.q.half() + self.m).float()

    def fit_fp16(self, weight: Tensor) -> bool:
        """Whether no scale of numbers that are not all zero was rounded to zero, and none to infinity."""
        lost = (self.d == 0) & (weight != weight[..., :1]).any(-1, keepdim=True)
        return bool(torch.isfinite(self.d).all() and torch.isfinite(self.m).all() and not lost.any())


def type_for(codes: LayerCodes) -> str | None:
    """The narrowest type that holds the widest row; None for a layer whose rows are not whole blocks, or no rows."""
    if codes.kind != "linear" or codes.shape[1] % BLOCK:
        return None
    widest = int(codes.row_bits.max())
    return "Q4_1" if widest <= 4 else "Q5_1" if widest <= 5 else "Q8_0"


def blocks_of(codes: LayerCodes, type: str) -> Blocks:
    """The blocks ``[c_out, K / 32]`` of a linear layer."""
    weight = codes.weight().view(codes.shape[0], -1, BLOCK)
    delta = codes.in_scale.view(-1, BLOCK)
    if not torch.equal(delta, delta[:, :1].expand_as(delta)):
        return _round(weight, type)
    scale = (codes.scale[:, None] * delta[:, 0])[..., None]
    shifted = codes.codes.view_as(weight).float()
    zero = codes.zero[:, None, None]
    if type == "Q8_0":
        exact = Blocks(shifted - zero, scale.half(), torch.zeros_like(scale, dtype=torch.half))
        fits = (exact.q.abs() <= TOP[type]).all(-1, keepdim=True)
        anew = _round(weight, type)
        return Blocks(*(torch.where(fits, one, other) for one, other in zip(exact, anew, strict=True)))
    return Blocks(shifted, scale.half(), (-zero * scale).half())


def _round(weight: Tensor, type: str) -> Blocks:
    """Weights ``[..., 32]`` rounded to the nearest of each block's own values, from its smallest to its largest."""
    if type == "Q8_0":
        d = (weight.abs().amax(-1, keepdim=True) / TOP[type]).half()
        m = torch.zeros_like(d)
    else:
        m = weight.amin(-1, keepdim=True)
        d = ((weight.amax(-1, keepdim=True) - m) / TOP[type]).half()
        m = m.half()
    q = ((weight - m.float()) / d.float()).nan_to_num(0, 0, 0).round()
    return Blocks(q.clamp(-TOP[type] if type == "Q8_0" else 0, TOP[type]), d, m)


def bytes_of(blocks: Blocks, type: str) -> np.ndarray:
    """The bytes of a row's blocks one after another, uint8 ``[c_out, bytes of a row]``."""
    q = blocks.q.numpy()
    d, m = (np.ascontiguousarray(one.numpy()).view(np.uint8) for one in (blocks.d, blocks.m))
    if type == "Q8_0":
        parts = [d, q.astype(np.int8).view(np.uint8)]
    else:
        whole = q.astype(np.uint8)
        low = whole & 15
        halves = np.bitwise_or(low[..., : BLOCK // 2], low[..., BLOCK // 2 :] << 4, dtype=np.uint8)
        fifth = [np.packbits(whole >> 4, axis=-1, bitorder="little")] if type == "Q5_1" else []
        parts = [d, m, *fifth, halves]
    return np.concatenate(parts, axis=-1).reshape(len(q), -1)


def n_bytes(shape: tuple[int, ...], type: str) -> int:
    """Bytes of a tensor in a type, of blocks or of floating-point numbers."""
    n = math.prod(shape)
    floats = {"F16": 2, "F32": 4}
    return n * floats[type] if type in floats else n // BLOCK * {"Q4_1": 20, "Q5_1": 24, "Q8_0": 34}[type]
