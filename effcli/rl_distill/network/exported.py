"""What an ONNX file of a policy computes: decisions, or the actions themselves where they are continuous."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from effcli.rl_distill.environments.actions import Actions
from effcli.rl_distill.environments.observations import Observed


class ExportedPolicy(nn.Module):
    """A policy with one input, and an output that needs no knowledge of it.

    Args:
        policy: maps observations to decisions.
        observed: what the observations are.
        actions: what is decided on.

    Attributes:
        output_name: ``decisions`` or ``actions``.
    """

    def __init__(self, policy: nn.Module, observed: Observed, actions: Actions) -> None:
        super().__init__()
        self.policy, self._observed, self._actions = policy, observed, actions
        self.output_name = "decisions" if actions.kind == "choices" else "actions"
        if actions.kind == "numbers":
            low = np.array([-np.inf if one is None else one for one in actions.low], np.float32)
            high = np.array([np.inf if one is None else one for one in actions.high], np.float32)
            self._ranged = nn.Buffer(torch.from_numpy(np.isfinite(low) & np.isfinite(high)))
            largest = np.finfo(np.float32).max
            self._low = nn.Buffer(torch.from_numpy(np.clip(low, -largest, largest)))
            self._high = nn.Buffer(torch.from_numpy(np.clip(high, -largest, largest)))

    def forward(self, observations: Tensor) -> Tensor:
        """``[B, D]``, or ``[B, K]`` in the units of the environment."""
        decisions: Tensor = self.policy(observations)
        if self._actions.kind == "choices":
            return decisions
        mean = decisions.chunk(2, -1)[0]
        unit = torch.tanh(mean) if self._actions.bounds == "squash" else mean.clamp(-1.0, 1.0)
        ranged = self._low / 2 + self._high / 2 + unit * (self._high / 2 - self._low / 2)
        return torch.where(self._ranged, ranged, mean).maximum(self._low).minimum(self._high)

    def notes(self) -> dict[str, str]:
        """What a user of the file needs to know of input and output."""
        parts = [f"{part.name or 'all'}: {part.kind} {list(part.shape)}" for part in self._observed.parts]
        found = {"observations": "; ".join(parts)}
        if self._actions.kind == "numbers":
            return {**found, "actions": "in the units of the environment"}
        firsts = self._actions.first_choices
        start = f"; their numbers begin at {', '.join(map(str, firsts))}" if any(firsts) else ""
        if self._actions.is_discrete:
            return {**found, "decisions": f"the best action has the highest{start}"}
        sizes = ", ".join(map(str, self._actions.choices))
        return {
            **found,
            "decisions": f"of each of {sizes} choices, side by side, the best has the highest{start}",
        }
