"""WalMaFa's training loss: L1, SSIM and total variation (docs/methods/walmafa.md, Training loss); GT-mean loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

TV_WEIGHT = 0.05

_WINDOW = 11
_SIGMA = 1.5
_C1 = 0.01**2
_C2 = 0.03**2


def walmafa_loss(
    prediction: Tensor, target: Tensor, *, tv_weight: float = TV_WEIGHT, ssim: bool = True
) -> Tensor:
    """0.95 (mean|prediction - target| + 1 - SSIM) + 0.05 TV(prediction), on the unclamped prediction, in
    float32.

    Args:
        prediction: [B, C, H, W], H and W at least 11.
        target: the same shape, in 0..1.
        tv_weight: the weight of TV; the rest, 1 - tv_weight, is that of L1 and of 1 - SSIM.
        ssim: False leaves 1 - SSIM out (an ablation).

    Returns:
        A scalar.
    """
    prediction, target = prediction.float(), target.float()
    fidelity = F.l1_loss(prediction, target)
    if ssim:
        fidelity = fidelity + ssim_loss(prediction, target)
    return (1 - tv_weight) * fidelity + tv_weight * total_variation(prediction)


def scale_to_mean(prediction: Tensor, target: Tensor, least_mean: float = 0.05) -> Tensor:
    """Scale each prediction to the mean brightness of its target: y mean(target) / mean(y).

    A loss on the result ignores the overall brightness of the prediction. The mixture
    (1 - w) L(y, target) + w L(scale_to_mean(y, target), target) is GT-mean loss ("GT-Mean Loss: A Simple Yet Effective
    Solution for Brightness Mismatch in Low-Light Image Enhancement", ICCV 2025) with a fixed w, where the paper derives
    it from the two means.

    Args:
        prediction: [B, C, H, W].
        target: the same shape, in 0..1.
        least_mean: smaller means of the prediction, and negative ones, count as this much.

    Returns:
        [B, C, H, W]; gradients flow through the prediction alone, not through its mean.
    """
    prediction, target = prediction.float(), target.float()
    means = (image.detach().mean((1, 2, 3), keepdim=True) for image in (target, prediction))
    target_mean, own_mean = means
    return prediction * (target_mean / own_mean.clamp_min(least_mean))


def training_loss(
    prediction: Tensor, target: Tensor, *, tv_weight: float, ssim: bool, gt_mean_weight: float
) -> Tensor:
    """:func:`walmafa_loss`, mixed by ``gt_mean_weight`` with the same loss after :func:`scale_to_mean`.

    Args:
        prediction: [B, C, H, W].
        target: the same shape, in 0..1.
        tv_weight, ssim: as in :func:`walmafa_loss`.
        gt_mean_weight: share of the loss after :func:`scale_to_mean`, 0..1.

    Returns:
        A scalar.
    """
    loss = walmafa_loss(prediction, target, tv_weight=tv_weight, ssim=ssim)
    if gt_mean_weight == 0:
        return loss
    scaled = scale_to_mean(prediction, target)
    blind = walmafa_loss(scaled, target, tv_weight=tv_weight, ssim=ssim)
    return (1 - gt_mean_weight) * loss + gt_mean_weight * blind


def ssim_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """1 - SSIM, as `pytorch_msssim.ssim` computes it by default.

    Gaussian window of 11 taps, sigma 1.5, no padding, K = (0.01, 0.03), data range 1, mean over channels and
    batch.

    Args:
        prediction: [B, C, H, W], H and W at least 11.
        target: the same shape.

    Returns:
        A scalar, 0 for equal pictures.

    Raises:
        ValueError: if a side is shorter than the window.
    """
    if min(prediction.shape[-2:]) < _WINDOW:
        raise ValueError(f"SSIM needs sides of at least {_WINDOW} pixels, not {tuple(prediction.shape[-2:])}")
    with torch.autocast(prediction.device.type, enabled=False):
        x, y = prediction.float(), target.float()
        moments = _blur(torch.cat((x, y, x * x, y * y, x * y)))
        mean_x, mean_y, mean_xx, mean_yy, mean_xy = moments.chunk(5)
        squares, product = mean_x.square() + mean_y.square(), mean_x * mean_y
        luminance = (2 * product + _C1) / (squares + _C1)
        structure = (2 * (mean_xy - product) + _C2) / (mean_xx + mean_yy - squares + _C2)
        return 1 - (luminance * structure).mean()


def total_variation(x: Tensor) -> Tensor:
    """2 (sum of squared vertical steps / (C (H-1) W) + sum of squared horizontal steps / (C H (W-1))) / B.

    Args:
        x: [B, C, H, W], H and W at least 2.

    Returns:
        A scalar.
    """
    x = x.float()
    vertical = (x[:, :, 1:] - x[:, :, :-1]).square().mean()
    horizontal = (x[..., 1:] - x[..., :-1]).square().mean()
    return 2 * (vertical + horizontal)


def _blur(x: Tensor) -> Tensor:
    """Gaussian blur without padding, [B, C, H, W] -> [B, C, H-10, W-10].

    As two products with banded matrices: a convolution of one channel has nothing to vectorise over, and its
    gradient took a third of a training step.
    """
    rows, columns = (_blur_matrix(side, x) for side in x.shape[-2:])
    return rows @ x @ columns.mT


def _blur_matrix(side: int, like: Tensor) -> Tensor:
    """The blur along one axis as a matrix [side - 10, side]: row i holds the taps from column i on."""
    offsets = (
        torch.arange(side, device=like.device) - torch.arange(side - _WINDOW + 1, device=like.device)[:, None]
    )
    inside = (offsets >= 0) & (offsets < _WINDOW)
    taps = torch.exp(-(offsets - _WINDOW // 2).to(like.dtype).square() / (2 * _SIGMA**2)) * inside
    return taps / taps.sum(dim=1, keepdim=True)
