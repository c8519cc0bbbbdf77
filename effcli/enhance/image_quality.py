"""PSNR and SSIM of an enhanced photograph against its reference, in the conventions of low-light papers.

Everything is computed on RGB values rounded to 8 bits, as in a saved file (docs/methods/walmafa.md, Evaluation
protocol): SSIM in two conventions, and each figure with and without GT-mean correction, which alone adds 2-5 dB.
Figures of different conventions must not be compared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from effcli.core.errors import InputError, NonFiniteError
from effcli.enhance.network.exposure import grey

UNIFORM_WINDOW = 7
GAUSSIAN_WINDOW = 11
GAUSSIAN_SIGMA = 1.5
METRIC_KEYS = (
    *("psnr", "ssim", "ssim_gaussian", "psnr_gt_mean", "ssim_gt_mean", "ssim_gaussian_gt_mean"),
    *("hue_error", "level", "reference_level"),
)
UNCHANGED_DB = 60.0
"""What a picture that stays as it is counts in a mean of PSNR against itself: about what rounding to 8 bits leaves."""

_COLOURED_SATURATION, _COLOURED_VALUE = 0.2, 0.1
_FEWEST_COLOURED = 50

_K1, _K2 = 0.01, 0.03


def round_to_8bit(image: torch.Tensor) -> torch.Tensor:
    """The image as an 8-bit file would keep it.

    Args:
        image: ``[..., 3, H, W]``, uint8, or float with 0 black and 1 white (values outside are clipped).

    Returns:
        float32 (float64 stays), each value a multiple of 1/255 in 0..1.
    """
    if image.dtype == torch.uint8:
        return image.float() / 255.0
    wide = image if image.dtype == torch.float64 else image.float()
    return (wide.clamp(0.0, 1.0) * 255.0).round() / 255.0


def gt_mean(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """GT-mean correction: the prediction scaled to the target's mean grey level, then clipped.

    ``clip(prediction * mean(gray(target)) / mean(gray(prediction)), 0, 1)`` with Rec. 601 grey and no
    rounding afterwards, as in HVI-CIDNet's ``measure.py``. A black prediction has no such gain and is
    returned as it is.

    Args:
        prediction: float ``[..., 3, H, W]`` in 0..1.
        target: the same shape.

    Returns:
        float ``[..., 3, H, W]`` in 0..1.
    """
    means = [grey(image).sum((-3, -2, -1)) for image in (prediction, target)]
    gain = torch.where(means[0] > 0, means[1] / means[0], torch.ones_like(means[0]))
    return (prediction * gain[..., None, None, None]).clamp(0.0, 1.0)


def psnr(prediction: torch.Tensor, target: torch.Tensor) -> float:
    """Peak signal-to-noise ratio in dB over all RGB values, peak 1; ``inf`` for equal images.

    Args:
        prediction: float ``[3, H, W]`` or ``[1, 3, H, W]`` in 0..1.
        target: the same shape.
    """
    from torchmetrics.functional.image import peak_signal_noise_ratio

    return float(peak_signal_noise_ratio(prediction, target, data_range=1.0))


def ssim_uniform(prediction: torch.Tensor, target: torch.Tensor) -> float:
    """SSIM with a uniform 7x7 window: scikit-image's default, of the released ``evaluation.py``.

    Sample (co)variances with the factor f = n/(n-1), n = 49, per channel, mean over the windows that lie
    inside the image. Dividing (2 f s_xy + C2) / (f (s_xx + s_yy) + C2) through by f leaves plain ones and
    C2/f, so K2 carries it.

    Args:
        prediction: float ``[3, H, W]`` or ``[1, 3, H, W]`` in 0..1, sides of 7 or more.
        target: the same shape.

    Raises:
        InputError: a side is smaller than the window.
    """
    n = UNIFORM_WINDOW**2
    return _ssim(prediction, target, UNIFORM_WINDOW, is_gaussian=False, k2=_K2 * math.sqrt((n - 1) / n))


def ssim_gaussian(prediction: torch.Tensor, target: torch.Tensor) -> float:
    """SSIM with an 11x11 Gaussian window of sigma 1.5 (Wang et al., 2004), the commoner one in papers.

    Per channel, mean over the windows that lie inside the image.

    Args:
        prediction: float ``[3, H, W]`` or ``[1, 3, H, W]`` in 0..1, sides of 11 or more.
        target: the same shape.

    Raises:
        InputError: a side is smaller than the window.
    """
    return _ssim(prediction, target, GAUSSIAN_WINDOW, is_gaussian=True, k2=_K2)


def _ssim(
    prediction: torch.Tensor, target: torch.Tensor, window: int, *, is_gaussian: bool, k2: float
) -> float:
    from torchmetrics.functional.image import structural_similarity_index_measure

    height, width = prediction.shape[-2:]
    if min(height, width) < window:
        raise InputError(f"an image of {width}x{height} is smaller than the {window}x{window} window of SSIM")
    _, similarity = structural_similarity_index_measure(
        prediction.reshape(1, 3, height, width),
        target.reshape(1, 3, height, width),
        gaussian_kernel=is_gaussian,
        sigma=GAUSSIAN_SIGMA,
        kernel_size=window,
        data_range=1.0,
        k1=_K1,
        k2=k2,
        return_full_image=True,
    )
    border = window // 2
    return float(similarity[..., border : height - border, border : width - border].mean())


def hue_error(prediction: torch.Tensor, target: torch.Tensor) -> float | None:
    """Mean difference of the hues (HSV) in degrees, 0..180, over the pixels that are coloured in the target.

    Coloured are pixels of saturation above 0.2 and value above 0.1; None where a picture has fewer than 50 of them. A
    prediction without colour there has hue 0.

    Args:
        prediction: float ``[3, H, W]`` or ``[1, 3, H, W]`` in 0..1.
        target: the same shape.
    """
    hues, saturation, value = zip(
        *(_hsv(image.reshape(3, -1)) for image in (prediction, target)), strict=True
    )
    coloured = (saturation[1] > _COLOURED_SATURATION) & (value[1] > _COLOURED_VALUE)
    if int(coloured.sum()) < _FEWEST_COLOURED:
        return None
    difference = (hues[0] - hues[1]).abs()[coloured]
    return float(torch.minimum(difference, 360 - difference).mean())


def _hsv(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hue in degrees, saturation and value of pixels [3, N]."""
    red, green, blue = image
    value, least = image.amax(0), image.amin(0)
    spread = (value - least).clamp_min(1e-9)
    is_green, is_red = value == green, value == red
    hue = torch.where(is_green, (blue - red) / spread + 2, (red - green) / spread + 4)
    hue = torch.where(is_red, ((green - blue) / spread) % 6, hue)
    return 60 * hue, (value - least) / value.clamp_min(1e-9), value


