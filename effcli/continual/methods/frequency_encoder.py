"""What CLFD puts before and behind a network (docs/methods/clfd.md): frequency features, and the largest units."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from effcli.nn.wavelet import dwt
from effcli.nn.wavelet_names import HAAR

N_FEATURE_MAPS = 3


class FrequencyEncoder(nn.Module):
    """FFE: the wavelet bands of an image through three 1x1 convolutions, 24 weights for RGB.

    Args:
        channels: of the images.
        wavelet: the name of a discrete wavelet in PyWavelets.
    """

    def __init__(self, channels: int = 3, wavelet: str = HAAR) -> None:
        super().__init__()
        self.wavelet = wavelet
        self.low = nn.Conv2d(channels, 1, 1, bias=False)
        self.all_bands = nn.Conv2d(4 * channels, 1, 1, bias=False)
        self.high = nn.Conv2d(3 * channels, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` to the maps low, global and high, ``[B, 3, H/2, W/2]``.

        Raises:
            ValueError: H or W is odd.
        """
        ll, lh, hl, hh = bands(x, self.wavelet)
        low = self.low(ll)
        every = self.all_bands(torch.cat([ll, lh, hl, hh], 1))
        return torch.cat([low, every, self.high(torch.cat([lh, hl, hh], 1))], 1)


def bands(x: Tensor, wavelet: str = HAAR) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """LL, LH, HL and HH by the names and signs of CLFD's released code, ``[B, C, H/2, W/2]`` each.

    With Haar and a, b over c, d in each 2x2 cell: LH = (a - b + c - d) / 2, HL = (a + b - c - d) / 2; WalMaFa's names,
    which :func:`dwt` has, are the other way round and of the other sign.
    """
    ll, details = dwt(x, wavelet)
    hl, lh, hh = details.unflatten(0, (3, -1))
    return ll, -hl, -lh, hh


def top_units(z: Tensor, k: int) -> Tensor:
    """Whether each entry is among the ``k`` largest of its row by magnitude; of ties at the border fewer."""
    if k >= z.shape[1]:
        return torch.ones_like(z, dtype=torch.bool)
    size = z.detach().abs()
    return size > size.topk(k + 1, 1).values[:, -1:]
