"""Mamba block: parameters of mamba_ssm, causality, agreement with a plain implementation, pieces, autocast."""

import math

import pytest
import torch
import torch.nn.functional as F

from effcli.nn import mamba as module
from effcli.nn.mamba import Mamba, causal_depthwise_conv

LENGTHS = (1, 3, 4, 63, 64, 257)


def _block(d_model=16, d_state=8, seed=0, **options):
    torch.manual_seed(seed)
    return Mamba(d_model, d_state, **options)


def _reference(block, s):
    """mamba_simple.py's slow path: [B, channels, L] and a loop over tokens."""
    length = s.shape[1]
    a, g = (block.in_proj.weight @ s.transpose(1, 2)).chunk(2, dim=1)
    a = F.silu(block.conv1d(a)[..., :length])
    low, B, C = torch.split(
        block.x_proj(a.transpose(1, 2)), [block.dt_rank, block.d_state, block.d_state], dim=-1
    )
    step = F.softplus(block.dt_proj(low)).transpose(1, 2)
    A = -block.A_log.exp()
    h = torch.zeros(s.shape[0], *A.shape)
    outputs = []
    for t in range(length):
        h = torch.exp(step[:, :, t, None] * A) * h + (step[:, :, t] * a[:, :, t])[..., None] * B[:, t, None]
        outputs.append((h * C[:, t, None]).sum(-1) + block.D * a[:, :, t])
    return block.out_proj(torch.stack(outputs, 1) * F.silu(g.transpose(1, 2)))


def test_state_dict_is_that_of_mamba_ssm():
    block = Mamba(16, 32)
    assert {name: tuple(value.shape) for name, value in block.state_dict().items()} == {
        "A_log": (32, 32),
        "D": (32,),
        "in_proj.weight": (64, 16),
        "conv1d.weight": (32, 1, 4),
        "conv1d.bias": (32,),
        "x_proj.weight": (65, 32),
        "dt_proj.weight": (32, 1),
        "dt_proj.bias": (32,),
        "out_proj.weight": (16, 32),
    }


@pytest.mark.parametrize(("width", "count"), ((16, 4_896), (32, 12_992), (64, 38_784), (128, 128_768)))
def test_parameter_count_of_the_released_network(width, count):
    assert sum(parameter.numel() for parameter in Mamba(width, 32).parameters()) == count


def test_initialisation():
    block = _block(128, 32)
    assert torch.allclose(block.A_log.exp(), torch.arange(1.0, 33.0).expand(256, 32))
    assert torch.equal(block.D, torch.ones(256))
    step = F.softplus(block.dt_proj.bias)
    assert 0.99e-3 < step.min() < 2e-3
    assert 0.05 < step.max() < 0.101
    assert abs(step.log().mean().item() - math.log(0.01)) < 0.3  # log-uniform
    assert block.dt_proj.weight.abs().max() <= block.dt_rank**-0.5


def test_agrees_with_the_plain_implementation_forward_and_backward():
    block = _block()
    for length in LENGTHS:
        s = torch.randn(2, length, 16, requires_grad=True)
        weight = torch.randn(2, length, 16)
        tensors = [s, *block.parameters()]
        y, wanted = block(s), _reference(block, s)
        assert (y - wanted).abs().max() <= 1e-5
        with torch.no_grad():
            assert (block(s) - wanted).abs().max() <= 1e-5
        got = torch.autograd.grad((y * weight).sum(), tensors)
        want = torch.autograd.grad((wanted * weight).sum(), tensors)
        for value, other in zip(got, want, strict=True):
            assert (value - other).abs().max() <= 1e-5 * max(1.0, other.abs().max().item())


def test_causality():
    block = _block()
    s = torch.randn(1, 40, 16)
    changed = s.clone()
    changed[:, 23:] += 1.0
    with torch.no_grad():
        before, after = block(s), block(changed)
    assert torch.equal(before[:, :23], after[:, :23])
    assert not torch.allclose(before[:, 23], after[:, 23])


def test_zero_input_projection_gives_zero():
    block = _block()
    torch.nn.init.zeros_(block.in_proj.weight)
    assert torch.equal(block(torch.randn(1, 10, 16)), torch.zeros(1, 10, 16))


@pytest.mark.parametrize("sizes", ([257], [1] * 9, [2, 1, 50, 3, 64]))
def test_pieces_equal_the_whole(sizes):
    block = _block()
    s = torch.randn(2, sum(sizes), 16)
    with torch.no_grad():
        whole, carry, outputs = block(s), None, []
        for piece in torch.split(s, sizes, dim=1):
            out, carry = block.forward_piece(piece, carry)
            outputs.append(out)
    assert (torch.cat(outputs, 1) - whole).abs().max() <= 1e-6
    assert carry.tail.shape == (2, 3, 32)
    assert carry.state.shape == (2, 32, 8)


def test_inference_in_pieces_equals_training_in_one(monkeypatch):
    block = _block()
    s = torch.randn(1, 1000, 16)
    whole = block(s)
    pieces = []
    forward_piece = block.forward_piece

    def spy(*x):
        pieces.append(x)
        return forward_piece(*x)

    monkeypatch.setattr(block, "forward_piece", spy)
    monkeypatch.setattr(module, "_PIECE_ELEMENTS", 1)  # the smallest piece, 256 tokens
    with torch.no_grad():
        split = block(s)
    assert len(pieces) == 4
    assert (split - whole).abs().max() <= 1e-6


def test_autocast_keeps_the_scan_in_float32():
    block = _block()
    s = torch.randn(2, 100, 16)
    seen: dict[str, torch.dtype] = {}

    def spy(u, delta, A, B, C, D, **options):
        seen.update(A=A.dtype, D=D.dtype, u=u.dtype)
        y = module_scan(u, delta, A, B, C, D, **options)
        seen["state"] = y[1].dtype
        return y

    module_scan, module.selective_scan = module.selective_scan, spy  # type: ignore[attr-defined,assignment]
    try:
        with torch.autocast("cpu", torch.bfloat16):
            y, carry = block.forward_piece(s)
    finally:
        module.selective_scan = module_scan  # type: ignore[attr-defined]
    assert seen == {"A": torch.float32, "D": torch.float32, "u": torch.bfloat16, "state": torch.float32}
    assert carry.state.dtype == torch.float32
    wanted = block(s)
    assert (y.float() - wanted).abs().max() <= 0.03 * wanted.abs().max()
    y.float().sum().backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in block.parameters())


def test_convolution_is_that_of_conv1d():
    block = _block()
    a = torch.randn(2, 20, 32)
    wanted = block.conv1d(a.transpose(1, 2))[..., :20].transpose(1, 2)
    padded = F.pad(a, (0, 0, 3, 0))
    assert (causal_depthwise_conv(padded, block.conv1d.weight, block.conv1d.bias) - wanted).abs().max() < 1e-6
    with torch.no_grad():
        got = causal_depthwise_conv(padded, block.conv1d.weight, block.conv1d.bias)
    assert (got - wanted).abs().max() < 1e-6
