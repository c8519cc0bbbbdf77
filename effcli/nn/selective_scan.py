"""Selective scan: the recurrence of a Mamba block, with several interchangeable backends.

For each batch element and channel ("Mamba: Linear-Time Sequence Modeling with Selective State Spaces",
section 3)::

    Δ_t = softplus(delta_t + delta_bias)
    h_t = exp(Δ_t A) ⊙ h_{t-1} + Δ_t u_t B_t
    y_t = (<h_t, C_t> + D u_t) · silu(z_t)

Semantics are those of ``mamba_ssm`` 1.2.0 (``selective_scan_ref``); the layout is tokens first,
``[B, L, channels]``, because that is what the projections around the scan produce and it lets a CPU work on
neighbouring channels at once. The state is float32 (float64 for float64 inputs), whatever the inputs are.
"""

from __future__ import annotations

import importlib
import math
from functools import cache, partial
from typing import Any, Literal, NamedTuple, overload

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from effcli.core.errors import UsageError

BACKENDS = ("auto", "mamba", "numba", "chunked", "loop")

#: Bytes of states that the chunked backend holds at a time.
CHUNKED_STATE_BYTES = 64 * 2**20


@overload
def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor,
    z: Tensor | None = None, delta_bias: Tensor | None = None, *,
    delta_softplus: bool = True, state: Tensor | None = None, return_state: Literal[False] = False,
    backend: str = "auto",
) -> Tensor: ...  # fmt: skip


