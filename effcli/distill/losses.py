"""The losses of distillation rounds: pixels, pooled features, and relations between the pixels of feature maps.

docs/methods/rdd.md, Truncated SNR loss, Feature loss and Relation losses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effcli.distill.time_grid import Point

_CHUNK_ENTRIES = 1 << 24
"""Similarities that are in memory at a time: 64 MiB per copy in float32."""


class RoundLoss(Protocol):
    """The loss of a round: a weighted sum of named terms.

    Attributes:
        weights: of the terms, by name.
    """

    weights: Mapping[str, float]

    def __call__(self, x_student: Tensor, x_target: Tensor, point: Point) -> dict[str, Tensor]:
        """The terms before weighting, scalars; ``x_student`` and ``x_target`` are ``[B, C, H, W]``."""

    def learned(self) -> nn.Module | None:
        """What the loss itself learns or remembers, for the optimiser and the checkpoint; None for nothing."""


class PixelLoss:
    """L_PD: the truncated SNR loss between student and target, pixel by pixel."""

    weights: Mapping[str, float] = {"pixel": 1.0}

    def __call__(self, x_student: Tensor, x_target: Tensor, point: Point) -> dict[str, Tensor]:
        """The one term; see :func:`truncated_snr_loss`."""
        return {"pixel": truncated_snr_loss(x_student, x_target, point.alpha, point.sigma)}

    def learned(self) -> None:
        """Nothing."""


def truncated_snr_loss(x_hat: Tensor, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Mean over the batch of max(mse(x^, x), mse(eps^, eps)) = max(1, SNR) mse(x^, x), SNR = alpha^2 / sigma^2.

    The "truncated SNR" weighting of progressive distillation; docs/methods/rdd.md, Truncated SNR loss.

    Args:
        x_hat, x: ``[B, C, H, W]``.
        alpha, sigma: ``[B, 1, 1, 1]``.
    """
    weight = (alpha / sigma).square().clamp(min=1).flatten()
    return (weight * (x_hat - x).square().mean((1, 2, 3))).mean()


def min_snr_loss(x_hat: Tensor, x: Tensor, alpha: Tensor, sigma: Tensor, gamma: float = 5.0) -> Tensor:
    """Mean over the batch of min(SNR, gamma) mse(x^, x), SNR = alpha^2 / sigma^2.

    The min-SNR weighting of training from images (Hang et al., ICCV 2023, arXiv 2303.09556, section 3.4): levels of
    little noise, which truncated SNR weighs most, get no more than ``gamma``.

    Args:
        x_hat, x: ``[B, C, H, W]``.
        alpha, sigma: ``[B, 1, 1, 1]``.
        gamma: the largest weight.
    """
    weight = (alpha / sigma).square().clamp(max=gamma).flatten()
    return (weight * (x_hat - x).square().mean((1, 2, 3))).mean()


def cfd(student: Tensor, target: Tensor, temperature: float) -> Tensor:
    """L_CFD: mean over the batch of KL(softmax(phi~ / tau) || softmax(phi_S)); only the target is sharpened.

    docs/methods/rdd.md, Feature loss.

    Args:
        student: pooled features phi(x_S), ``[B, D]``.
        target: phi(x~), ``[B, D]``.
        temperature: tau; below 1 the loss of equal features is not 0.
    """
    p = torch.log_softmax(target.float() / temperature, dim=1)
    return F.kl_div(torch.log_softmax(student.float(), dim=1), p, reduction="batchmean", log_target=True)


