"""The losses of GFL (Li et al., NeurIPS 2020), term by term."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

BETA = 2.0
"""The exponent of quality focal loss (GFL, equation 2)."""


def quality_focal(logits: Tensor, y: Tensor) -> Tensor:
    """The sum of |y - sigma(z)|^2 BCE(sigma(z), y) (GFL, equation 2, beta = 2)."""
    sigma = logits.sigmoid()
    return ((y - sigma).abs() ** BETA * F.binary_cross_entropy_with_logits(logits, y, reduction="none")).sum()


def distribution_focal(edges: Tensor, distances: Tensor) -> Tensor:
    """Cross-entropy with the two bins next to the true distance, weighted by nearness (GFL, equation 6).

    Args:
        edges: logits of the bins, ``[..., R]``.
        distances: in strides, below R - 1, ``[...]``.
    """
    left = distances.floor().long()
    log_p = edges.log_softmax(-1)
    right_weight = distances - left
    at_left, at_right = (log_p.gather(-1, bins[..., None])[..., 0] for bins in (left, left + 1))
    return -(at_left * (1 - right_weight) + at_right * right_weight)