@overload
def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor,
    z: Tensor | None = None, delta_bias: Tensor | None = None, *,
    delta_softplus: bool = True, state: Tensor | None = None, return_state: bool,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]: ...  # fmt: skip


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    *,
    delta_softplus: bool = True,
    state: Tensor | None = None,
    return_state: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Selective scan of Mamba (S6 recurrence with D skip and SiLU gate; see the module docstring).

    Args:
        u: input, ``[B, L, d_inner]``; float32, float64, bfloat16 or float16.
        delta: step sizes before bias and softplus, ``[B, L, d_inner]``.
        A: ``[d_inner, N]``, normally negative.
        B: input matrix of each token, ``[B, L, N]``.
        C: output matrix of each token, ``[B, L, N]``.
        D: skip weight, ``[d_inner]``.
        z: gate, ``[B, L, d_inner]``; the output is multiplied by ``silu(z)``.
        delta_bias: ``[d_inner]``, added to ``delta`` before softplus.
        delta_softplus: whether softplus is applied to ``delta + delta_bias``.
        state: state before the first token, ``[B, d_inner, N]`` (None: zeros). No gradient flows through it.
        return_state: also return the state after the last token, detached: with it a long sequence can be
            processed in consecutive pieces.
        backend: one of ``BACKENDS``; ``"auto"`` is :func:`choose_backend`.

    Returns:
        ``y [B, L, d_inner]`` in u's dtype, and with ``return_state`` the final state ``[B, d_inner, N]``.

    Raises:
        ValueError: shapes do not fit, the sequence is empty, or ``state`` requires a gradient.
        UsageError: the backend is unknown or cannot work here.
    """
    x = _Scan(u, delta, A, B, C, D, z, delta_bias, state, delta_softplus)
    _check_shapes(x)
    name = _resolve_backend(backend, u, state)
    if name == "mamba":
        y, last = _scan_mamba(x)
    else:
        scan = {"numba": _scan_numba, "chunked": _scan_chunked, "loop": _scan_loop}[name]
        with torch.autocast(u.device.type, enabled=False):
            y, last = scan(*_exact(x))
    return (y.to(u.dtype), last.detach()) if return_state else y.to(u.dtype)


class _Scan(NamedTuple):
    """The arguments of :func:`selective_scan`."""

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor
    z: Tensor | None
    delta_bias: Tensor | None
    state: Tensor | None
    softplus: bool


def _exact(x: _Scan) -> tuple[_Scan, Tensor]:
    """All tensors in the precision of the state, and the initial state."""
    dtype = torch.float64 if x.u.dtype == torch.float64 else torch.float32
    tensors: dict[str, Any] = {key: value for key, value in x._asdict().items() if isinstance(value, Tensor)}
    cast = x._replace(**{key: tensor.to(dtype) for key, tensor in tensors.items()})
    if cast.state is None:
        return cast, x.u.new_zeros((x.u.shape[0], *x.A.shape), dtype=dtype)
    return cast, cast.state.detach()


def _check_shapes(x: _Scan) -> None:
    u, A = x.u, x.A
    if u.ndim != 3 or A.ndim != 2 or u.shape[1] == 0:
        raise ValueError(
            f"u must be [B, L >= 1, d_inner] and A [d_inner, N]; got {[*u.shape]} and {[*A.shape]}"
        )
    batch, length, width = u.shape
    n_states = A.shape[1]
    shapes = {
        "delta": (batch, length, width),
        "A": (width, n_states),
        "B": (batch, length, n_states),
        "C": (batch, length, n_states),
        "D": (width,),
        "z": (batch, length, width),
        "delta_bias": (width,),
        "state": (batch, width, n_states),
    }
    for name, shape in shapes.items():
        tensor = getattr(x, name)
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(f"{name} must have shape {[*shape]}; got {[*tensor.shape]}")
    if x.state is not None and x.state.requires_grad and torch.is_grad_enabled():
        raise ValueError("no gradient flows through the initial state; pass state.detach()")


# --- choice of backend ----------------------------------------


@cache
def _importable(module: str) -> bool:
    try:
        importlib.import_module(module)
    except (ImportError, OSError, RuntimeError):  # a broken build of a CUDA extension raises any of these
        return False
    return True


def available_backends(device_type: str) -> tuple[str, ...]:
    """Names of the backends that can work on ``"cpu"``, ``"cuda"`` or ``"mps"``, fastest first."""
    found = []
    if device_type == "cuda" and _importable("mamba_ssm.ops.selective_scan_interface"):
        found.append("mamba")
    if device_type == "cpu" and _importable("numba"):
        found.append("numba")
    return (*found, "chunked", "loop")


def choose_backend(tensor: Tensor) -> str:
    """The backend that ``"auto"`` uses for tensors like this one."""
    return available_backends(tensor.device.type)[0]


def _resolve_backend(backend: str, u: Tensor, state: Tensor | None) -> str:
    usable = available_backends(u.device.type)
    if backend == "auto":
        return next(
            name
            for name in usable
            if not (name == "mamba" and (state is not None or u.dtype == torch.float64))
        )
    if backend not in BACKENDS:
        raise UsageError(f"unknown scan backend {backend!r}", hint=f"one of {', '.join(BACKENDS)}")
    if backend not in usable:
        raise UsageError(
            f"scan backend {backend!r} cannot work on {u.device.type} here",
            hint=f"available: {', '.join(usable)}",
        )
    if backend == "mamba" and state is not None:
        raise UsageError("scan backend 'mamba' cannot start from a state", hint="use 'chunked' or 'auto'")
    return backend


# --- plain PyTorch ----------------------------------------


def _step_sizes(x: _Scan) -> Tensor:
    step = x.delta if x.delta_bias is None else x.delta + x.delta_bias
    return F.softplus(step) if x.softplus else step


def _skip_and_gate(y: Tensor, x: _Scan) -> Tensor:
    y = y + x.D * x.u
    return y if x.z is None else y * F.silu(x.z)


def _recur(u: Tensor, step: Tensor, A: Tensor, B: Tensor, C: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """The recurrence over axis -2 of u, step ``[..., T, D]``, B, C ``[..., T, N]`` from h ``[..., D, N]``."""
    outputs = []
    for t in range(u.shape[-2]):
        decay = torch.exp(step[..., t, :, None] * A)
        h = decay * h + (step[..., t, :] * u[..., t, :])[..., None] * B[..., t, None, :]
        outputs.append((h @ C[..., t, :, None]).squeeze(-1))
    return torch.stack(outputs, dim=-2), h


def _scan_loop(x: _Scan, h: Tensor) -> tuple[Tensor, Tensor]:
    """One token after another: the oracle."""
    y, h = _recur(x.u, _step_sizes(x), x.A, x.B, x.C, h)
    return _skip_and_gate(y, x), h


def _scan_chunked(x: _Scan, h: Tensor) -> tuple[Tensor, Tensor]:
    """Pieces of bounded memory, each cut into about √L chunks that advance together."""
    piece = max(64, CHUNKED_STATE_BYTES // (x.u.shape[0] * x.A.numel() * x.u.element_size()))
    keep_little = torch.is_grad_enabled() and x.u.shape[1] > piece
    step = _step_sizes(x)
    outputs = []
    for start in range(0, x.u.shape[1], piece):
        u, dt, B, C = (tensor[:, start : start + piece] for tensor in (x.u, step, x.B, x.C))
        if keep_little:
            y, h = checkpoint(_scan_piece, u, dt, x.A, B, C, h, use_reentrant=False)
        else:
            y, h = _scan_piece(u, dt, x.A, B, C, h)
        outputs.append(y)
    return _skip_and_gate(torch.cat(outputs, dim=1), x), h


def _scan_piece(u: Tensor, step: Tensor, A: Tensor, B: Tensor, C: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """Exact scan of one piece with T + K steps instead of T·K.

    Every chunk runs T steps from a zero state; K steps carry the states from chunk to chunk with
    exp(A ΣΔ); each output adds <exp(A Σ_{s<=t} Δ_s) h_start, C_t>. All factors are at most 1 for A <= 0.
    """
    batch, length, _ = u.shape
    T = math.isqrt(length)
    K = -(-length // T)
    # Padding has Δ = 0: it neither decays nor feeds the state.
    u, step, B, C = (
        F.pad(tensor, (0, 0, 0, K * T - length)).reshape(batch, K, T, -1) for tensor in (u, step, B, C)
    )
    y, ends = _recur(u, step, A, B, C, u.new_zeros(batch, K, *A.shape))
    elapsed = step.cumsum(dim=2)
    through = torch.exp(elapsed[:, :, -1, :, None] * A)
    starts = []
    for k in range(K):
        starts.append(h)
        h = through[:, k] * h + ends[:, k]
    start = torch.stack(starts, dim=1)
    late = [
        (torch.exp(elapsed[:, :, t, :, None] * A) * start @ C[:, :, t, :, None]).squeeze(-1) for t in range(T)
    ]
    y = y + torch.stack(late, dim=2)
    return y.flatten(1, 2)[:, :length], h


# --- mamba_ssm ----------------------------------------


def _scan_mamba(x: _Scan) -> tuple[Tensor, Tensor]:
    """mamba_ssm's CUDA kernel, which wants ``[B, channels, L]``."""
    kernel = importlib.import_module("mamba_ssm.ops.selective_scan_interface").selective_scan_fn
    u, delta, B, C, z = (
        None if tensor is None else tensor.to(x.u.dtype).transpose(1, 2)
        for tensor in (x.u, x.delta, x.B, x.C, x.z)
    )
    bias = None if x.delta_bias is None else x.delta_bias.float()
    y, last = kernel(u, delta, x.A.float(), B, C, x.D.float(), z, bias, x.softplus, True)
    return y.transpose(1, 2), last.float()


