"""Vectors of 16 numbers inside numba kernels.

Numba has no vector type, and its loops over 16 channels are vectorised only when LLVM can prove that no
two arrays overlap. Here a row of 16 neighbouring array elements is one value: ``load_lanes`` and
``store_lanes`` move it, ``+ - * /`` work on it lane by lane (multiply and add may fuse), ``exp2_lanes`` and
``log1p_lanes`` are polynomials. LLVM maps it to what the processor has (one AVX-512, two AVX2 or four NEON
registers).

This module imports numba; import it only from code that runs a compiled kernel. numba's cache on disk does
not notice a change in this file: after one, change the content of the file with the kernels, too.
"""

# numba's decorators and its LLVM builder have no types worth checking.
# mypy: allow-untyped-calls, allow-untyped-decorators, no-warn-unused-ignores

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

LANES = 16

#: 2**f = 1 + f * q(f) on |f| <= 1/2, q by Chebyshev interpolation: relative error 9e-9.
_EXP2_FLOAT = (
    0.6931471824645996,
    0.24022650718688965,
    0.055503569543361664,
    0.009618056938052177,
    0.0013390866806730628,
    0.00015461447765119374,
)
#: log2(1 + t) = t * p(t) for 1 + t in sqrt(1/2)..sqrt(2), by Chebyshev interpolation: error 6e-7.
_LOG2_FLOAT = (
    1.4426964322205742,
    -0.7213640398472624,
    0.48062914692439546,
    -0.3593506528380972,
    0.2956336002599291,
    -0.2695062744410317,
    0.17212873067678539,
)
_EXP2_DOUBLE = tuple(math.log(2.0) ** k / math.factorial(k) for k in range(1, 15))


class Lanes(types.Type):
    """The numba type of a vector of 16 floats or doubles."""

    def __init__(self, dtype: types.Float) -> None:
        self.dtype = dtype
        super().__init__(name=f"Lanes({dtype})")


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, lanes: Lanes) -> None:
        super().__init__(manager, lanes, ir.VectorType(_element(lanes), LANES))


def _element(lanes: Lanes) -> ir.Type:
    return ir.FloatType() if lanes.dtype == types.float32 else ir.DoubleType()


def constant(builder: ir.IRBuilder, like: ir.Value, value: float) -> ir.Constant:
    """A number in all lanes, of the type of ``like``."""
    del builder
    return ir.Constant(like.type, [value] * LANES)


def _splat(builder: ir.IRBuilder, scalar: ir.Value) -> ir.Value:
    vector = ir.VectorType(scalar.type, LANES)
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(
        first,
        ir.Constant(vector, ir.Undefined),
        ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES),
    )


def horner(builder: ir.IRBuilder, x: ir.Value, coefficients: Sequence[float]) -> ir.Value:
    """The polynomial with the given coefficients, constant term first."""
    total: ir.Value = constant(builder, x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        product = builder.fmul(total, x, flags=("contract",))
        total = builder.fadd(product, constant(builder, x, coefficient), flags=("contract",))
    return total


def _call(builder: ir.IRBuilder, name: str, x: ir.Value) -> ir.Value:
    """LLVM's own function of a vector, such as ``llvm.rint.v16f32``."""
    kind = f"v{LANES}f{32 if x.type.element == ir.FloatType() else 64}"
    function = ir.FunctionType(x.type, [x.type])
    return builder.call(cgutils.get_or_insert_function(builder.module, function, f"llvm.{name}.{kind}"), [x])


def _register_operator(op: Callable[..., Any], instruction: str) -> None:
    """Let ``op`` work on two Lanes, or on Lanes and a scalar that is spread over all lanes."""

    @infer_global(op)
    class _LanesOperator(AbstractTemplate):
        def generic(self, args: tuple[Any, ...], kws: Any) -> Any:
            if len(args) != 2 or not any(isinstance(arg, Lanes) for arg in args):
                return None
            lanes = args[0] if isinstance(args[0], Lanes) else args[1]
            return signature(lanes, *(arg if isinstance(arg, Lanes) else lanes.dtype for arg in args))

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: tuple[ir.Value, ir.Value]) -> ir.Value:
        vectors = [
            value if isinstance(kind, Lanes) else _splat(builder, value)
            for kind, value in zip(sig.args, args, strict=True)
        ]
        return getattr(builder, instruction)(*vectors, flags=("contract",))

    lower_builtin(op, Lanes, Lanes)(lower)
    lower_builtin(op, Lanes, types.Float)(lower)
    lower_builtin(op, types.Float, Lanes)(lower)


for _op, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _register_operator(_op, _instruction)


