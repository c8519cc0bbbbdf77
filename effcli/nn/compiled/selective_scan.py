"""Compiled selective scan for CPUs (numba), forward and backward.

Sixteen channels travel together in one vector (:mod:`effcli.nn.compiled.lanes`); the state of a block of 16
channels, N vectors, stays in the first-level cache while the kernel walks over the sequence. softplus, the D
skip and the SiLU gate are part of the same pass. Arrays are [B, L, channels] with channels contiguous and any
stride between tokens, so slices of a projection's output are read in place.

One unit of work is one (batch element, block of 16 channels); units share nothing and every sum over units is
done afterwards in a fixed order, so the result does not depend on the number of threads.

This module imports numba; it is imported on the first call of the ``numba`` backend.
"""

# The kernels are typed by numba, from the signatures in _compiled.
# mypy: allow-untyped-defs, no-check-untyped-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numba
import numpy as np
from numba import types

from effcli.nn.compiled.lanes import (
    LANES,
    exp2_lanes,
    load_lanes,
    log1p_lanes,
    relu_lanes,
    store_four_sums,
    store_lanes,
)
from effcli.nn.compiled.numba_threads import compile_cached, threads

#: Steps between two saved states; the backward pass recomputes this many at a time.
CHUNK = 32

_LOG2E = 1.4426950408889634
_LN2 = 0.6931471805599453


class Inputs(NamedTuple):
    """What both kernels read; float32 or float64, last axes contiguous, D a multiple of 16, N even."""

    u: Any
    """[B, L, D]"""
    delta: Any
    """[B, L, D]"""
    a2: Any
    """log2(e) A^T, [N, D]"""
    b: Any
    """[B, L, N]"""
    c: Any
    """[B, L, N]"""
    d: Any
    """[D]"""
    z: Any
    """[B, L, D], or [0, 0, 0]: no gate"""
    bias: Any
    """[D]"""


class Outputs(NamedTuple):
    """What the forward kernel writes."""

    state: Any
    """[B, N, D]; in: the initial state, out: the final one"""
    y: Any
    """[B, L, D]"""
    saved: Any
    """states at chunk starts, [B, ceil(L / CHUNK), N, D], or [0, ...]: do not save"""


class Gradients(NamedTuple):
    """What the backward kernel reads (saved, dy) and writes (the rest)."""

    saved: Any
    """as in Outputs"""
    dy: Any
    """[B, L, D]"""
    du: Any
    """[B, L, D]"""
    ddelta: Any
    """[B, L, D], before softplus: also the gradient of the bias at each token"""
    dz: Any
    """[B, L, D], or [0, 0, 0]"""
    da: Any
    """[B, N, D], one for each batch element"""
    dbc: Any
    """[B, D / 16, L, 2, N], one for each block of channels: dB, then dC"""
    dd: Any
    """[B, D], one for each batch element"""


@numba.njit
def _softplus(x):
    positive = relu_lanes(x)
    magnitude = positive + positive - x
    return positive + log1p_lanes(exp2_lanes(magnitude * -_LOG2E))


@numba.njit
def _sigmoid(x):
    return 1.0 / (exp2_lanes(x * -_LOG2E) + 1.0)


