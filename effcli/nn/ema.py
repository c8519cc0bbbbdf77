"""Exponential moving average of a network's weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Ema:
    """Averaged copy of a network's weights: parameters and floating-point buffers, such as BatchNorm's statistics.

    Buffers of other types are copied as they are.

    Args:
        network: the network that is trained.
        decay: weight of the old average; the first steps use min(decay, (1 + n) / (10 + n)), so that the
            random initial weights have little influence.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.n_updates = 0
        self.average = {name: value.detach().clone() for name, value in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Update the average with the network's current weights."""
        decay = min(self.decay, (1 + self.n_updates) / (10 + self.n_updates))
        self.n_updates += 1
        for name, value in network.state_dict().items():
            if value.is_floating_point() and decay > 0:
                self.average[name].lerp_(value, 1 - decay)
            else:
                self.average[name].copy_(value)

    def copy_to(self, network: nn.Module) -> None:
        """Load the average into ``network``."""
        network.load_state_dict(self.average)

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint."""
        return {"average": self.average, "n_updates": self.n_updates}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a checkpoint's state.

        Raises:
            KeyError: it is the state of another network.
        """
        if state["average"].keys() != self.average.keys():
            raise KeyError(
                f"averages of another network: {sorted(state['average'].keys() ^ self.average.keys())}"
            )
        for name, value in state["average"].items():
            self.average[name].copy_(value)  # from the CPU to where the network is
        self.n_updates = int(state["n_updates"])