# --- compiled CPU kernels ----------------------------------------


def _scan_numba(x: _Scan, h: Tensor) -> tuple[Tensor, Tensor]:
    """The compiled kernel, after padding channels to a multiple of its vectors and states to pairs."""
    width, n_states = x.A.shape
    lanes, pair = -width % _LANES, n_states % 2  # a state with B = 0 stays zero
    u, delta, D = (_padded(tensor, lanes) for tensor in (x.u, x.delta, x.D))
    z = None if x.z is None else _padded(x.z, lanes)
    bias = torch.zeros_like(D) if x.delta_bias is None else _padded(x.delta_bias, lanes)
    A, h = (_padded(tensor, pair, lanes) for tensor in (x.A, h))
    B, C = (_padded(tensor, pair) for tensor in (x.B, x.C))
    saving = torch.is_grad_enabled()
    y, last = _NumbaScan.apply(u, delta, A, B, C, D, z, bias, x.softplus, h, saving)
    return y[..., :width], last[:, :width, :n_states]


_LANES = 16  # effcli.nn.compiled.lanes.LANES, known here without importing numba
_LOG2E = math.log2(math.e)


def _padded(x: Tensor, columns: int, rows: int = 0) -> Tensor:
    """Zeros after the last column and the last row; x itself when there is nothing to add."""
    if not columns and not rows:
        return x
    return F.pad(x, (0, columns, 0, rows) if rows else (0, columns))


