"""Random crops and mirrorings of whole batches, without a loop over the images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def random_crop_flip(
    x: Tensor, pad: int, *, flip: float, step: int = 1, fill: Tensor | None = None
) -> Tensor:
    """Shift each image by its own random offset of up to ``pad`` pixels each way, and mirror a share of them.

    Args:
        x: ``[B, C, H, W]``, any dtype.
        pad: pixels added at each side before the crop of the old size.
        flip: probability of mirroring left and right, 0..1.
        step: offsets are multiples of it; 2 keeps the 2x2 cells of a wavelet transform whole.
        fill: what comes in at the border, ``[C]``; None is 0.

    Returns:
        ``[B, C, H, W]``, C last in memory; drawn from the global generator of x's device.
    """
    n, _, height, width = x.shape
    device = x.device
    if pad:
        if fill is None:
            padded = F.pad(x, (pad,) * 4)
        else:
            padded = fill.to(x.dtype)[:, None, None].repeat(n, 1, height + 2 * pad, width + 2 * pad)
            padded[..., pad : pad + height, pad : pad + width] = x
    else:
        padded = x
    offsets = torch.randint(2 * pad // step + 1, (2, n, 1), device=device) * step
    rows = offsets[0] + torch.arange(height, device=device)
    columns = torch.arange(width, device=device).expand(n, width)
    if flip:
        mirrored = torch.rand(n, 1, device=device) < flip
        columns = torch.where(mirrored, width - 1 - columns, columns)
    columns = columns + offsets[1]
    image = torch.arange(n, device=device)[:, None, None]
    # advanced indices around a slice put C last in memory, where convolutions like it best
    return padded[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
