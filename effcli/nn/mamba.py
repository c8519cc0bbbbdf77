"""The Mamba block (selective state space model), parameter-compatible with ``mamba_ssm`` 1.2.0."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effcli.nn.selective_scan import selective_scan

#: Numbers in one intermediate tensor of a piece (float32: 1 MiB).
_PIECE_ELEMENTS = 2**18


class Carry(NamedTuple):
    """State of a Mamba block between two consecutive pieces of a sequence."""

    tail: Tensor
    """Last ``d_conv - 1`` inputs of the causal convolution, ``[B, d_conv - 1, d_inner]``."""
    state: Tensor
    """Scan state, ``[B, d_inner, d_state]``, float32."""


class Mamba(nn.Module):
    """Mamba block: ``W_out( scan(silu(conv(a))) ⊙ silu(g) )`` with ``[a, g] = W_in s``.

    Parameters, their names and their initialisation are those of ``mamba_ssm.Mamba`` 1.2.0
    (``mamba_simple.py``), so state dicts are interchangeable. ``A_log``, ``D`` and the scan are float32 even
    under autocast.

    Args:
        d_model: features of a token.
        d_state: N, states of a channel.
        d_conv: width of the causal depthwise convolution.
        expand: ``d_inner = expand * d_model``.
    """

    def __init__(self, d_model: int, d_state: int = 16, d_conv: int = 4, expand: int = 2) -> None:
        super().__init__()
        self.d_state, self.d_conv = d_state, d_conv
        d_inner = expand * d_model
        self.dt_rank = math.ceil(d_model / 16)
        self.in_proj = nn.Linear(d_model, 2 * d_inner, bias=False)
        self.conv1d = nn.Conv1d(d_inner, d_inner, d_conv, groups=d_inner, padding=d_conv - 1)
        self.x_proj = nn.Linear(d_inner, self.dt_rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(self.dt_rank, d_inner)
        self.A_log = nn.Parameter(torch.arange(1, d_state + 1).float().log().repeat(d_inner, 1))
        self.D = nn.Parameter(torch.ones(d_inner))
        self.out_proj = nn.Linear(d_inner, d_model, bias=False)
        self._init_step_sizes()

    @torch.no_grad()
    def _init_step_sizes(self, smallest: float = 1e-3, largest: float = 1e-1, floor: float = 1e-4) -> None:
        """``softplus(bias)`` log-uniform in [smallest, largest]; weight uniform in ±dt_rank^-0.5."""
        nn.init.uniform_(self.dt_proj.weight, -(self.dt_rank**-0.5), self.dt_rank**-0.5)
        log_step = torch.empty_like(self.dt_proj.bias).uniform_(math.log(smallest), math.log(largest))
        step = log_step.exp().clamp(min=floor)
        self.dt_proj.bias.copy_(step + torch.log(-torch.expm1(-step)))

    def forward(self, s: Tensor) -> Tensor:
        """Map tokens ``[B, L, d_model]`` to ``[B, L, d_model]``; causal along L.

        Without gradients a long sequence is processed in pieces whose intermediate tensors fit the cache.
        """
        piece = max(256, _PIECE_ELEMENTS // (s.shape[0] * self.D.numel()))
        if torch.is_grad_enabled() or s.device.type != "cpu" or s.shape[1] <= piece:
            return self._block(s, None, return_carry=False)[0]
        outputs, carry = [], None
        for part in torch.split(s, piece, dim=1):
            out, carry = self.forward_piece(part, carry)
            outputs.append(out)
        return torch.cat(outputs, dim=1)

    def forward_piece(self, s: Tensor, carry: Carry | None = None) -> tuple[Tensor, Carry]:
        """Process one piece ``[B, L, d_model]`` of a longer sequence, after the pieces that made ``carry``.

        Outputs of consecutive pieces, concatenated, are the output for the whole sequence within float
        rounding. No gradient flows from one piece to the one before.
        """
        out, next_carry = self._block(s, carry, return_carry=True)
        assert next_carry is not None
        return out, next_carry

    def _block(self, s: Tensor, carry: Carry | None, *, return_carry: bool) -> tuple[Tensor, Carry | None]:
        a, g = self.in_proj(s).chunk(2, dim=-1)
        n_before = self.d_conv - 1
        before = a.new_zeros(a.shape[0], n_before, a.shape[2]) if carry is None else carry.tail.to(a.dtype)
        a = torch.cat((before, a), dim=1)
        tail = a[:, a.shape[1] - n_before :].detach()
        a = F.silu(causal_depthwise_conv(a, self.conv1d.weight, self.conv1d.bias))
        low, B, C = torch.split(self.x_proj(a), [self.dt_rank, self.d_state, self.d_state], dim=-1)
        y = selective_scan(
            a, low @ self.dt_proj.weight.T, -torch.exp(_at_least_float32(self.A_log)), B, C,
            _at_least_float32(self.D),
            z=g, delta_bias=_at_least_float32(self.dt_proj.bias), state=None if carry is None else carry.state,
            return_state=return_carry,
        )  # fmt: skip
        if isinstance(y, Tensor):
            return self.out_proj(y), None
        return self.out_proj(y[0]), Carry(tail.clone(), y[1])


def _at_least_float32(parameter: Tensor) -> Tensor:
    return parameter.to(torch.promote_types(parameter.dtype, torch.float32))


def causal_depthwise_conv(a: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Depthwise convolution along tokens: ``out[b, t, c] = bias[c] + Σ_k weight[c, 0, k] a[b, t + k, c]``.

    Args:
        a: ``[B, L + K - 1, d_inner]``, with the K - 1 tokens before the first output in front.
        weight: ``[d_inner, 1, K]``.
        bias: ``[d_inner]``.

    Returns:
        ``[B, L, d_inner]``, in a's dtype.
    """
    # oneDNN has fast kernels for channels-last images but not for sequences: the tokens pose as an image.
    # Measured on one thread for 16,384 x 32: as one row 0.16 ms forward (conv1d 0.9, shifted sums 1.2); as
    # one column 0.5 ms, but forward and backward 1.7 ms (conv1d 5.5, shifted sums 3.6, one row 3.6).
    column = torch.is_grad_enabled()
    image = a.unsqueeze(2 if column else 1).permute(0, 3, 1, 2)
    return (
        F.conv2d(image, weight.unsqueeze(3 if column else 2), bias, groups=weight.shape[0])
        .flatten(2)
        .transpose(1, 2)
    )