def psnr_to_itself(result: torch.Tensor, picture: torch.Tensor) -> float:
    """PSNR in dB of what became of a picture against the picture; UNCHANGED_DB and more count as UNCHANGED_DB.

    Args:
        result: float ``[3, H, W]``; rounded to 8 bits here.
        picture: the same shape.
    """
    return min(psnr(round_to_8bit(result), round_to_8bit(picture)), UNCHANGED_DB)


def evaluate_pair(prediction: torch.Tensor, target: torch.Tensor) -> dict[str, float | None]:
    """All figures of one enhanced image, after rounding both images to 8 bits.

    Args:
        prediction: ``[3, H, W]`` or ``[1, 3, H, W]``; uint8, or float with 0 black and 1 white, clipped to
            that.
        target: the same shape.

    Returns:
        ``psnr`` (dB), ``ssim`` (uniform 7x7) and ``ssim_gaussian`` (11x11), and the same three after GT-mean
        correction as ``psnr_gt_mean``, ``ssim_gt_mean``, ``ssim_gaussian_gt_mean``; ``hue_error`` in degrees (see
        :func:`hue_error`); ``level`` and ``reference_level``, the mean grey levels, 0..1. The PSNR of equal images is
        infinite, which JSON cannot hold: it is given as None, beside an SSIM of 1.

    Raises:
        InputError: the shapes differ, or a side is smaller than 11.
        NonFiniteError: the prediction holds NaN.
    """
    shape = prediction.shape
    if shape != target.shape or shape[-3:-2] != (3,) or shape[:-3] not in ((), (1,)):
        raise InputError(f"images of shape {list(shape)} and {list(target.shape)} cannot be compared")
    if prediction.isnan().any():
        raise NonFiniteError("an enhanced image holds NaN")
    wanted = round_to_8bit(target.detach())
    predicted = round_to_8bit(prediction.detach()).to(wanted)
    figures: dict[str, float | None] = {}
    for suffix, image in (("", predicted), ("_gt_mean", gt_mean(predicted, wanted))):
        level = psnr(image, wanted)
        figures[f"psnr{suffix}"] = level if level < math.inf else None
        figures[f"ssim{suffix}"] = ssim_uniform(image, wanted)
        figures[f"ssim_gaussian{suffix}"] = ssim_gaussian(image, wanted)
    figures["hue_error"] = hue_error(predicted, wanted)
    figures["level"], figures["reference_level"] = (
        float(grey(image).mean()) for image in (predicted, wanted)
    )
    return figures


def mean_over_pairs(figures: Sequence[Mapping[str, float | None]]) -> dict[str, float | int | None]:
    """The mean of each figure over a data set.

    Args:
        figures: one result of :func:`evaluate_pair` per pair, at least one.

    Returns:
        each key of METRIC_KEYS with its mean over the pairs where it is finite (None when there are none);
        ``pairs``, their number; ``pairs_equal``, the number that have no PSNR, prediction and target being
        equal.
    """
    means: dict[str, float | int | None] = {}
    for key in METRIC_KEYS:
        values = [value for one in figures if (value := one[key]) is not None]
        means[key] = sum(values) / len(values) if values else None
    means["pairs"] = len(figures)
    means["pairs_equal"] = sum(one["psnr"] is None for one in figures)
    return means
