"""Vectors of 16 in numba kernels: accuracy of the polynomials, order of the sums."""

# mypy: disable-error-code="call-arg,var-annotated"
# numba gives an intrinsic its first argument itself.

import numba
import numpy as np
import pytest

from effcli.nn.compiled.lane_functions import log1m_lanes, max_lanes, min_lanes
from effcli.nn.compiled.lanes import (
    LANES,
    exp2_lanes,
    load_lanes,
    log1p_lanes,
    relu_lanes,
    store_four_sums,
    store_lanes,
)


@numba.njit
def _exp2(x, out):
    for k in range(0, x.shape[0], LANES):
        store_lanes(out, (k,), exp2_lanes(load_lanes(x, (k,))))


@numba.njit
def _log1p(x, out):
    for k in range(0, x.shape[0], LANES):
        store_lanes(out, (k,), log1p_lanes(load_lanes(x, (k,))))


@numba.njit
def _log1m(x, out):
    for k in range(0, x.shape[0], LANES):
        store_lanes(out, (k,), log1m_lanes(load_lanes(x, (k,))))


@numba.njit
def _largest_and_smallest(x, y, out):
    a, b = load_lanes(x, (0,)), load_lanes(y, (0,))
    store_lanes(out, (0, 0), max_lanes(a, b))
    store_lanes(out, (1, 0), min_lanes(a, b))


@numba.njit
def _arithmetic(x, y, out):
    a, b = load_lanes(x, (0,)), load_lanes(y, (0,))
    store_lanes(out, (0,), relu_lanes(a - b) / (b * 2.0 + 1.0))


@numba.njit
def _four_sums(x, out):
    a, b, c, d = load_lanes(x, (0, 0)), load_lanes(x, (1, 0)), load_lanes(x, (2, 0)), load_lanes(x, (3, 0))
    store_four_sums(out, (0, 1), (1, 2), a, b, c, d)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1.5e-7), (np.float64, 1e-15)])
def test_exp2_is_accurate(dtype, tolerance):
    x = np.linspace(-125.9, 127.4, 16 * 4096).astype(dtype)
    out = np.empty_like(x)
    _exp2(x, out)
    exact = np.exp2(x.astype(np.longdouble))
    assert np.max(np.abs(out / exact - 1)) < tolerance


def test_exp2_at_the_limits():
    x = np.array([0.0, -0.0, 1.0, -1.0, -1e4, -np.inf, 1e4, np.inf, np.nan] + 7 * [0.0], dtype=np.float32)
    out = np.empty_like(x)
    _exp2(x, out)
    assert out[:4].tolist() == [1.0, 1.0, 2.0, 0.5]
    assert np.all(out[4:6] == np.float32(2.0**-126))
    assert np.all(np.isinf(out[6:8]))
    assert np.isnan(out[8])


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 3e-7), (np.float64, 1e-15)])
def test_log1p_is_accurate_for_tiny_arguments_too(dtype, tolerance):
    x = np.concatenate((np.geomspace(1e-30, 1.0, 16 * 1024), np.linspace(1e-3, 1.0, 16 * 1024))).astype(dtype)
    out = np.empty_like(x)
    _log1p(x, out)
    assert np.max(np.abs(out / np.log1p(x.astype(np.longdouble)) - 1)) < tolerance


def test_the_logarithm_of_what_is_left_is_accurate_near_both_ends():
    x = np.concatenate((np.geomspace(1e-30, 0.5, 16 * 1024), 1 - np.geomspace(1e-6, 1.0, 16 * 1024))).astype(
        np.float32
    )
    out = np.empty_like(x)
    _log1m(x, out)
    exact = np.log1p(-x.astype(np.float64))
    assert np.max(np.abs(out - exact) / np.maximum(np.abs(exact), 1e-38)) < 3e-7


def test_the_logarithm_keeps_what_is_not_a_number():
    x = np.array([np.nan, 0.0] * 8, np.float32)
    out = np.empty_like(x)
    _log1m(x, out)
    assert np.all(np.isnan(out[::2])) and np.all(out[1::2] == 0)


def test_the_larger_and_the_smaller_keep_what_is_not_a_number_first():
    x, y = np.linspace(-1, 1, 16, dtype=np.float32), np.linspace(1, -1, 16, dtype=np.float32)
    x[3] = np.nan
    out = np.empty((2, 16), np.float32)
    _largest_and_smallest(x, y, out)
    np.testing.assert_array_equal(out, [np.maximum(x, y), np.minimum(x, y)])


def test_arithmetic_with_vectors_and_scalars():
    x, y = np.arange(16.0), np.full(16, 4.0)
    out = np.empty(16)
    _arithmetic(x, y, out)
    np.testing.assert_array_equal(out, np.maximum(x - y, 0) / 9)


def test_four_sums_go_where_they_belong():
    x = np.arange(64.0).reshape(4, 16) ** 2
    out = np.full((2, 4), -1.0)
    _four_sums(x, out)
    a, b, c, d = x.sum(axis=1)
    np.testing.assert_array_equal(out, [[-1, a, b, -1], [-1, -1, c, d]])
