"""Codes of 1 to 8 bits, 64 at a time, inside numba kernels.

The stream is little-endian without gaps: 64 codes of b bits are 8 b bytes. Each of 16 lanes of 32 bits takes four codes
and spreads them to bytes.

This module imports numba; import it only from code that runs a compiled kernel. numba's cache on disk does not notice a
change in this file: after one, change the content of the file with the kernels, too.
"""

# numba's decorators and its LLVM builder have no types worth checking.
# mypy: allow-untyped-calls, allow-untyped-decorators, allow-untyped-defs, no-check-untyped-defs

from __future__ import annotations

from typing import Any

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from effcli.nn.compiled.lanes import LANES, pointer_to

AT_ONCE = 64
"""Codes that :func:`unpack` takes."""

_BYTE, _WORD = ir.IntType(8), ir.IntType(32)


@intrinsic(prefer_literal=True)
def _unpack(typingctx: Any, packed: Any, index: Any, bits: Any, offset: Any, out: Any) -> Any:
    """``out[:16]`` = 64 codes of ``bits`` bits (a literal) from ``packed[index]`` on, less ``offset``, as bytes."""
    width = bits.literal_value
    n_bytes = 8 * width

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        source = pointer_to(
            context, builder, sig.args[0], args[0], sig.args[1], args[1], ir.VectorType(_BYTE, n_bytes)
        )
        stream = builder.load(source, align=1)
        first = [4 * width * lane // 8 for lane in range(LANES)]
        mask = [min(byte + k, n_bytes - 1) for byte in first for k in range(4)]
        spread = builder.shuffle_vector(
            stream, stream, ir.Constant(ir.VectorType(_WORD, AT_ONCE), mask)
        )  # of each lane the bytes that its four codes are in
        words = ir.VectorType(_WORD, LANES)
        value = builder.bitcast(spread, words)
        value = builder.lshr(value, ir.Constant(words, [4 * width * lane % 8 for lane in range(LANES)]))
        total = ir.Constant(words, [0] * LANES)
        for k in range(4):
            moved = builder.shl(value, ir.Constant(words, [(8 - width) * k] * LANES))
            kept = builder.and_(moved, ir.Constant(words, [((1 << width) - 1) << (8 * k)] * LANES))
            total = builder.or_(total, kept)
        byte_vector = ir.VectorType(_BYTE, AT_ONCE)
        less = builder.insert_element(ir.Constant(byte_vector, ir.Undefined), args[3], ir.Constant(_WORD, 0))
        less = builder.shuffle_vector(less, less, ir.Constant(ir.VectorType(_WORD, AT_ONCE), [0] * AT_ONCE))
        codes = builder.sub(builder.bitcast(total, byte_vector), less)
        target = cgutils.get_item_pointer(
            context, builder, sig.args[4], context.make_array(sig.args[4])(context, builder, value=args[4]),
            [ir.Constant(context.get_value_type(types.intp), 0)],
        )  # fmt: skip
        builder.store(codes, builder.bitcast(target, byte_vector.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(packed, index, bits, types.int8, out), codegen


@numba.njit
def unpack(packed, row, byte, bits, offset, out):
    """64 codes from byte ``byte`` of a row on, less ``offset`` (int8), to the 64 bytes of ``out``, int32 ``[16]``."""
    if bits == 1:
        _unpack(packed, (row, byte), 1, offset, out)
    elif bits == 2:
        _unpack(packed, (row, byte), 2, offset, out)
    elif bits == 3:
        _unpack(packed, (row, byte), 3, offset, out)
    elif bits == 4:
        _unpack(packed, (row, byte), 4, offset, out)
    elif bits == 5:
        _unpack(packed, (row, byte), 5, offset, out)
    elif bits == 6:
        _unpack(packed, (row, byte), 6, offset, out)
    elif bits == 7:
        _unpack(packed, (row, byte), 7, offset, out)
    else:
        _unpack(packed, (row, byte), 8, offset, out)


@numba.njit
def code_at(packed, row, k, bits):
    """Code ``k`` of a row, one by one: for what is left at a row's end."""
    bit = k * bits
    byte = bit >> 3
    word = int(packed[row, byte])
    if (bit & 7) + bits > 8:
        word |= int(packed[row, byte + 1]) << 8
    return (word >> (bit & 7)) & ((1 << bits) - 1)