def maps_distance(student: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
    """Sum over the maps of the mean over images and pixels of || F_S - F~ ||^2, F normalised over its channels.

    The form of LPIPS (Zhang et al., CVPR 2018, arXiv 1801.03924, Equation 1) without learned weights of the channels;
    docs/methods/rdd.md, All maps.

    Args:
        student, target: maps ``[B, D, h, w]`` of the same layers, each of its own size.
    """
    total = student[0].new_zeros((), dtype=torch.float32)
    for ours, theirs in zip(student, target, strict=True):
        difference = F.normalize(ours.float(), dim=1, eps=1e-6) - F.normalize(theirs.float(), dim=1, eps=1e-6)
        total = total + difference.square().sum(1).mean()
    return total


def pixels_of(maps: Tensor) -> Tensor:
    """``[B, D, h, w]`` as pixel vectors ``[B h w, D]``, image by image."""
    return maps.flatten(2).mT.reshape(-1, maps.shape[1])


def pair_relation_loss(student: Tensor, target: Tensor, temperature: float = 1.0) -> Tensor:
    """L_IS over all ordered pairs of images (b, d): the pixels of b, each related to all pixels of d.

    docs/methods/rdd.md, Relation losses and Relations between all pairs. Mean over the B^2 h w rows of KL(softmax(S~ /
    tau) || softmax(S_S / tau)), S the cosines of a pixel of b and the pixels of d.

    Args:
        student, target: maps ``[B, D, h, w]``; gradients flow through the student's only.
        temperature: tau.
    """
    n_pixels = student[0, 0].numel()

    def value_and_gradient(ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = ours.new_zeros(()), torch.zeros_like(ours)
        scale = 1 / (temperature * len(ours) * (len(ours) // n_pixels))
        for rows in _chunks(len(ours), len(ours)):
            shape = (rows.stop - rows.start, -1, n_pixels)
            log_p = torch.log_softmax((theirs[rows] @ theirs.T / temperature).view(shape), dim=-1)
            log_q = torch.log_softmax((ours[rows] @ ours.T / temperature).view(shape), dim=-1)
            p = log_p.exp()
            value += (p * (log_p - log_q)).sum() * scale * temperature
            slope = (log_q.exp() - p).flatten(1) * scale
            gradient[rows] += slope @ ours
            gradient += slope.T @ ours[rows]
        return value, gradient

    return _with_gradient(student, target, value_and_gradient)


def memory_relation_loss(student: Tensor, target: Tensor, contrast: Tensor, temperature: float) -> Tensor:
    """L_M: mean over all pixels of KL(p~ || p_S), p the softmax of a pixel's cosines with the contrast set over tau.

    docs/methods/rdd.md, Relation losses.

    Args:
        student, target: maps ``[B, D, h, w]``; gradients flow through the student's only.
        contrast: unit vectors ``[K, D]``.
        temperature: tau.
    """

    def value_and_gradient(ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = ours.new_zeros(()), torch.zeros_like(ours)
        for rows in _chunks(len(ours), len(contrast)):
            log_p = torch.log_softmax(theirs[rows] @ contrast.T / temperature, dim=-1)
            log_q = torch.log_softmax(ours[rows] @ contrast.T / temperature, dim=-1)
            p = log_p.exp()
            value += (p * (log_p - log_q)).sum() / len(ours)
            gradient[rows] = (log_q.exp() - p) @ contrast / (temperature * len(ours))
        return value, gradient

    return _with_gradient(student, target, value_and_gradient)


def _chunks(n_rows: int, n_columns: int) -> list[slice]:
    """Rows, so many at a time that a matrix of similarities stays small."""
    step = max(1, _CHUNK_ENTRIES // n_columns)
    return [slice(start, min(start + step, n_rows)) for start in range(0, n_rows, step)]


def _with_gradient(
    student: Tensor, target: Tensor, value_and_gradient: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
) -> Tensor:
    """A loss of unit pixel vectors; its gradient is computed with it, chunk by chunk, and no similarity is kept."""
    with torch.autocast(student.device.type, enabled=False):
        ours = F.normalize(pixels_of(student.float()), dim=1)
        with torch.no_grad():
            theirs = F.normalize(pixels_of(target.float()), dim=1)
            value, gradient = value_and_gradient(ours.detach(), theirs)
        loss: Tensor = _KnownGradient.apply(ours, value, gradient)
    return loss


class _KnownGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return slopes[0] * gradient, None, None
