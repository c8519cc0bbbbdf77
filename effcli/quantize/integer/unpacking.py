"""Packed rows to what layers compute with, compiled (numba): codes, int8 in a kernel's own order, or floats.

Rows hold their codes kernel position by kernel position (``[taps, c_in]``), as :class:`effcli.quantize.packed.rows.
PackedRows` keeps them. ``rows`` says which output channel each packed row is.

This module imports numba; it is imported when the first rows are packed or unpacked.
"""

# The kernels are typed by numba, from the signatures in _compiled.
# mypy: allow-untyped-defs, no-check-untyped-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numba
import numpy as np
import torch
from numba import types

from effcli.nn.compiled.few_bits import AT_ONCE, code_at, unpack
from effcli.nn.compiled.lanes import LANES
from effcli.nn.compiled.numba_threads import compile_cached, threads

Array = np.ndarray

_ROWS_AT_ONCE = 16
"""Rows whose words fill a cache line together in the order of matrix kernels."""
_MANY = 1 << 15
"""Codes from which more than one thread pays."""


@numba.njit
def _pack_unit(unit, codes, bits, taps, out):
    c_in = codes.shape[1] // taps
    for r in range(unit * _ROWS_AT_ONCE, min((unit + 1) * _ROWS_AT_ONCE, codes.shape[0])):
        waiting, n_bits, byte = 0, 0, 0
        for tap in range(taps):
            for i in range(c_in):
                waiting |= int(codes[r, i * taps + tap]) << n_bits
                n_bits += bits
                while n_bits >= 8:
                    out[r, byte] = waiting & 255
                    waiting >>= 8
                    n_bits -= 8
                    byte += 1
        if n_bits:
            out[r, byte] = waiting & 255


