"""Frechet distance between sets of images, in the features of :mod:`effcli.metrics.features`."""

from __future__ import annotations

from torch import Tensor

from effcli.metrics.features import Moments


def frechet_distance(features: Tensor | Moments, others: Tensor | Moments) -> float:
    """|| m_1 - m_2 ||^2 + tr(C_1 + C_2 - 2 (C_1 C_2)^(1/2)), as torchmetrics computes its FID.

    Args:
        features, others: ``[N, D]`` with N at least 2, or their moments.
    """
    from torchmetrics.image.fid import _compute_fid

    first, second = (one if isinstance(one, Moments) else Moments.of(one) for one in (features, others))
    return float(_compute_fid(first.mean, first.covariance, second.mean, second.covariance))
