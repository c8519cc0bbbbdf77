"""What a loss of a distillation round is to the loop, and the plainest one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor, nn

from effcli.distill.predictions import truncated_snr_loss
from effcli.distill.time_grid import Point


class RoundLoss(Protocol):
    """A weighted sum of named terms.

    Attributes:
        weights: of the terms, by name.
    """

    weights: Mapping[str, float]

    def __call__(self, x_student: Tensor, x_target: Tensor, point: Point) -> dict[str, Tensor]:
        """The terms before weighting, scalars; ``x_student`` and ``x_target`` are ``[B, C, H, W]``."""

    def learnt(self) -> nn.Module | None:
        """What the loss itself learns or remembers, for the optimiser and the checkpoint; None for nothing."""


class PixelLoss:
    """max(mse of x, mse of eps) between student and target; what is compared are pixels."""

    weights: Mapping[str, float] = {"pixel": 1.0}

    def __call__(self, x_student: Tensor, x_target: Tensor, point: Point) -> dict[str, Tensor]:
        """The one term; see :func:`truncated_snr_loss`."""
        return {"pixel": truncated_snr_loss(x_student, x_target, point.alpha, point.sigma)}

    def learnt(self) -> None:
        """Nothing."""
