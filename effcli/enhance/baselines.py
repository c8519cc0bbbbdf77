"""What a trained enhancer has to beat: the input itself, fixed gamma curves, histogram equalisation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch


def gamma_correction(x: torch.Tensor, gamma: float) -> torch.Tensor:
    """``x ** gamma``; brightens for gamma < 1.

    Args:
        x: image, float ``[..., 3, H, W]``; clipped to 0..1 first.
        gamma: the exponent, above 0; 1/2.2 undoes the gamma of sRGB once more.

    Returns:
        float ``[..., 3, H, W]`` in 0..1.
    """
    return x.clamp(0.0, 1.0) ** gamma


def histogram_equalisation(x: torch.Tensor) -> torch.Tensor:
    """Equalise the histogram of luma (Y of YCbCr) and keep the chroma, by Pillow, in 8 bits.

    Args:
        x: image, float ``[..., 3, H, W]``; clipped to 0..1 and rounded to 8 bits first.

    Returns:
        float ``[..., 3, H, W]`` in 0..1, multiples of 1/255, of x's dtype and device.
    """
    pixels = (x.detach().clamp(0.0, 1.0) * 255.0).round().to("cpu", torch.uint8)
    equalised = [_equalised_luma(image) for image in pixels.reshape(-1, *x.shape[-3:])]
    return (torch.stack(equalised).reshape(x.shape).to(x.device, torch.float32) / 255.0).to(x.dtype)


def _equalised_luma(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 ``[3, H, W]`` to the same."""
    import numpy as np
    from PIL import Image, ImageOps

    luma, blue, red = Image.fromarray(pixels.permute(1, 2, 0).numpy()).convert("YCbCr").split()
    image = Image.merge("YCbCr", (ImageOps.equalize(luma), blue, red)).convert("RGB")
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _unchanged(x: torch.Tensor) -> torch.Tensor:
    return x


BASELINES: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "input": _unchanged,
    "gamma": partial(gamma_correction, gamma=1 / 2.2),
    "histeq": histogram_equalisation,
    "gamma_3_5": partial(gamma_correction, gamma=1 / 3.5),
}
"""Baselines by the name under which ``enhance eval`` reports them."""
