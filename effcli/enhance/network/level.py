"""The level that a dark picture should reach, from a thumbnail of it."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effcli.enhance.network.exposure import exposed, log_gain_for_level

SIDE = 64
"""The thumbnail is brought to SIDE x SIDE, whatever its shape."""
LEVEL_SEEN = 0.4
"""The level to which it is brought before the predictor sees it, so that the exposure hardly matters."""


class LevelPredictor(nn.Module):
    """Four strided convolutions over a thumbnail of common level, their means, and two linear layers."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        widths = (4, channels, 2 * channels, 2 * channels, 2 * channels)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride=2, padding=1) for before, after in pairwise(widths)
        )
        self.hidden = nn.Linear(4 * channels + 2, 2 * channels)
        self.last = nn.Linear(2 * channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Thumbnails [B, 3, h, w] in 0..1 -> levels [B] in 0..1; in float32 whatever the autocast."""
        with torch.autocast(x.device.type, enabled=False):
            return self._predict(x.float())

    def _predict(self, x: Tensor) -> Tensor:
        wanted = torch.full((x.shape[0],), LEVEL_SEEN, dtype=x.dtype, device=x.device)
        log_gain = log_gain_for_level(x, wanted)
        seen = exposed(x, log_gain)
        y = torch.cat((seen, x.amax(1, keepdim=True)), 1)
        y = F.interpolate(y, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
        for convolution in self.convolutions:
            y = F.relu(convolution(y))
        brightest = seen.amax(1).flatten(1)
        spread = brightest.std(1, keepdim=True, correction=min(1, brightest.shape[1] - 1))  # 0 of one pixel
        pooled = torch.cat((y.mean((2, 3)), y.amax((2, 3)), log_gain[:, None] / 3, spread), 1)
        return torch.sigmoid(self.last(F.relu(self.hidden(pooled))))[:, 0]