def pointer_to(
    context: Any,
    builder: ir.IRBuilder,
    array_type: Any,
    array: Any,
    index_type: Any,
    index: Any,
    vector: ir.Type | None = None,
) -> Any:
    """Address of ``array[index]`` as a pointer to a vector, of 16 of its elements unless ``vector`` says otherwise."""
    fields = context.make_array(array_type)(context, builder, value=array)
    indices = [
        context.cast(builder, value, kind, types.intp)
        for value, kind in zip(cgutils.unpack_tuple(builder, index), index_type.types, strict=True)
    ]
    pointer = cgutils.get_item_pointer(context, builder, array_type, fields, indices, wraparound=False)
    vector = vector or ir.VectorType(_element(Lanes(array_type.dtype)), LANES)
    return builder.bitcast(pointer, vector.as_pointer())


@intrinsic
def load_lanes(typingctx: Any, array: Any, index: Any) -> Any:
    """The 16 elements ``array[..., k : k + 16]``; ``index`` = (..., k). The last axis must be contiguous."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        pointer = pointer_to(context, builder, sig.args[0], args[0], sig.args[1], args[1])
        return builder.load(pointer, align=array.dtype.bitwidth // 8)

    return Lanes(array.dtype)(array, index), codegen


@intrinsic
def store_lanes(typingctx: Any, array: Any, index: Any, value: Any) -> Any:
    """Write 16 elements to ``array[..., k : k + 16]``; ``index`` = (..., k)."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        pointer = pointer_to(context, builder, sig.args[0], args[0], sig.args[1], args[1])
        builder.store(args[2], pointer, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, index, value), codegen


@intrinsic
def spread_lanes(typingctx: Any, scalar: Any) -> Any:
    """All 16 lanes equal to one float."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return _splat(builder, args[0])

    return Lanes(scalar)(scalar), codegen


@intrinsic
def store_four_sums(
    typingctx: Any, array: Any, low: Any, high: Any, first: Any, second: Any, third: Any, fourth: Any
) -> Any:  # fmt: skip
    """Write the sums over the lanes of two vectors at ``array[low]`` and next to it, of two more at ``high``.

    The order of the additions is fixed. Summed together, four vectors need 13 instructions instead of 32.
    """

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        def pick(x: ir.Value, y: ir.Value, lanes: list[int]) -> ir.Value:
            mask = ir.VectorType(ir.IntType(32), len(lanes))
            return builder.shuffle_vector(x, y, ir.Constant(mask, lanes))

        def merge(x: ir.Value, y: ir.Value, low: list[int], high: list[int]) -> ir.Value:
            return builder.fadd(pick(x, y, low), pick(x, y, high))

        quads = range(0, LANES, 4)
        pairs = [
            merge(
                x, y,
                [q + offset + j for q in quads for offset in (0, LANES) for j in (0, 1)],
                [q + offset + j for q in quads for offset in (0, LANES) for j in (2, 3)],
            )
            for x, y in (args[3:5], args[5:7])
        ]  # fmt: skip
        total = merge(
            pairs[0],
            pairs[1],
            [q + offset + j for q in quads for offset in (0, LANES) for j in (0, 2)],
            [q + offset + j for q in quads for offset in (0, LANES) for j in (1, 3)],
        )
        for width in (8, 4):
            total = merge(total, total, list(range(width)), list(range(width, 2 * width)))
        for place, lanes in ((1, [0, 1]), (2, [2, 3])):
            pointer = pointer_to(context, builder, sig.args[0], args[0], sig.args[place], args[place])
            pair = pick(total, total, lanes)
            pointer = builder.bitcast(pointer, pair.type.as_pointer())
            builder.store(pair, pointer, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, low, high, first, second, third, fourth), codegen


@intrinsic
def relu_lanes(typingctx: Any, value: Any) -> Any:
    """max(x, 0) lane by lane (NaN becomes 0)."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        zero = constant(builder, args[0], 0.0)
        return builder.select(builder.fcmp_ordered(">", args[0], zero), args[0], zero)

    return value(value), codegen


@intrinsic
def exp2_lanes(typingctx: Any, value: Any) -> Any:
    """2**x lane by lane, relative error below 1e-7 (float) or 1e-15 (double); at least 2**-126; NaN stays.

    Infinite from the last half binade on (floats: from 2**127.5).
    """
    single = value.dtype == types.float32
    mantissa, lowest, highest = (23, -126.0, 128.0) if single else (52, -1022.0, 1024.0)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        x = args[0]
        integer = ir.VectorType(ir.IntType(32 if single else 64), LANES)
        for limit, comparison in ((lowest, "<"), (highest, ">")):
            bound = constant(builder, x, limit)
            x = builder.select(builder.fcmp_ordered(comparison, x, bound), bound, x)
        magic = constant(builder, x, 1.5 * 2.0**mantissa)  # adding it rounds x to an integer in the low bits
        shifted = builder.fadd(x, magic)
        fraction = builder.fsub(x, builder.fsub(shifted, magic))
        power = horner(builder, fraction, (1.0, *(_EXP2_FLOAT if single else _EXP2_DOUBLE)))
        bias = ir.Constant(integer, [2 ** (7 if single else 10) - 1] * LANES)
        exponent = builder.add(builder.bitcast(shifted, integer), bias)
        scale = builder.shl(exponent, ir.Constant(integer, [mantissa] * LANES))
        return builder.fmul(power, builder.bitcast(scale, x.type), flags=("contract",))

    return value(value), codegen