@numba.njit
def _unpack_unit(unit, packed, bits, taps, rows, out):
    c_in = out.shape[1] // taps
    words = np.empty(LANES, np.int32)
    codes = words.view(np.uint8)
    n_whole = out.shape[1] - out.shape[1] % AT_ONCE
    for n in range(unit * _ROWS_AT_ONCE, min((unit + 1) * _ROWS_AT_ONCE, packed.shape[0])):
        r, tap, i = rows[n], 0, 0
        for first in range(0, out.shape[1], AT_ONCE):
            if first < n_whole:
                unpack(packed, n, first * bits // 8, bits, np.int8(0), words)
                if taps == 1:
                    for k in range(AT_ONCE):
                        out[r, first + k] = codes[k]
                    continue
            for k in range(min(AT_ONCE, out.shape[1] - first)):
                code = codes[k] if first < n_whole else np.uint8(code_at(packed, n, first + k, bits))
                out[r, i * taps + tap if taps > 1 else first + k] = code
                i += 1
                if i == c_in:
                    i, tap = 0, tap + 1


@numba.njit
def _place_unit(unit, packed, bits, rows, offsets, row_places, word_places, out):
    """Codes less each row's offset, four input channels to a word, each word to its place."""
    n_words = word_places.shape[0]
    words = np.empty(LANES, np.int32)
    codes = words.view(np.int8)
    last = min((unit + 1) * _ROWS_AT_ONCE, packed.shape[0])
    for first in range(0, n_words, LANES):
        count = min(LANES, n_words - first)
        for n in range(unit * _ROWS_AT_ONCE, last):
            r = rows[n]
            if count == LANES:
                unpack(packed, n, 4 * first * bits // 8, bits, np.int8(offsets[r]), words)
            else:
                for k in range(4 * count):
                    codes[k] = np.int8(code_at(packed, n, 4 * first + k, bits) - offsets[r])
            place = row_places[r]
            for k in range(count):
                out[place + word_places[first + k]] = words[k]


@numba.njit
def _floats_unit(unit, packed, bits, taps, rows, scale, zero, in_scale, out):
    """(code - z) d delta, ``[c_out, taps c_in]``."""
    n_codes = out.shape[1]
    c_in = n_codes // taps
    words = np.empty(LANES, np.int32)
    codes = words.view(np.uint8)
    for n in range(unit * _ROWS_AT_ONCE, min((unit + 1) * _ROWS_AT_ONCE, packed.shape[0])):
        r = rows[n]
        d, z = scale[r], zero[r]
        n_whole = n_codes - n_codes % AT_ONCE
        for first in range(0, n_whole, AT_ONCE):
            unpack(packed, n, first * bits // 8, bits, np.int8(0), words)
            for k in range(AT_ONCE):
                out[r, first + k] = (np.float32(codes[k]) - z) * d
        for k in range(n_whole, n_codes):
            out[r, k] = (np.float32(code_at(packed, n, k, bits)) - z) * d
        for tap in range(taps):
            for i in range(c_in):
                out[r, tap * c_in + i] *= in_scale[i]


@numba.njit
def _look_up_unit(unit, codes, table):
    for r in range(unit * _ROWS_AT_ONCE, min((unit + 1) * _ROWS_AT_ONCE, codes.shape[0])):
        for k in range(codes.shape[1]):
            codes[r, k] = table[r, codes[r, k]]


@numba.njit
def _place_levels_unit(unit, packed, bits, rows, levels, row_places, word_places, out):
    """As _place_unit, of the entries of each row's table."""
    n_words = word_places.shape[0]
    words = np.empty(LANES, np.int32)
    codes, entries = words.view(np.uint8), words.view(np.int8)
    last = min((unit + 1) * _ROWS_AT_ONCE, packed.shape[0])
    for first in range(0, n_words, LANES):
        count = min(LANES, n_words - first)
        for n in range(unit * _ROWS_AT_ONCE, last):
            r = rows[n]
            if count == LANES:
                unpack(packed, n, 4 * first * bits // 8, bits, np.int8(0), words)
            else:
                for k in range(4 * count):
                    codes[k] = np.uint8(code_at(packed, n, 4 * first + k, bits))
            for k in range(4 * count):
                entries[k] = levels[r, codes[k]]
            place = row_places[r]
            for k in range(count):
                out[place + word_places[first + k]] = words[k]


@numba.njit
def _float_levels_unit(unit, packed, bits, taps, rows, levels, in_scale, out):
    """level delta, ``[c_out, taps c_in]``."""
    n_codes = out.shape[1]
    c_in = n_codes // taps
    words = np.empty(LANES, np.int32)
    codes = words.view(np.uint8)
    for n in range(unit * _ROWS_AT_ONCE, min((unit + 1) * _ROWS_AT_ONCE, packed.shape[0])):
        r = rows[n]
        n_whole = n_codes - n_codes % AT_ONCE
        for first in range(0, n_whole, AT_ONCE):
            unpack(packed, n, first * bits // 8, bits, np.int8(0), words)
            for k in range(AT_ONCE):
                out[r, first + k] = levels[r, codes[k]]
        for k in range(n_whole, n_codes):
            out[r, k] = levels[r, code_at(packed, n, k, bits)]
        for tap in range(taps):
            for i in range(c_in):
                out[r, tap * c_in + i] *= in_scale[i]


def _pack_serial(n, codes, bits, taps, out):
    for unit in range(n):
        _pack_unit(unit, codes, bits, taps, out)


def _pack_parallel(n, codes, bits, taps, out):
    for unit in numba.prange(n):
        _pack_unit(unit, codes, bits, taps, out)


def _unpack_serial(n, packed, bits, taps, rows, out):
    for unit in range(n):
        _unpack_unit(unit, packed, bits, taps, rows, out)


def _unpack_parallel(n, packed, bits, taps, rows, out):
    for unit in numba.prange(n):
        _unpack_unit(unit, packed, bits, taps, rows, out)


def _place_serial(n, packed, bits, rows, offsets, row_places, word_places, out):
    for unit in range(n):
        _place_unit(unit, packed, bits, rows, offsets, row_places, word_places, out)


def _place_parallel(n, packed, bits, rows, offsets, row_places, word_places, out):
    for unit in numba.prange(n):
        _place_unit(unit, packed, bits, rows, offsets, row_places, word_places, out)


def _floats_serial(n, packed, bits, taps, rows, scale, zero, in_scale, out):
    for unit in range(n):
        _floats_unit(unit, packed, bits, taps, rows, scale, zero, in_scale, out)


def _floats_parallel(n, packed, bits, taps, rows, scale, zero, in_scale, out):
    for unit in numba.prange(n):
        _floats_unit(unit, packed, bits, taps, rows, scale, zero, in_scale, out)


def _look_up_serial(n, codes, table):
    for unit in range(n):
        _look_up_unit(unit, codes, table)


def _look_up_parallel(n, codes, table):
    for unit in numba.prange(n):
        _look_up_unit(unit, codes, table)


def _place_levels_serial(n, packed, bits, rows, levels, row_places, word_places, out):
    for unit in range(n):
        _place_levels_unit(unit, packed, bits, rows, levels, row_places, word_places, out)


def _place_levels_parallel(n, packed, bits, rows, levels, row_places, word_places, out):
    for unit in numba.prange(n):
        _place_levels_unit(unit, packed, bits, rows, levels, row_places, word_places, out)


def _float_levels_serial(n, packed, bits, taps, rows, levels, in_scale, out):
    for unit in range(n):
        _float_levels_unit(unit, packed, bits, taps, rows, levels, in_scale, out)


def _float_levels_parallel(n, packed, bits, taps, rows, levels, in_scale, out):
    for unit in numba.prange(n):
        _float_levels_unit(unit, packed, bits, taps, rows, levels, in_scale, out)


_BYTES, _COUNT = types.Array(types.uint8, 2, "C"), types.intp
_LONGS, _FLOATS = types.Array(types.int64, 1, "C"), types.Array(types.float32, 1, "C")
_WORDS, _TABLE = types.Array(types.int32, 1, "C"), types.Array(types.float32, 2, "C")
_KERNELS: dict[str, tuple[Callable[..., None], Callable[..., None], tuple[Any, ...]]] = {
    "pack": (_pack_serial, _pack_parallel, (_BYTES, _COUNT, _COUNT, _BYTES)),
    "unpack": (_unpack_serial, _unpack_parallel, (_BYTES, _COUNT, _COUNT, _LONGS, _BYTES)),
    "place": (
        _place_serial,
        _place_parallel,
        (_BYTES, _COUNT, _LONGS, _LONGS, _LONGS, _WORDS, _WORDS),
    ),
    "floats": (
        _floats_serial,
        _floats_parallel,
        (_BYTES, _COUNT, _COUNT, _LONGS, _FLOATS, _FLOATS, _FLOATS, _TABLE),
    ),
    "look_up": (_look_up_serial, _look_up_parallel, (_BYTES, _BYTES)),
    "place_levels": (
        _place_levels_serial,
        _place_levels_parallel,
        (_BYTES, _COUNT, _LONGS, types.Array(types.int8, 2, "C"), _LONGS, _WORDS, _WORDS),
    ),
    "float_levels": (
        _float_levels_serial,
        _float_levels_parallel,
        (_BYTES, _COUNT, _COUNT, _LONGS, _TABLE, _FLOATS, _TABLE),
    ),
}


@cache
def _compiled(name: str, parallel: bool) -> Callable[..., None]:
    serial, threaded, arguments = _KERNELS[name]
    return compile_cached(threaded if parallel else serial, types.void(_COUNT, *arguments), parallel=parallel)


def run(name: str, rows: Array, *arguments: Any) -> None:
    """Run a kernel over the rows of ``rows``, which is its first argument.

    Args:
        name: ``pack`` (codes, bits, taps, out), ``unpack`` (packed, bits, taps, rows, out), ``place`` (packed, bits,
            rows, offsets, row_places, word_places, out) or ``floats`` (packed, bits, taps, rows, scale, zero, in_scale,
            out). Of rows with a table ``look_up`` (codes, table), ``place_levels`` (packed, bits, rows, levels,
            row_places, word_places, out) or ``float_levels`` (packed, bits, taps, rows, levels, in_scale, out).
        rows, arguments: contiguous arrays of the dtypes that ``_KERNELS`` names, and numbers.
    """
    n_units = -(-rows.shape[0] // _ROWS_AT_ONCE)
    n_threads = min(torch.get_num_threads(), n_units) if rows.size >= _MANY else 1
    kernel = _compiled(name, n_threads > 1)
    if n_threads <= 1:
        kernel(n_units, rows, *arguments)
        return
    with threads(n_threads):
        kernel(n_units, rows, *arguments)
