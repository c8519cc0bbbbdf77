"""Products with packed rows on GPUs: codes are unpacked inside the matrix product (Triton), where that proves right.

This module imports Triton, which PyTorch's CUDA builds bring along; see :func:`product_of` for who asks first.
"""

# The kernel is typed by Triton.
# mypy: allow-untyped-defs, allow-incomplete-defs, no-check-untyped-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from effcli.quantize.packed.rows import PackedRows

_BLOCK = 32, 64, 64


@triton.jit
def _multiply(
    x, packed, channels, offsets, out, n_x, n_rows, n_codes, row_bytes, c_out,
    BITS: tl.constexpr, WHOLE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """out[m, channels[n]] = sum over k of x[m, k] (code[n, k] - offsets[channels[n]])"""
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    channel = tl.load(channels + n, mask=n < n_rows, other=0)
    offset = tl.load(offsets + channel, mask=n < n_rows, other=0).to(tl.int32)
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.int32 if WHOLE else tl.float32)
    for first in range(0, n_codes, BLOCK_K):
        k = first + tl.arange(0, BLOCK_K)
        inputs = tl.load(
            x + m[:, None].to(tl.int64) * n_codes + k[None, :],
            mask=(m < n_x)[:, None] & (k < n_codes)[None, :],
            other=0,
        )
        bit = k * BITS
        byte = bit // 8
        at = packed + n[None, :].to(tl.int64) * row_bytes + byte[:, None]
        inside = (k < n_codes)[:, None] & (n < n_rows)[None, :]
        low = tl.load(at, mask=inside, other=0).to(tl.int32)
        high = tl.load(at + 1, mask=inside & (byte + 1 < row_bytes)[:, None], other=0).to(tl.int32)
        code = ((low | (high << 8)) >> (bit % 8)[:, None]) & ((1 << BITS) - 1)
        weight = tl.where(inside, code - offset[None, :], 0)
        if WHOLE:
            total += tl.dot(inputs, weight.to(tl.int8), out_dtype=tl.int32)
        else:
            # bfloat16 and codes of 8 bits are exact in the 10 bits of TF32
            total += tl.dot(inputs.to(tl.float32), weight.to(tl.float32))
    place = out + m[:, None].to(tl.int64) * c_out + channel[None, :]
    tl.store(place, total, mask=(m < n_x)[:, None] & (n < n_rows)[None, :])


def multiply_packed(x: Tensor, rows: PackedRows, offset: Tensor) -> Tensor:
    """x (codes - offset)^T.

    Args:
        x: int8 or bfloat16 ``[M, K]``, in the order of the packed codes: ``[taps, c_in]``.
        rows: the codes, on the device of ``x``.
        offset: of each row, int64 ``[c_out]``, such that differences fit in int8.

    Returns:
        ``[M, c_out]``; int32 for int8, float32 for bfloat16.
    """
    whole = x.dtype == torch.int8
    out = torch.empty(len(x), rows.shape[0], dtype=torch.int32 if whole else torch.float32, device=x.device)
    block_m, block_n, block_k = _BLOCK
    for bits, packed in rows.by_bits.items():
        grid = (-(-len(x) // block_m), -(-len(packed) // block_n))
        _multiply[grid](
            x.contiguous(), packed, rows.rows_of(bits).to(x.device), offset, out, len(x), len(packed), rows.n_codes,
            packed.shape[1], rows.shape[0], BITS=bits, WHOLE=whole, BLOCK_M=block_m, BLOCK_N=block_n,
            BLOCK_K=block_k,
        )  # fmt: skip
    return out
