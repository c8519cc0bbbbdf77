"""Measuring an enhancer and the baselines on pairs (docs/methods/walmafa.md, Evaluation protocol)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import sha1
from statistics import fmean
from typing import Any

from torch import Tensor

from effcli.core.errors import InputError
from effcli.enhance.baselines import BASELINES
from effcli.enhance.data.pairs import PairSet
from effcli.enhance.enhancer import Enhancer
from effcli.enhance.image_quality import GAUSSIAN_WINDOW, evaluate_pair, mean_over_pairs, psnr_to_itself


def check_measurable(pairs: PairSet) -> None:
    """Refuse pictures that are too small for SSIM, before hours of training rather than after them.

    Raises:
        InputError: a picture is smaller than the 11x11 window of SSIM.
    """
    for name, (low, _) in zip(pairs.names, pairs, strict=True):
        if min(low.shape[-2:]) < GAUSSIAN_WINDOW:
            height, width = low.shape[-2:]
            raise InputError(
                f"{width}x{height} is too small to be measured: SSIM needs sides of at least {GAUSSIAN_WINDOW} pixels",
                place=name,
            )


def measure(
    enhancer: Enhancer, pairs: PairSet, check_stop: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Means over the pairs, of the enhancer and of the baselines that any method must beat.

    Beside the figures of :func:`~effcli.enhance.image_quality.evaluate_pair` ``identity_psnr``: the mean PSNR of the
    references, brightened, against themselves, where one that stays as it is counts as 60 dB.

    Args:
        enhancer: what is measured.
        pairs: dark pictures and their references.
        check_stop: called before each pair; may raise to stop.
    """
    methods = {"": enhancer.enhance_tensor, **BASELINES}
    scores: dict[str, list[Mapping[str, float | None]]] = {name: [] for name in methods}
    to_itself: dict[str, dict[bytes, float]] = {name: {} for name in methods}
    for index in range(len(pairs)):
        check_stop()
        low, high = as_floats(pairs[index])
        key = sha1(pairs[index][1].numpy().tobytes()).digest()  # dark pictures may share a reference
        for name, brighten in methods.items():
            scores[name].append(evaluate_pair(brighten(low), high))
            if key not in to_itself[name]:
                to_itself[name][key] = psnr_to_itself(brighten(high), high)
    means = {
        name: {**mean_over_pairs(rows), "identity_psnr": fmean(to_itself[name].values())}
        for name, rows in scores.items()
    }
    own = means.pop("")
    return {**own, "eval_pairs": len(pairs), "baselines": means}


def as_floats(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """A pair of uint8 pictures as floats in 0..1."""
    low, high = pair
    return low.float() / 255, high.float() / 255
