"""Selective scan: every backend against a float64 loop, gradients, pieces, threads, dispatch."""

import subprocess
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from effcli.core.errors import UsageError
from effcli.nn import selective_scan as module
from effcli.nn.selective_scan import available_backends, choose_backend, selective_scan

FAST = ("numba", "chunked")
LENGTHS = (1, 3, 4, 63, 64, 257)
WIDTHS = ((16, 8), (24, 16), (32, 32), (5, 3))


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _inputs(batch, length, width, n_states, dtype=torch.float32, seed=0, delta_mean=-2.0):
    """u, delta, A, B, C, D, z, delta_bias."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    tensors = [
        normal(batch, length, width), normal(batch, length, width) + delta_mean, -normal(width, n_states).exp(),
        normal(batch, length, n_states), normal(batch, length, n_states), normal(width),
        normal(batch, length, width), 0.1 * normal(width),
    ]  # fmt: skip
    return [tensor.to(dtype) for tensor in tensors]


def _reference(u, delta, A, B, C, D, z=None, delta_bias=None, softplus=True):
    """selective_scan_ref of mamba_ssm, token by token in float64."""
    u, delta, A, B, C, D = (x.double().numpy() for x in (u, delta, A, B, C, D))
    if delta_bias is not None:
        delta = delta + delta_bias.double().numpy()
    if softplus:
        delta = np.logaddexp(0.0, delta)
    h = np.zeros((u.shape[0], *A.shape))
    y = np.empty_like(u)
    for t in range(u.shape[1]):
        h = np.exp(delta[:, t, :, None] * A) * h + (delta[:, t] * u[:, t])[:, :, None] * B[:, t, None, :]
        y[:, t] = (h * C[:, t, None, :]).sum(-1) + D * u[:, t]
    if z is not None:
        z = z.double().numpy()
        y = y * z / (1 + np.exp(-z))
    return torch.from_numpy(y), torch.from_numpy(h)


def _relative(value, wanted):
    return (
        (value.double() - wanted.double()).abs().max() / wanted.double().abs().max().clamp(min=1e-12)
    ).item()


def _gradients(inputs, weight, backend, **options):
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    y = selective_scan(*leaves, backend=backend, **options)
    return torch.autograd.grad((y * weight).sum(), leaves)


@pytest.mark.parametrize("backend", ("numba", "chunked", "loop"))
@pytest.mark.parametrize(("width", "n_states"), WIDTHS)
def test_forward_agrees_with_the_reference(backend, width, n_states):
    for length in LENGTHS:
        inputs = _inputs(2, length, width, n_states)
        y, state = selective_scan(*inputs, backend=backend, return_state=True)
        wanted, wanted_state = _reference(*inputs)
        assert _relative(y, wanted) < 1e-5
        assert _relative(state, wanted_state) < 1e-5


@pytest.mark.parametrize("backend", FAST)
def test_without_gate_bias_and_softplus(backend):
    u, delta, *rest = _inputs(1, 50, 16, 8)[:6]
    inputs: Any = [u, delta.abs() * 0.1, *rest]
    y = selective_scan(*inputs, delta_softplus=False, backend=backend)
    assert _relative(y, _reference(*inputs, softplus=False)[0]) < 1e-5  # type: ignore[misc]


@pytest.mark.parametrize(("width", "n_states"), WIDTHS)
def test_gradients_agree_with_autograd_through_the_loop(width, n_states):
    for length in LENGTHS:
        inputs = _inputs(2, length, width, n_states)
        weight = torch.randn(2, length, width, generator=torch.Generator().manual_seed(1))
        wanted = _gradients(inputs, weight, "loop")
        for backend in FAST:
            for value, want in zip(_gradients(inputs, weight, backend), wanted, strict=True):
                assert _relative(value, want) < 2e-5


@pytest.mark.slow
@pytest.mark.parametrize("length", (1, 7, 40))
def test_gradcheck_of_the_compiled_backward(length):
    inputs = [x.requires_grad_() for x in _inputs(2, length, 2, 3, torch.float64)]
    assert torch.autograd.gradcheck(lambda *x: selective_scan(*x, backend="numba"), inputs)


def test_gradcheck_without_gate_bias_and_softplus():
    inputs = [x.requires_grad_() for x in _inputs(1, 35, 2, 2, torch.float64, delta_mean=0.5)[:6]]
    scan = lambda *x: selective_scan(*x, delta_softplus=False, backend="numba")  # noqa: E731
    assert torch.autograd.gradcheck(scan, inputs)


def test_gradient_of_some_inputs_only():
    inputs = _inputs(1, 40, 16, 4)
    inputs[2].requires_grad_()
    got = torch.autograd.grad(selective_scan(*inputs, backend="numba").sum(), inputs[2])[0]
    want = torch.autograd.grad(selective_scan(*inputs, backend="loop").sum(), inputs[2])[0]
    assert _relative(got, want) < 1e-5


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("delta_mean", (-2.0, 5.0))
def test_long_sequences_and_large_steps_stay_finite(backend, delta_mean):
    inputs = _inputs(1, 20_000, 16, 8, delta_mean=delta_mean)
    y = selective_scan(*inputs, backend=backend)
    assert torch.isfinite(y).all()
    assert _relative(y, _reference(*inputs)[0]) < 1e-5
    if backend == "numba":
        assert all(
            torch.isfinite(gradient).all() for gradient in _gradients(inputs, torch.ones_like(y), backend)
        )


@pytest.mark.parametrize("backend", ("numba", "chunked", "loop"))
@pytest.mark.parametrize(("width", "n_states"), ((32, 16), (5, 3)))
def test_pieces_with_carried_state_equal_the_whole(backend, width, n_states):
    u, delta, A, B, C, D, z, bias = _inputs(2, 100, width, n_states)
    whole, last = selective_scan(u, delta, A, B, C, D, z, bias, backend=backend, return_state=True)
    state, outputs = None, []
    for cut in (slice(0, 1), slice(1, 34), slice(34, 98), slice(98, 100)):
        y, state = selective_scan(
            u[:, cut], delta[:, cut], A, B[:, cut], C[:, cut], D, z[:, cut], bias,
            state=state, return_state=True, backend=backend,
        )  # fmt: skip
        outputs.append(y)
    assert state.shape == (2, width, n_states)
    tolerance = 0.0 if backend == "numba" else 1e-6
    assert _relative(torch.cat(outputs, 1), whole) <= tolerance
    assert _relative(state, last) <= tolerance


def test_the_given_state_is_not_changed():
    inputs = _inputs(1, 10, 16, 4)
    state = torch.ones(1, 16, 4)
    selective_scan(*inputs, state=state, backend="numba")
    assert torch.equal(state, torch.ones(1, 16, 4))


@pytest.mark.parametrize("backend", FAST)
def test_bfloat16_inputs_are_computed_in_float32(backend):
    inputs = _inputs(2, 70, 32, 16)
    low = [x.bfloat16() if i in (0, 1, 3, 4, 6) else x for i, x in enumerate(inputs)]
    y, state = selective_scan(*low, backend=backend, return_state=True)
    wanted = selective_scan(*(x.float() for x in low), backend=backend)
    assert y.dtype == torch.bfloat16
    assert state.dtype == torch.float32
    assert torch.equal(y, wanted.bfloat16())


@pytest.mark.parametrize("backend", FAST)
def test_autocast_does_not_reach_the_scan(backend):
    inputs = _inputs(1, 70, 16, 8)
    with torch.autocast("cpu", torch.bfloat16):
        y = selective_scan(*inputs, backend=backend)
    assert torch.equal(y, selective_scan(*inputs, backend=backend))


def test_slices_and_transposes_are_read_correctly():
    u, delta, A, B, C, D, z, bias = _inputs(2, 33, 16, 4)
    uz, bc = torch.cat((u, z), -1), torch.cat((delta[..., :3], B, C), -1)
    strided = (
        uz[..., :16], delta.transpose(1, 2).contiguous().transpose(1, 2), A.T.contiguous().T,
        bc[..., 3:7], bc[..., 7:], D, uz[..., 16:], bias,
    )  # fmt: skip
    wanted = selective_scan(u, delta, A, B, C, D, z, bias, backend="numba")
    assert torch.equal(selective_scan(*strided, backend="numba"), wanted)


def test_the_number_of_threads_does_not_change_a_bit():
    inputs = _inputs(3, 130, 48, 16)
    weight = torch.randn(3, 130, 48)
    results = []
    for n_threads in (1, 2):
        torch.set_num_threads(n_threads)
        y = selective_scan(*inputs, backend="numba")
        results.append((y, *_gradients(inputs, weight, "numba")))
    # The last (delta_bias) is summed over tokens by torch, whose order may depend on the threads.
    for one, two in zip(results[0][:-1], results[1][:-1], strict=True):
        assert torch.equal(one, two)
    assert _relative(results[0][-1], results[1][-1]) < 1e-6


def test_calls_from_several_python_threads():
    torch.set_num_threads(2)
    inputs = _inputs(2, 200, 32, 8)
    wanted = selective_scan(*inputs, backend="numba")
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(selective_scan, *inputs, backend="numba") for _ in range(16)]  # type: ignore[arg-type]
        assert all(torch.equal(future.result(), wanted) for future in futures)


def test_denormal_numbers_survive_a_scan():
    selective_scan(*_inputs(1, 20, 16, 4), backend="numba")
    assert (torch.tensor([1e-40]) * 0.5).item() > 0
    assert float(np.float32(1e-40) * np.float32(0.5)) > 0


def test_small_pieces_of_the_chunked_backend(monkeypatch):
    inputs = _inputs(2, 300, 16, 4)
    weight = torch.randn(2, 300, 16)
    monkeypatch.setattr(
        module, "CHUNKED_STATE_BYTES", 1
    )  # pieces of 64 tokens, recomputed in the backward pass
    assert _relative(selective_scan(*inputs, backend="chunked"), _reference(*inputs)[0]) < 1e-5
    for value, want in zip(
        _gradients(inputs, weight, "chunked"), _gradients(inputs, weight, "loop"), strict=True
    ):
        assert _relative(value, want) < 2e-5


@pytest.mark.slow
def test_the_kernel_compiles_where_no_cache_can_be_written(monkeypatch):
    from effcli.nn.compiled import selective_scan as cpu

    njit = cpu.numba.njit  # type: ignore[attr-defined]

    def no_cache(*args, **options):
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return njit(*args, **options)

    monkeypatch.setattr(cpu.numba, "njit", no_cache)  # type: ignore[attr-defined]
    monkeypatch.setattr(cpu, "_compiled", cpu._compiled.__wrapped__)
    inputs = _inputs(1, 5, 16, 2)
    torch.set_num_threads(1)
    assert _relative(selective_scan(*inputs, backend="numba"), _reference(*inputs)[0]) < 1e-5


def test_auto_on_this_machine():
    assert available_backends("cpu") == ("numba", "chunked", "loop")
    assert available_backends("mps") == ("chunked", "loop")
    assert choose_backend(torch.zeros(1)) == "numba"
    inputs = _inputs(1, 20, 16, 4)
    assert torch.equal(selective_scan(*inputs), selective_scan(*inputs, backend="numba"))


def test_auto_without_numba(monkeypatch):
    monkeypatch.setattr(module, "_importable", lambda name: False)
    assert available_backends("cpu") == ("chunked", "loop")
    inputs = _inputs(1, 20, 16, 4)
    assert torch.equal(selective_scan(*inputs), selective_scan(*inputs, backend="chunked"))


def test_mamba_ssm_is_used_when_it_can_be_imported(monkeypatch):
    calls = []

    def selective_scan_fn(u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state):
        calls.append(u.shape)
        tokens_first = [x.transpose(1, 2) for x in (u, delta)], [x.transpose(1, 2) for x in (B, C, z)]
        (u, delta), (B, C, z) = tokens_first
        y, state = selective_scan(
            u, delta, A, B, C, D, z, delta_bias,
            delta_softplus=delta_softplus, return_state=return_last_state, backend="loop",
        )  # fmt: skip
        return y.transpose(1, 2), state

    fake = types.ModuleType("mamba_ssm.ops.selective_scan_interface")
    fake.selective_scan_fn = selective_scan_fn  # type: ignore[attr-defined]
    for name in ("mamba_ssm", "mamba_ssm.ops"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, fake.__name__, fake)
    module._importable.cache_clear()
    assert available_backends("cuda") == ("mamba", "chunked", "loop")
    module._importable.cache_clear()

    monkeypatch.setattr(module, "available_backends", lambda device: ("mamba", "chunked", "loop"))
    inputs = _inputs(2, 20, 16, 4)
    y, state = selective_scan(*inputs, return_state=True)
    wanted, wanted_state = _reference(*inputs)
    assert calls == [(2, 16, 20)]
    assert _relative(y, wanted) < 1e-5
    assert _relative(state, wanted_state) < 1e-5
    # It cannot start from a state: auto goes on with the next backend, by name it is refused.
    selective_scan(*inputs, state=state)
    assert len(calls) == 1
    with pytest.raises(UsageError, match="cannot start from a state"):
        selective_scan(*inputs, state=state, backend="mamba")


def test_refused_arguments():
    inputs = _inputs(1, 20, 16, 4)
    with pytest.raises(UsageError, match="unknown scan backend 'fast'"):
        selective_scan(*inputs, backend="fast")
    with pytest.raises(UsageError, match="cannot work on cpu"):
        selective_scan(*inputs, backend="mamba")
    with pytest.raises(ValueError, match="no gradient flows"):
        selective_scan(*inputs, state=torch.zeros(1, 16, 4, requires_grad=True))
    with pytest.raises(ValueError, match=r"B must have shape \[1, 20, 4\]"):
        selective_scan(*inputs[:3], inputs[3].transpose(1, 2), *inputs[4:])  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="L >= 1"):
        selective_scan(*(x[:, :0] if x.ndim == 3 else x for x in inputs))


@pytest.mark.slow
def test_importing_the_module_does_not_import_numba():
    code = "import sys, effcli.nn.mamba; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
