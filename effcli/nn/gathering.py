"""Losses that relate the rows of a batch to each other, when the rows are distributed over ranks.

Either each rank has rows of its own, which :func:`gather_rows` brings together, or all ranks have the same batch, whose
rows are shared out where most of the work is, in networks: :func:`rows_shared`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from effcli.core.errors import UsageError
from effcli.core.runtime import random_state
from effcli.nn.batch_norm import SyncedBatchNorm2d


def gather_rows(x: Tensor) -> Tensor:
    """The rows of all ranks in the order of the ranks, ``[world B, ...]``; each has as many, ``[B, ...]``.

    For a loss that every rank computes on all rows alike: with the gradients averaged over the ranks, as DDP does, the
    step is that of one process with the whole batch.
    """
    if _world() == 1:
        return x
    gathered: Tensor = _GatherRows.apply(x)
    return gathered


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.n_rows = len(x)
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """The own rows' part; each of ``world`` ranks adds its rows' once, and DDP divides by ``world``."""
        start = dist.get_rank() * ctx.n_rows
        return gradients[0][start : start + ctx.n_rows] * dist.get_world_size()


@contextlib.contextmanager
def rows_shared(networks: Sequence[nn.Module]) -> Iterator[None]:
    """Within, each rank computes a part of the rows of every batch that goes through networks; all get all outputs.

    For a loop that all ranks run alike: the same batch ``[B, ...]``, the same random numbers, the same loss. With
    :func:`average_gradients` before each optimiser step, the step is that of one process. B need not divide evenly.

    Args:
        networks: called with a batch first; what comes after it goes to all ranks as it is. Layers that look at
            other rows must be synchronised ones (:mod:`effcli.nn.batch_norm`).

    Raises:
        UsageError: a network draws random numbers in training mode, which ranks cannot draw alike.
    """
    if _world() == 1:
        yield
        return
    hooks = [hook for network in networks for hook in _share(network)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def refuse_unshareable(network: nn.Module, place: str) -> None:
    """Make sure that a network in training mode gives for a part of a batch what it gives for the whole one.

    Raises:
        UsageError: it has dropout, or a normalisation over the batch that is not synchronised.
    """
    for name, layer in network.named_modules():
        kind = type(layer).__name__
        if not layer.training:
            continue
        if any(isinstance(share := getattr(layer, key, 0), float) and share > 0 for key in _DROPOUTS):
            raise UsageError(
                f"its layer {name} ({kind}) draws random numbers, which several processes cannot draw as one does",
                place=place,
                hint="set its dropout to 0 or freeze the network in the recipe, or train in one process",
            )
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and not isinstance(layer, SyncedBatchNorm2d):
            raise UsageError(
                f"its layer {name} ({kind}) takes its statistics from one process's part of a batch",
                place=place,
                hint="freeze the network in the recipe, or train in one process",
            )


_DROPOUTS = ("p", "drop_prob", "dropout")
"""What kinds of dropout call their share: torch's and torchvision's, timm's, and attention's and ours."""


def _share(network: nn.Module) -> tuple[Any, Any]:
    before: list[tuple[int, Tensor]] = []  # rows of the whole batch, and the state of the random numbers

    def take_own(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x, *others = inputs
        before.append((len(x), random_state(x.device)))
        return (x.tensor_split(_world())[dist.get_rank()], *others)

    def give_all(_: nn.Module, inputs: tuple[Tensor, ...], own: Tensor) -> Tensor:
        n, random = before.pop()
        if not torch.equal(random, random_state(own.device)):
            raise UsageError(
                "a network draws random numbers, which several processes cannot draw as one does"
            )
        most, world = -(-n // _world()), _world()
        padded = gather_rows(F.pad(own, (0, 0) * (own.dim() - 1) + (0, most - len(own))))
        sizes = [len(part) for part in torch.empty(n, 0).tensor_split(world)]
        return torch.cat([part[:size] for part, size in zip(padded.split(most), sizes, strict=True)])

    return network.register_forward_pre_hook(take_own), network.register_forward_hook(give_all)


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace gradients by their means over the ranks, in one message; nothing in a single process."""
    if _world() == 1:
        return
    gradients = [one.grad for one in parameters if one.grad is not None]
    flat = torch.cat([one.flatten() for one in gradients])
    dist.all_reduce(flat)
    flat /= _world()
    for gradient, mean in zip(gradients, flat.split([one.numel() for one in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def _world() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
