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


def pack_rows(codes: Array, bits: int) -> Array:
    """Pack uint8 codes ``[R, K]``, each below 2^bits, to uint8 ``[R, row_bytes(K, bits)]``.

    Raises:
        ValueError: a code does not fit.
    """
    if codes.size and int(codes.max()) >= 1 << bits:
        raise ValueError(f"code {int(codes.max())} does not fit in {bits} bits")
    planes = np.unpackbits(codes[..., None], axis=2, bitorder="little", count=bits)
    return np.packbits(planes.reshape(codes.shape[0], codes.shape[1] * bits), axis=1, bitorder="little")


def unpack_rows(packed: Array, bits: int, n_codes: int) -> Array:
    """The inverse: uint8 ``[R, row_bytes(K, bits)]`` to uint8 codes ``[R, K]``.

    Raises:
        ValueError: the rows have another length than ``n_codes`` codes need.
    """
    if packed.shape[1] != row_bytes(n_codes, bits):
        raise ValueError(
            f"{packed.shape[1]} bytes per row, {n_codes} codes of {bits} bits need {row_bytes(n_codes, bits)}"
        )
    planes = np.unpackbits(packed, axis=1, bitorder="little", count=n_codes * bits)
    return np.packbits(planes.reshape(packed.shape[0], n_codes, bits), axis=2, bitorder="little")[..., 0]
