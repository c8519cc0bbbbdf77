"""Codes of 1 to 8 bits, packed row by row without gaps (docs/methods/mpq-dm.md, Packed file).

Inside a row codes follow one another in little-endian bit order; each row begins at a byte. Rows are independently
addressable, whatever their widths.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def row_bytes(n_codes: int, bits: int) -> int:
    """Bytes of a packed row: ceil(n_codes * bits / 8)."""
    return -(-n_codes * bits // 8)


def pack_rows(codes: Array, bits: int, taps: int = 1) -> Array:
    """Pack uint8 codes ``[R, K]``, each below 2^bits, to uint8 ``[R, row_bytes(K, bits)]``.

    Args:
        codes: of K = c_in taps.
        bits: of each.
        taps: kernel positions; with more than one, codes ``[c_in, taps]`` are packed as ``[taps, c_in]``.

    Raises:
        ValueError: a code does not fit.
    """
    if codes.size and int(codes.max()) >= 1 << bits:
        raise ValueError(f"code {int(codes.max())} does not fit in {bits} bits")
    from effcli.quantize.integer.unpacking import run

    packed = np.empty((codes.shape[0], row_bytes(codes.shape[1], bits)), np.uint8)
    run("pack", np.ascontiguousarray(codes), bits, taps, packed)
    return packed


def unpack_rows(packed: Array, bits: int, n_codes: int) -> Array:
    """The inverse for one tap: uint8 ``[R, row_bytes(K, bits)]`` to uint8 codes ``[R, K]``.

    Raises:
        ValueError: the rows have another length than ``n_codes`` codes need.
    """
    codes = np.empty((packed.shape[0], n_codes), np.uint8)
    unpack_into(codes, packed, bits, np.arange(packed.shape[0]))
    return codes


def unpack_into(codes: Array, packed: Array, bits: int, rows: Array, taps: int = 1) -> None:
    """Unpack rows into the rows ``rows`` (int64) of ``codes``, uint8 ``[c_out, K]``; ``taps`` as of :func:`pack_rows`.

    Raises:
        ValueError: the rows have another length than K codes need.
    """
    n_codes = codes.shape[1]
    if packed.shape[1] != row_bytes(n_codes, bits):
        raise ValueError(
            f"{packed.shape[1]} bytes per row, {n_codes} codes of {bits} bits need {row_bytes(n_codes, bits)}"
        )
    from effcli.quantize.integer.unpacking import run

    run("unpack", np.ascontiguousarray(packed), bits, taps, rows, codes)


def look_up(codes: Array, table: Array) -> None:
    """Replace codes ``[R, K]`` in place by the entries of their row's table, uint8 ``[R, 2^b]``."""
    from effcli.quantize.integer.unpacking import run

    run("look_up", codes, np.ascontiguousarray(table))
