"""Reservoir sampling: every item of a stream of unknown length is kept with the same probability (Vitter 1985)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Kept:
    """Items drawn from a buffer.

    Attributes:
        items: ``[B, ...]``.
        labels: ``[B]``.
        logits: ``[B, n_classes]`` of when they were kept, or None.
    """

    items: Tensor
    labels: Tensor
    logits: Tensor | None


class Reservoir:
    """Items, labels and perhaps logits in one array each.

    Args:
        size: how many items fit.
        device: where they lie.
        dtype: of items in floats; None keeps the one that they come in.

    Attributes:
        n_seen: items offered so far.
    """

    def __init__(self, size: int, device: torch.device, dtype: torch.dtype | None = None) -> None:
        self.size = size
        self.device = device
        self.dtype = dtype
        self.n_seen = 0
        self._n_filled = 0
        self._arrays: dict[str, Tensor] = {}

    def __len__(self) -> int:
        return self._n_filled

    @property
    def has_logits(self) -> bool:
        """Whether logits are kept too."""
        return "logits" in self._arrays

    @property
    def n_bytes(self) -> int:
        """Of everything that is kept when it is full."""
        return sum(array.numel() * array.element_size() for array in self._arrays.values())

    def offer(self, items: Tensor, labels: Tensor, logits: Tensor | None = None) -> None:
        """Offer a batch, one item after another; randomness is NumPy's global one."""
        rows, slots = reservoir_slots(len(items), self.n_seen, self._n_filled, self.size)
        self.n_seen += len(items)
        self._n_filled = min(self._n_filled + len(items), self.size)
        if self.dtype is not None and items.is_floating_point():
            items = items.to(self.dtype)
        given = {"items": items, "labels": labels, **({} if logits is None else {"logits": logits.float()})}
        where, what = torch.from_numpy(slots).to(self.device), torch.from_numpy(rows).to(self.device)
        for name, values in given.items():
            if name not in self._arrays:
                shape = (self.size, *values.shape[1:])
                self._arrays[name] = torch.zeros(shape, dtype=values.dtype, device=self.device)
            self._arrays[name][where] = values.detach()[what]

    def draw(self, n: int) -> Kept:
        """``n`` different items, or all where there are fewer."""
        chosen = torch.randperm(len(self), device=self.device)[:n]
        drawn = {name: array[chosen] for name, array in self._arrays.items()}
        items = drawn["items"]
        return Kept(
            items.float() if items.is_floating_point() else items, drawn["labels"], drawn.get("logits")
        )

    def labels(self) -> Tensor:
        """The labels of all items."""
        return self._arrays["labels"][: len(self)] if self._arrays else torch.zeros(0, dtype=torch.long)

    def clear(self) -> None:
        """Forget everything, also how much was seen."""
        self._arrays = {}
        self.n_seen = self._n_filled = 0

    def grow(self, n_new: int) -> None:
        """Kept logits get zeros for ``n_new`` more classes."""
        if self.has_logits:
            self._arrays["logits"] = torch.nn.functional.pad(self._arrays["logits"], (0, n_new))

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint."""
        return {"n_seen": self.n_seen, "n_filled": self._n_filled, "arrays": dict(self._arrays)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a checkpoint's state."""
        self.n_seen, self._n_filled = int(state["n_seen"]), int(state["n_filled"])
        self._arrays = {name: array.to(self.device).clone() for name, array in state["arrays"].items()}


def reservoir_slots(n: int, n_seen: int, n_filled: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Which of ``n`` new items are kept, and in which slots: those of a loop over the items.

    An item takes the next slot while there is room. Then item ``i`` of the stream takes a random one of ``0..i`` and is
    dropped where that is none of the ``size``. Where two take the same slot the later one stays.
    """
    numbers = n_seen + np.arange(n)
    slots = (np.random.random(n) * (numbers + 1)).astype(np.int64)
    n_new = min(n, size - n_filled)
    slots[:n_new] = n_filled + np.arange(n_new)
    rows = np.flatnonzero(slots < size)[::-1]  # from the end, as np.unique finds the first one of each slot
    kept, first = np.unique(slots[rows], return_index=True)
    return rows[first], kept
