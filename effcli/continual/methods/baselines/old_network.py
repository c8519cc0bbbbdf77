"""A frozen copy of the network of before a task: what distillation compares with."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effcli.continual.class_splits import ClassTask
from effcli.continual.learner import Classifier

TEMPERATURE = 2.0
"""Of distillation, as in LwF."""


class OldNetwork:
    """Set at the beginning of each task but the first.

    Attributes:
        network: the copy; None in the first task.
    """

    network: Classifier | None = None

    def take(self, network: Classifier, task: ClassTask) -> None:
        """Copy the network as it is now."""
        if task.number:
            self.network = copy.deepcopy(network).requires_grad_(False).eval()

    def backbones(self) -> list[nn.Module]:
        """Its features; none in the first task."""
        return [] if self.network is None else [self.network.backbone]

    @torch.no_grad()
    def logits(self, x: Tensor) -> Tensor:
        """Of what the network takes."""
        assert self.network is not None
        found: Tensor = self.network(x).float()
        return found

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint."""
        return {} if self.network is None else {"old": self.network.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a checkpoint's state."""
        if self.network is not None and "old" in state:
            self.network.load_state_dict(state["old"])


def distillation(logits: Tensor, old: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """tau^2 KL(softmax(old / tau) || softmax(new / tau)), the mean over images (Hinton et al., arXiv 1503.02531).

    Args:
        logits, old: of the same classes, ``[B, K]``.
        temperature: tau.
    """
    new = torch.log_softmax(logits.float() / temperature, 1)
    kept = torch.log_softmax(old / temperature, 1)
    return temperature**2 * F.kl_div(new, kept, reduction="batchmean", log_target=True)
