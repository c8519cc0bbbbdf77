"""The order in which a training draws from a set: a new permutation each epoch, a pure function of the seed."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from effcli.core.runtime import share_of


def draws_of(step: int, batch_size: int, *, rank: int = 0, world: int = 1) -> range:
    """Numbers of rank ``rank``'s draws of step ``step``, counted from the start of the training.

    A batch may reach over the end of an epoch, so that every batch is full.

    Raises:
        UsageError: ``batch_size`` cannot be shared out evenly.
    """
    share = share_of(batch_size, world)
    first = step * batch_size + rank * share
    return range(first, first + share)


def item_of(draw: int, n_items: int, stream: int, seed: int) -> tuple[int, int]:
    """The epoch of a draw, and which of ``n_items`` it takes; ``stream`` keeps kinds of sets apart."""
    epoch, position = divmod(draw, n_items)
    return epoch, int(_order(n_items, stream, seed, epoch)[position])


def batches_per_epoch(n_items: int, batch_size: int) -> int:
    """How many batches an epoch has: the last may be smaller, but a single item left over joins the one before."""
    return max(1, -(-n_items // batch_size) - (n_items % batch_size == 1))


def batch_of_epoch(
    step: int, n_items: int, batch_size: int, stream: int, seed: int
) -> tuple[int, np.ndarray]:
    """The epoch of a step, and the items of its batch; batches end with the epoch."""
    n_batches = batches_per_epoch(n_items, batch_size)
    epoch, batch = divmod(step, n_batches)
    end = n_items if batch == n_batches - 1 else (batch + 1) * batch_size
    return epoch, _order(n_items, stream, seed, epoch)[batch * batch_size : end]


@lru_cache(maxsize=4)
def _order(n_items: int, stream: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((stream, seed, epoch)).permutation(n_items)
