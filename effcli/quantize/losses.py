"""The losses of the fine-tuning: the error of the prediction, and TRD over a window of sampling steps.

docs/methods/mpq-dm.md, Low-rank fine-tuning and Relation distillation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from effcli.nn.relations import pool_to, relation_distillation
from effcli.quantize.recipe import QuantizeTrainSection


class FeatureWindow:
    """The features of the earlier steps in the present window of TRD.

    Attributes:
        student, teacher: pooled features of each step ``[B, C, h, w]``, without gradients.
    """

    def __init__(self) -> None:
        self.student: list[Tensor] = []
        self.teacher: list[Tensor] = []

    def clear(self) -> None:
        """Start a new window."""
        self.student, self.teacher = [], []


def task_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """L_task: the squared error of the prediction, summed over all elements; ``[B, C, H, W]`` each."""
    return (prediction - target).square().sum()


def time_smoothed_relations(
    window: FeatureWindow, student: Tensor, teacher: Tensor, settings: QuantizeTrainSection
) -> Tensor:
    """L_TRD of the mean features of the window, at the last step of each window; 0 at the others.

    The features of earlier steps are constants: the weights that made them have changed since. With
    ``settings.trd_detached`` those of the present step are, too, and the loss has no gradient.

    Args:
        window: the earlier steps; the present one is added.
        student, teacher: features of the last decoder block ``[B, C, h, w]``.
        settings: window length, pooling, temperature.
    """
    zero = student.new_zeros((), dtype=torch.float32)
    if not settings.trd or settings.trd_weight == 0:
        return zero
    ours = pool_to(student.float(), settings.trd_pool)
    theirs = pool_to(teacher.detach().float(), settings.trd_pool)
    if len(window.student) + 1 < settings.trd_window:
        window.student.append(ours.detach())
        window.teacher.append(theirs)
        return zero
    ours = torch.stack([*window.student, ours.detach() if settings.trd_detached else ours]).mean(0)
    theirs = torch.stack([*window.teacher, theirs]).mean(0)
    window.clear()
    return relation_distillation(
        ours, theirs, temperature=settings.trd_temperature, reduction=settings.trd_reduction
    )
