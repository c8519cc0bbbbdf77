"""Relation distillation: the similarities between the pixels of a feature map, rather than the features themselves."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def pool_to(features: Tensor, side: int | None) -> Tensor:
    """Average-pool maps ``[B, C, h, w]`` so that neither side exceeds ``side``; None leaves them.

    A relation map has (h w)^2 entries per image: 64x64 features of 8 images take 537 MB, pooled to 16x16 2 MB.
    """
    height, width = features.shape[-2:]
    if side is None or max(height, width) <= side:
        return features
    return F.adaptive_avg_pool2d(features, (min(height, side), min(width, side)))


def log_relation(features: Tensor, temperature: float = 1.0) -> Tensor:
    """log softmax of the cosine similarities between the pixels of each image.

    Args:
        features: ``[B, C, h, w]``.
        temperature: tau, by which the cosines are divided.

    Returns:
        ``[B, h w, h w]``; row i is the distribution of pixel i over all pixels, in float32.
    """
    unit = F.normalize(features.float().flatten(2), dim=1)
    return torch.log_softmax(unit.mT @ unit / temperature, dim=-1)


def relation_distillation(
    student: Tensor, teacher: Tensor, *, temperature: float = 1.0, reduction: Literal["sum", "mean"] = "sum"
) -> Tensor:
    """KL(p_teacher || p_student) between the relation maps of two feature maps (TRD; docs/methods/mpq-dm.md, Relation
    distillation).

    Args:
        student: ``[B, C, h, w]``; gradients flow through it alone.
        teacher: ``[B, C', h, w]``.
        temperature: tau.
        reduction: ``sum`` over all rows and images as in MPQ-DM, or their ``mean``.

    Returns:
        A scalar, 0 for equal relations.
    """
    with torch.autocast(student.device.type, enabled=False):
        ours, theirs = log_relation(student, temperature), log_relation(teacher.detach(), temperature)
        rows = F.kl_div(ours, theirs, reduction="none", log_target=True).sum(-1)
    return rows.sum() if reduction == "sum" else rows.mean()