def _channels_contiguous(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


class _NumbaScan(torch.autograd.Function):
    """Forward and backward through the compiled kernels; d_inner a multiple of 16, N even."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor]:
        u, delta, A, B, C, D, z, bias, softplus, h, saving = args
        from effcli.nn.compiled import selective_scan as cpu

        a2 = (A.detach().T * _LOG2E).contiguous()
        gate = u.new_empty(0, 0, 0) if z is None else z
        inputs = [_channels_contiguous(x.detach()) for x in (u, delta, a2, B, C, D, gate, bias)]
        saving = saving and any(ctx.needs_input_grad)
        n_saved = u.shape[0] if saving else 0
        saved = u.new_empty(n_saved, -(-u.shape[1] // cpu.CHUNK), a2.shape[0], u.shape[2])
        state = h.transpose(1, 2).clone(memory_format=torch.contiguous_format)
        y = torch.empty(u.shape, dtype=u.dtype)
        outputs = cpu.Outputs(*(x.numpy() for x in (state, y, saved)))
        cpu.run(
            "forward", softplus, cpu.Inputs(*(x.numpy() for x in inputs)), outputs, torch.get_num_threads()
        )
        last = state.transpose(1, 2)
        ctx.mark_non_differentiable(last)
        ctx.set_materialize_grads(False)
        if saving:
            ctx.save_for_backward(*inputs, saved)
            ctx.softplus = softplus
        return y, last

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor | None, _: Any) -> tuple[Tensor | None, ...]:
        if dy is None:
            return (None,) * 11
        from effcli.nn.compiled import selective_scan as cpu

        *inputs, saved = ctx.saved_tensors
        u, a2, gate = inputs[0], inputs[2], inputs[6]
        batch, length, width = u.shape
        n_states, n_blocks = a2.shape[0], width // _LANES
        new = partial(torch.empty, dtype=u.dtype)
        du, ddelta, dz, da = new(u.shape), new(u.shape), new(gate.shape), new(batch, n_states, width)
        dbc, dd = new(batch, n_blocks, length, 2, n_states), new(batch, width)
        grads = (saved, _channels_contiguous(dy.detach()), du, ddelta, dz, da, dbc, dd)
        cpu.run(
            "backward", ctx.softplus, cpu.Inputs(*(x.numpy() for x in inputs)),
            cpu.Gradients(*(x.numpy() for x in grads)), torch.get_num_threads(),
        )  # fmt: skip
        db, dc = (dbc.sum(1) if n_blocks > 1 else dbc.squeeze(1)).unbind(-2)
        return (
            du, ddelta, da.sum(0).T, db, dc, dd.sum(0), dz if gate.numel() else None, ddelta.sum((0, 1)),
            None, None, None,
        )  # fmt: skip
