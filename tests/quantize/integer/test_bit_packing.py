"""Packed rows: exact round trips, sizes, and the bit order bit by bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effcli.quantize.integer.bit_packing import pack_rows, row_bytes, unpack_into, unpack_rows


def by_bits(codes, bits):
    """The definition: the bits of all codes of a row, one after another."""
    planes = np.unpackbits(codes[..., None], axis=2, bitorder="little", count=bits)
    return np.packbits(planes.reshape(codes.shape[0], codes.shape[1] * bits), axis=1, bitorder="little")


@settings(deadline=None)
@given(st.integers(1, 8), st.integers(1, 140), st.integers(0, 5), st.integers(0, 2**32 - 1))
def test_unpacking_gives_back_every_code(bits, n_codes, n_rows, seed):
    codes = np.random.default_rng(seed).integers(0, 1 << bits, (n_rows, n_codes), dtype=np.uint8)
    packed = pack_rows(codes, bits)
    assert packed.shape == (n_rows, row_bytes(n_codes, bits))
    np.testing.assert_array_equal(packed, by_bits(codes, bits))
    np.testing.assert_array_equal(unpack_rows(packed, bits, n_codes), codes)


@pytest.mark.parametrize("bits", [1, 3, 4, 7])
@pytest.mark.parametrize("c_in", [5, 16])
def test_rows_of_convolutions_are_kept_tap_by_tap(bits, c_in):
    codes = np.random.default_rng(0).integers(0, 1 << bits, (37, c_in * 9), dtype=np.uint8)
    rows = np.random.default_rng(1).permutation(37)
    packed = pack_rows(codes[rows], bits, taps=9)
    turned = codes[rows].reshape(37, c_in, 9).transpose(0, 2, 1).reshape(37, -1)
    np.testing.assert_array_equal(packed, by_bits(turned, bits))
    again = np.zeros_like(codes)
    unpack_into(again, packed, bits, rows, taps=9)
    np.testing.assert_array_equal(again, codes)


def test_bit_order():
    codes = np.array([[0b101, 0b011, 0b110]], dtype=np.uint8)
    number = sum(int(code) << (3 * i) for i, code in enumerate(codes[0]))
    assert pack_rows(codes, 3).tolist() == [[number & 255, number >> 8]]


def test_payload_of_a_layer_of_three_widths():
    rows = {3: 19, 2: 154, 1: 19}
    assert sum(n * row_bytes(1728, bits) for bits, n in rows.items()) == 82_944


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="code 4 does not fit in 2 bits"):
        pack_rows(np.array([[4]], dtype=np.uint8), 2)
    with pytest.raises(ValueError, match="need 2"):
        unpack_rows(np.zeros((1, 3), dtype=np.uint8), 2, 5)
