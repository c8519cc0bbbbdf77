"""The compiled gates of the feed-forward network against the formula, at the ends of maps and in bfloat16."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from effcli.enhance.network.feed_forward_cpu import gate


def noise(*shape: int, seed: int = 0) -> Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def by_formula(a: Tensor, taps: Tensor, bias: Tensor) -> Tensor:
    """In double precision, [H, W, C]."""
    n = a.shape[-1]
    x = a.double().permute(2, 0, 1)[None]
    p, q = (
        F.conv2d(x, part.double().T.reshape(n, 1, 3, 3), shift, padding=1, groups=n)
        for part, shift in ((taps[:9], bias.double()), (taps[9:], None))
    )
    return (F.gelu(q) * p + F.gelu(p) * q)[0].permute(1, 2, 0)


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (6, 1), (2, 2), (9, 11)])
@pytest.mark.parametrize("n_threads", [1, 2])
def test_the_compiled_gates_are_the_formula(size: tuple[int, int], n_threads: int) -> None:
    a, taps, bias = noise(*size, 48), noise(18, 48, seed=1) / 4, noise(48, seed=2)
    out = torch.empty_like(a)
    gate(a.numpy(), taps.numpy(), bias.numpy(), out.numpy(), n_threads)
    torch.testing.assert_close(out.double(), by_formula(a, taps, bias), rtol=1e-5, atol=1e-5)


def test_bfloat16_is_rounded_once() -> None:
    a, taps, bias = noise(7, 9, 32).bfloat16(), noise(18, 32, seed=1) / 4, noise(32, seed=2)
    out = torch.empty_like(a)
    gate(a.view(torch.int16).numpy(), taps.numpy(), bias.numpy(), out.view(torch.int16).numpy(), 1)
    expected = by_formula(a, taps, bias)
    torch.testing.assert_close(out.double(), expected, rtol=2**-8, atol=1e-5)


def test_what_is_not_a_number_stays_and_stays_in_its_channel() -> None:
    a, taps, bias = noise(3, 3, 16).bfloat16(), noise(18, 16, seed=1), noise(16, seed=2)
    a[1, 1, 5] = float("nan")
    out = torch.empty_like(a)
    gate(a.view(torch.int16).numpy(), taps.numpy(), bias.numpy(), out.view(torch.int16).numpy(), 1)
    assert out[..., 5].isnan().all() and out.isnan().sum() == 9
