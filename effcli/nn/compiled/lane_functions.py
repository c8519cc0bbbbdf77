"""Further functions of vectors of 16 (:mod:`effcli.nn.compiled.lanes`): limits, signs, a logarithm, stores that round.

This module imports numba; import it only from code that runs a compiled kernel. numba's cache on disk does not notice a
change in this file: after one, change the content of the files with the kernels, too.
"""

# numba's decorators and its LLVM builder have no types worth checking.
# mypy: allow-untyped-calls, allow-untyped-decorators, no-warn-unused-ignores

from __future__ import annotations

import math
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic

from effcli.nn.compiled.lanes import LANES, constant, horner, pointer_to


@intrinsic
def max_lanes(typingctx: Any, value: Any, other: Any) -> Any:
    """The larger of two, lane by lane; NaN in ``value`` stays."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return builder.select(builder.fcmp_ordered("<", args[0], args[1]), args[1], args[0])

    return value(value, other), codegen


@intrinsic
def min_lanes(typingctx: Any, value: Any, other: Any) -> Any:
    """The smaller of two, lane by lane; NaN in ``value`` stays."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return builder.select(builder.fcmp_ordered(">", args[0], args[1]), args[1], args[0])

    return value(value, other), codegen


@intrinsic
def log1m_lanes(typingctx: Any, value: Any) -> Any:
    """log(1 - v) of floats 0 <= v < 1, relative error below 3e-7; NaN stays.

    1 - v is 2**e m with m between the roots of 1/2 and 2; log m = 2 atanh(f / (2 + f)) with f = m - 1, which is -v
    itself where e is 0, so that nothing of a small v is lost.
    """

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        v = args[0]
        integer = ir.VectorType(ir.IntType(32), LANES)
        one = constant(builder, v, 1.0)
        rest = builder.fsub(one, v)
        bits = builder.bitcast(rest, integer)
        root = ir.Constant(integer, [0x3F3504F3] * LANES)
        places = ir.Constant(integer, [23] * LANES)
        exponent = builder.ashr(builder.sub(bits, root), places)
        mantissa = builder.bitcast(builder.sub(bits, builder.shl(exponent, places)), v.type)
        is_large = builder.icmp_signed("==", exponent, ir.Constant(integer, [0] * LANES))
        f = builder.select(is_large, builder.fneg(v), builder.fsub(mantissa, one))
        s = builder.fdiv(f, builder.fadd(f, constant(builder, v, 2.0)))
        series = horner(builder, builder.fmul(s, s), [2.0 / (2 * k + 1) for k in range(5)])
        whole = builder.fmul(builder.sitofp(exponent, v.type), constant(builder, v, math.log(2.0)))
        total = builder.fadd(builder.fmul(s, series, flags=("contract",)), whole, flags=("contract",))
        return builder.select(builder.fcmp_unordered("uno", rest, rest), rest, total)

    return value(value), codegen


@intrinsic
def copysign_lanes(typingctx: Any, value: Any, sign: Any) -> Any:
    """Floats 0 <= value with the signs of others."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        integer = ir.VectorType(ir.IntType(32), LANES)
        top = ir.Constant(integer, [1 << 31] * LANES)
        signs = builder.and_(builder.bitcast(args[1], integer), top)
        return builder.bitcast(builder.or_(builder.bitcast(args[0], integer), signs), args[0].type)

    return value(value, sign), codegen


@intrinsic
def store_float_lanes(typingctx: Any, array: Any, index: Any, value: Any) -> Any:
    """Write 16 floats to an array of float32, or, rounded to nearest even, of bfloat16 held as int16; NaN stays."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        if array.dtype == types.float32:
            pointer = pointer_to(context, builder, sig.args[0], args[0], sig.args[1], args[1])
            builder.store(args[2], pointer, align=4)
            return context.get_dummy_value()
        half, whole = (ir.VectorType(ir.IntType(width), LANES) for width in (16, 32))
        bits = builder.bitcast(args[2], whole)
        one, places, below_half, nan = (ir.Constant(whole, [n] * LANES) for n in (1, 16, 0x7FFF, 0x7FC00000))
        is_odd = builder.and_(builder.lshr(bits, places), one)
        rounded = builder.add(builder.add(bits, below_half), is_odd)
        rounded = builder.select(builder.fcmp_unordered("uno", args[2], args[2]), nan, rounded)
        pointer = pointer_to(context, builder, sig.args[0], args[0], sig.args[1], args[1], half)
        builder.store(builder.trunc(builder.lshr(rounded, places), half), pointer, align=2)
        return context.get_dummy_value()

    return types.void(array, index, value), codegen
