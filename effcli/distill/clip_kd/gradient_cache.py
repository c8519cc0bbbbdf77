"""The gradient of a loss of a whole batch, with the memory of a part of it.

Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", 2021: the embeddings of all parts
are computed without their graphs; the loss gives the gradients of the embeddings; then each part passes again, and what
its embeddings get is passed on. Contrastive losses relate all rows of a batch, so adding up the losses of its parts
would be another loss.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from effcli.core.runtime import Runtime
from effcli.distill.clip_kd.losses import Embeddings

Embed = Callable[[int], tuple[Embeddings, Tensor | None]]
"""The embeddings of a part, and those of its masked images."""


class Leaves(NamedTuple):
    """The embeddings of a batch as the inputs of its loss.

    Attributes:
        embedded: of all rows.
        masked: of masked images, where there are any.
        backward: to call when the loss has gone backward: passes on what the embeddings got.
    """

    embedded: Embeddings
    masked: Tensor | None
    backward: Callable[[], None]


def embed_in_parts(towers: nn.Module, embed: Embed, n_parts: int, runtime: Runtime) -> Leaves:
    """Embed a batch part by part.

    What is random in a part, dropout and masks, is the same in its second pass; buffers, the statistics of BatchNorm,
    change in the second pass alone.

    Args:
        towers: what ``embed`` calls, wrapped for several ranks.
        embed: the embeddings of part ``i``.
        n_parts: how many there are.
        runtime: seeds.
    """
    key = int(torch.randint(2**31, ()))
    buffers = [(one, one.detach().clone()) for one in towers.buffers()]
    with torch.no_grad():
        parts = []
        for number in range(n_parts):
            runtime.seed_all("part", key, runtime.rank, number)
            parts.append(embed(number))
        for buffer, before in buffers:
            buffer.copy_(before)
    embedded = _joined([one for one, _ in parts])
    masked = [one for _, one in parts if one is not None]
    leaves = Embeddings(*(None if one is None else one.requires_grad_() for one in embedded))  # type: ignore[arg-type]
    masked_leaf = torch.cat(masked).requires_grad_() if masked else None
    sizes = [len(one.images) for one, _ in parts]

    def backward() -> None:
        _pass_on(towers, embed, leaves, masked_leaf, sizes, runtime, key)

    return Leaves(leaves, masked_leaf, backward)


def _pass_on(
    towers: nn.Module,
    embed: Embed,
    leaves: Embeddings,
    masked: Tensor | None,
    sizes: Sequence[int],
    runtime: Runtime,
    key: int,
) -> None:
    without_averaging: Any = getattr(towers, "no_sync", contextlib.nullcontext)
    start = 0
    for number, size in enumerate(sizes):
        is_last = number == len(sizes) - 1
        rows = slice(start, start + size)
        start += size
        with contextlib.nullcontext() if is_last else without_averaging():
            runtime.seed_all("part", key, runtime.rank, number)
            again, masked_again = embed(number)
            pairs = [(again.images, leaves.images, rows), (again.texts, leaves.texts, rows)]
            if masked is not None and masked_again is not None:
                pairs.append((masked_again, masked, rows))
            if is_last:  # of the scale and the bias there is one for all parts
                pairs.append((again.scale, leaves.scale, slice(None)))
                if again.bias is not None and leaves.bias is not None:
                    pairs.append((again.bias, leaves.bias, slice(None)))
            used = [
                (out, leaf.grad if leaf.ndim == 0 else leaf.grad[part])
                for out, leaf, part in pairs
                if leaf.grad is not None and out.requires_grad
            ]
            torch.autograd.backward([out for out, _ in used], [gradient for _, gradient in used])


def _joined(parts: Sequence[Embeddings]) -> Embeddings:
    images, texts = (torch.cat([one[kind] for one in parts]) for kind in (0, 1))  # type: ignore[misc]
    bias = parts[-1].bias
    return Embeddings(images, texts, parts[-1].scale.clone(), None if bias is None else bias.detach().clone())