@numba.njit
def _forward_unit(unit, softplus, x, out):
    """Scan one block of 16 channels of one batch element from the first token to the last."""
    n_blocks = x.u.shape[2] // LANES
    length, n_states = x.u.shape[1], x.a2.shape[0]
    gated, saving = x.z.shape[0] > 0, out.saved.shape[0] > 0
    i, k = unit // n_blocks, (unit % n_blocks) * LANES
    h = np.empty((n_states, LANES), x.a2.dtype)
    a = np.empty((n_states, LANES), x.a2.dtype)
    skip, shift = load_lanes(x.d, (k,)), load_lanes(x.bias, (k,))
    for n in range(n_states):
        store_lanes(a, (n, 0), load_lanes(x.a2, (n, k)))
        store_lanes(h, (n, 0), load_lanes(out.state, (i, n, k)))
    for t in range(length):
        if saving and t % CHUNK == 0:
            for n in range(n_states):
                store_lanes(out.saved, (i, t // CHUNK, n, k), load_lanes(h, (n, 0)))
        u = load_lanes(x.u, (i, t, k))
        step = load_lanes(x.delta, (i, t, k)) + shift
        if softplus:
            step = _softplus(step)
        inflow = step * u
        y = skip * u
        for n in range(n_states):
            decay = exp2_lanes(step * load_lanes(a, (n, 0)))
            now = decay * load_lanes(h, (n, 0)) + inflow * x.b[i, t, n]
            store_lanes(h, (n, 0), now)
            y = y + now * x.c[i, t, n]
        if gated:
            gate = load_lanes(x.z, (i, t, k))
            y = y * gate * _sigmoid(gate)
        store_lanes(out.y, (i, t, k), y)
    for n in range(n_states):
        store_lanes(out.state, (i, n, k), load_lanes(h, (n, 0)))


@numba.njit
def _recompute(i, k, start, size, softplus, x, a, h, decays, steps, ys):
    """Run one chunk again from h[0], keeping every state, decay, step size and ungated output."""
    n_states = a.shape[0]
    skip, shift = load_lanes(x.d, (k,)), load_lanes(x.bias, (k,))
    for s in range(size):
        t = start + s
        u = load_lanes(x.u, (i, t, k))
        step = load_lanes(x.delta, (i, t, k)) + shift
        if softplus:
            step = _softplus(step)
        inflow = step * u
        y = skip * u
        for n in range(n_states):
            decay = exp2_lanes(step * load_lanes(a, (n, 0)))
            now = decay * load_lanes(h, (s, n, 0)) + inflow * x.b[i, t, n]
            store_lanes(decays, (s, n, 0), decay)
            store_lanes(h, (s + 1, n, 0), now)
            y = y + now * x.c[i, t, n]
        store_lanes(steps, (s, 0), step)
        store_lanes(ys, (s, 0), y)


@numba.njit
def _reverse(carry, decays, h, s, n, grad_c):
    """One reverse step of state n: its gradient g, and g · decay · h_{t-1}; the carry becomes g · decay."""
    g = load_lanes(carry, (n, 0)) + grad_c
    back = g * load_lanes(decays, (s, n, 0))
    store_lanes(carry, (n, 0), back)
    return g, back * load_lanes(h, (s, n, 0))


@numba.njit
def _reverse_token(i, block, t, s, grad, step, inflow, x, a, h, decays, carry, da, dbc):
    """All states of one token, two by two: add to da, write dbc, return the gradients of Δu and of Δ (via A)."""
    to_inflow, to_step = grad * 0.0, grad * 0.0
    for n in range(0, a.shape[0], 2):
        m = n + 1
        g0, through0 = _reverse(carry, decays, h, s, n, grad * x.c[i, t, n])
        g1, through1 = _reverse(carry, decays, h, s, m, grad * x.c[i, t, m])
        h0, h1 = load_lanes(h, (s + 1, n, 0)), load_lanes(h, (s + 1, m, 0))
        places = (i, block, t, 0, n), (i, block, t, 1, n)
        store_four_sums(dbc, places[0], places[1], g0 * inflow, g1 * inflow, grad * h0, grad * h1)
        to_inflow = to_inflow + g0 * x.b[i, t, n] + g1 * x.b[i, t, m]
        to_step = to_step + through0 * load_lanes(a, (n, 0)) + through1 * load_lanes(a, (m, 0))
        store_lanes(da, (n, 0), load_lanes(da, (n, 0)) + through0 * step)
        store_lanes(da, (m, 0), load_lanes(da, (m, 0)) + through1 * step)
    return to_inflow, to_step * _LN2


@numba.njit
def _backward_unit(unit, softplus, x, grads):
    """Gradients of one block of 16 channels of one batch element, from the last chunk to the first."""
    n_blocks = x.u.shape[2] // LANES
    length, n_states = x.u.shape[1], x.a2.shape[0]
    i, block = unit // n_blocks, unit % n_blocks
    k = block * LANES
    h = np.empty((CHUNK + 1, n_states, LANES), x.a2.dtype)
    decays = np.empty((CHUNK, n_states, LANES), x.a2.dtype)
    steps = np.empty((CHUNK, LANES), x.a2.dtype)
    ys = np.empty((CHUNK, LANES), x.a2.dtype)
    a = np.empty((n_states, LANES), x.a2.dtype)
    carry = np.zeros((n_states, LANES), x.a2.dtype)
    da = np.zeros((n_states, LANES), x.a2.dtype)
    skip, shift = load_lanes(x.d, (k,)), load_lanes(x.bias, (k,))
    dd = skip * 0.0
    for n in range(n_states):
        store_lanes(a, (n, 0), load_lanes(x.a2, (n, k)))
    for chunk in range((length - 1) // CHUNK, -1, -1):
        start = chunk * CHUNK
        size = min(CHUNK, length - start)
        for n in range(n_states):
            store_lanes(h, (0, n, 0), load_lanes(grads.saved, (i, chunk, n, k)))
        _recompute(i, k, start, size, softplus, x, a, h, decays, steps, ys)
        for s in range(size - 1, -1, -1):
            t = start + s
            u, step, grad = (
                load_lanes(x.u, (i, t, k)),
                load_lanes(steps, (s, 0)),
                load_lanes(grads.dy, (i, t, k)),
            )
            if x.z.shape[0] > 0:
                gate = load_lanes(x.z, (i, t, k))
                opening = _sigmoid(gate)
                slope = opening * (gate * (1.0 - opening) + 1.0)
                store_lanes(grads.dz, (i, t, k), grad * load_lanes(ys, (s, 0)) * slope)
                grad = grad * gate * opening
            dd = dd + grad * u
            to_inflow, to_step = _reverse_token(
                i, block, t, s, grad, step, step * u, x, a, h, decays, carry, da, grads.dbc
            )
            to_step = to_step + u * to_inflow
            if softplus:
                to_step = to_step * _sigmoid(load_lanes(x.delta, (i, t, k)) + shift)
            store_lanes(grads.du, (i, t, k), grad * skip + step * to_inflow)
            store_lanes(grads.ddelta, (i, t, k), to_step)
    store_lanes(grads.dd, (i, k), dd)
    for n in range(n_states):
        store_lanes(grads.da, (i, n, k), load_lanes(da, (n, 0)))


# numba converts the layout of array arguments but not of arrays inside a tuple, so the entry points take them
# one by one.


def _forward_serial(n, softplus, u, delta, a2, b, c, d, z, bias, state, y, saved):
    x, out = Inputs(u, delta, a2, b, c, d, z, bias), Outputs(state, y, saved)
    for unit in range(n):
        _forward_unit(unit, softplus, x, out)


def _forward_parallel(n, softplus, u, delta, a2, b, c, d, z, bias, state, y, saved):
    x, out = Inputs(u, delta, a2, b, c, d, z, bias), Outputs(state, y, saved)
    for unit in numba.prange(n):
        _forward_unit(unit, softplus, x, out)


def _backward_serial(n, softplus, u, delta, a2, b, c, d, z, bias, saved, dy, du, ddelta, dz, da, dbc, dd):
    x, grads = Inputs(u, delta, a2, b, c, d, z, bias), Gradients(saved, dy, du, ddelta, dz, da, dbc, dd)
    for unit in range(n):
        _backward_unit(unit, softplus, x, grads)


def _backward_parallel(n, softplus, u, delta, a2, b, c, d, z, bias, saved, dy, du, ddelta, dz, da, dbc, dd):
    x, grads = Inputs(u, delta, a2, b, c, d, z, bias), Gradients(saved, dy, du, ddelta, dz, da, dbc, dd)
    for unit in numba.prange(n):
        _backward_unit(unit, softplus, x, grads)


@cache
def _compiled(direction: str, dtype: str, parallel: bool) -> Callable[..., None]:
    """The kernel for ``"float32"`` or ``"float64"``, from numba's cache on disk when it is there."""
    kernels: dict[str, tuple[Callable[..., None], Callable[..., None], tuple[int, ...]]] = {
        "forward": (_forward_serial, _forward_parallel, (3, 3, 4)),
        "backward": (_backward_serial, _backward_parallel, (4, 3, 3, 3, 3, 3, 5, 2)),
    }
    serial, threaded, dims = kernels[direction]
    arrays = [types.Array(getattr(types, dtype), ndim, "A") for ndim in (3, 3, 2, 3, 3, 1, 3, 1, *dims)]
    signature = types.void(types.intp, types.boolean, *arrays)
    return compile_cached(threaded if parallel else serial, signature, parallel=parallel)


def run(direction: str, softplus: bool, x: Inputs, others: Outputs | Gradients, n_threads: int) -> None:
    """Run the ``"forward"`` or ``"backward"`` kernel over all units.

    The threads are numba's (OpenMP where it is installed), never more than ``n_threads``. One thread means the
    serial kernel, which is safe in a forked process too.
    """
    n_units = x.u.shape[0] * (x.u.shape[2] // LANES)
    kernel = _compiled(direction, str(x.u.dtype), n_threads > 1)
    if n_threads == 1:
        kernel(n_units, softplus, *x, *others)
        return
    with threads(min(n_threads, n_units)):
        kernel(n_units, softplus, *x, *others)