@intrinsic
def log1p_lanes(typingctx: Any, value: Any) -> Any:
    """log(1 + y) for 0 <= y <= 1, as 2 atanh(y / (2 + y)); relative error: some units in the last place."""
    terms = 8 if value.dtype == types.float32 else 17

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        y = args[0]
        s = builder.fdiv(y, builder.fadd(y, constant(builder, y, 2.0)))
        series = horner(builder, builder.fmul(s, s), [2.0 / (2 * k + 1) for k in range(terms)])
        return builder.fmul(s, series)

    return value(value), codegen


@intrinsic
def log2_lanes(typingctx: Any, value: Any) -> Any:
    """log2(x) lane by lane for floats x >= 0, absolute error below 1e-6 near 1; about -127 for 0."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        integer = ir.VectorType(ir.IntType(32), LANES)
        bits = builder.bitcast(args[0], integer)
        above = builder.sub(bits, ir.Constant(integer, [0x3F3504F3] * LANES))  # the bits of sqrt(1/2)
        exponent = builder.ashr(above, ir.Constant(integer, [23] * LANES))
        mantissa = builder.sub(bits, builder.shl(exponent, ir.Constant(integer, [23] * LANES)))
        t = builder.fsub(builder.bitcast(mantissa, args[0].type), constant(builder, args[0], 1.0))
        fraction = builder.fmul(t, horner(builder, t, _LOG2_FLOAT), flags=("contract",))
        return builder.fadd(fraction, builder.sitofp(exponent, args[0].type), flags=("contract",))

    return value(value), codegen


@intrinsic
def nearest_lanes(typingctx: Any, value: Any) -> Any:
    """The nearest whole numbers, halves to even, for floats of any size."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return _call(builder, "rint", args[0])

    return value(value), codegen


@intrinsic
def magnitude_lanes(typingctx: Any, value: Any) -> Any:
    """|x| lane by lane."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return _call(builder, "fabs", args[0])

    return value(value), codegen


@intrinsic
def sum_lanes(typingctx: Any, value: Any) -> Any:
    """The sum of the 16 lanes, in a fixed order."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        total = args[0]
        for width in (8, 4, 2, 1):
            mask = ir.VectorType(ir.IntType(32), width)
            low, high = (
                builder.shuffle_vector(total, total, ir.Constant(mask, list(range(first, first + width))))
                for first in (0, width)
            )
            total = builder.fadd(low, high)
        return builder.extract_element(total, ir.Constant(ir.IntType(32), 0))

    return value.dtype(value), codegen


@intrinsic
def load_float_lanes(typingctx: Any, array: Any, index: Any) -> Any:
    """16 neighbouring numbers as floats, from an array of float32, or of bfloat16 held as int16."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        if array.dtype == types.float32:
            pointer = pointer_to(context, builder, sig.args[0], args[0], sig.args[1], args[1])
            return builder.load(pointer, align=4)
        half, whole = (ir.VectorType(ir.IntType(width), LANES) for width in (16, 32))
        pointer = pointer_to(context, builder, sig.args[0], args[0], sig.args[1], args[1], half)
        bits = builder.zext(builder.load(pointer, align=2), whole)
        shifted = builder.shl(bits, ir.Constant(whole, [16] * LANES))
        return builder.bitcast(shifted, ir.VectorType(ir.FloatType(), LANES))

    return Lanes(types.float32)(array, index), codegen


@intrinsic
def store_byte_lanes(typingctx: Any, array: Any, index: Any, value: Any) -> Any:
    """Write 16 whole numbers in 0..255 to ``array[..., k : k + 16]`` of uint8."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        integers = builder.fptosi(args[2], ir.VectorType(ir.IntType(32), LANES))
        byte_type = ir.VectorType(ir.IntType(8), LANES)
        pointer = pointer_to(context, builder, sig.args[0], args[0], sig.args[1], args[1], byte_type)
        builder.store(builder.trunc(integers, byte_type), pointer, align=1)
        return context.get_dummy_value()

    return types.void(array, index, value), codegen


@intrinsic
def round_lanes(typingctx: Any, value: Any) -> Any:
    """The nearest whole numbers, halves to even; for floats of magnitude below 2**22."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        magic = constant(builder, args[0], 1.5 * 2.0**23)
        return builder.fsub(builder.fadd(args[0], magic), magic)

    return value(value), codegen


@intrinsic
def clamp_lanes(typingctx: Any, value: Any, lowest: Any, highest: Any) -> Any:
    """Each lane brought into lowest..highest (NaN becomes lowest)."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        low, high = _splat(builder, args[1]), _splat(builder, args[2])
        x = builder.select(builder.fcmp_ordered(">", args[0], low), args[0], low)
        return builder.select(builder.fcmp_ordered("<", x, high), x, high)

    return value(value, value.dtype, value.dtype), codegen
