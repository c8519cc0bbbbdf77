"""WMB, the wavelet-based Mamba block of WalMaFa (docs/methods/walmafa.md, Wavelet Mamba block).

A block is three steps, so that a huge picture can be evaluated in strips: what comes before the scan and
what comes after it are local (a few rows of halo), and only the scan itself runs over the whole picture.
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from effcli.enhance.network.config import WalMaFaConfig
from effcli.enhance.network.feed_forward import GatedFeedForward
from effcli.enhance.network.illumination import IlluminationEstimator
from effcli.nn.mamba import Carry, Mamba
from effcli.nn.wavelet import dwt, iwt
from effcli.nn.wavelet_names import reach_of

HALO_BEFORE_SCAN_ROWS = 4
"""Rows beyond a strip that decide its tokens: two 3x3 convolutions at half size."""

HALO_AFTER_SCAN_ROWS = 6
"""Rows that what follows the scan looks beyond a strip: a 5x5 at half size, a 3x3 at full size; the inverse wavelet
transform between the two looks `WaveletMambaBlock.reach` rows further."""


class Bands(NamedTuple):
    """A block's input, normalised and split into what gets Mamba and what does not.

    With Mamba on "ll" that is LL and the details, B' = B; with Mamba on "high" the reverse, B' = 3B.
    """

    z: Tensor
    """[B, c, h, w], the normalised input 2 LN(x) - 1."""
    to_scan: Tensor
    """[B', c, h/2, w/2]: the band or bands that get Mamba."""
    direct: Tensor
    """The others."""

    def inner(self, rows: int) -> Bands:
        """Without the first and last ``rows`` rows of z, an even number, and half as many of the bands."""
        if rows == 0:
            return self
        half = rows // 2
        z, to_scan, direct = self
        return Bands(z[..., rows:-rows, :], to_scan[..., half:-half, :], direct[..., half:-half, :])


class PixelNorm(nn.LayerNorm):
    """gain LN(x) + offset, with layer normalisation over the channels of each pixel."""

    def __init__(self, channels: int, gain: float = 1.0, offset: float = 0.0) -> None:
        super().__init__(channels)
        self.gain, self.offset = gain, offset

    def forward(self, x: Tensor) -> Tensor:
        """x [B, c, h, w] -> the same shape, channels-last in memory."""
        weight, bias = self.gain * self.weight, self.gain * self.bias + self.offset
        return F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, weight, bias, self.eps).permute(
            0, 3, 1, 2
        )


class WaveletMamba(nn.Module):
    """WM: convolutions, a Mamba over the tokens of the feature maps, a convolution.

    In "transpose" order a token is a pixel and the sequence runs in raster order, as in the paper's figure.
    In "reshape" order it is c consecutive values of the [c, h, w] buffer, as in the released code: the scan
    then walks channel after channel, and token t comes out at pixel t (docs/methods/walmafa.md, Token order).
    """

    def __init__(self, channels: int, config: WalMaFaConfig) -> None:
        super().__init__()
        self.token_order = config.token_order if config.mamba else "transpose"
        self.widen = nn.Conv2d(channels, 2 * channels, 3, padding=1)
        self.narrow = nn.Conv2d(2 * channels, channels, 3, padding=1)
        self.norm = nn.LayerNorm(channels) if config.mamba else None
        self.mamba = Mamba(channels, d_state=config.d_state) if config.mamba else None
        self.smooth = nn.Conv2d(channels, channels, 3, padding=1)

    def before_scan(self, x: Tensor) -> Tensor:
        """x [B', c, h, w] -> tokens [B', h w, c]. Local: HALO_BEFORE_SCAN_ROWS decide those of a strip."""
        u = x + self.narrow(F.relu(self.widen(x)))
        if self.token_order == "reshape":
            tokens = u.reshape(u.shape[0], -1, u.shape[1])
        else:
            tokens = u.permute(0, 2, 3, 1).flatten(1, 2)
        out: Tensor = tokens if self.norm is None else self.norm(tokens)
        return out

    def scan(self, tokens: Tensor) -> Tensor:
        """Tokens [B', L, c] -> the same shape; the identity in the ablation without Mamba."""
        return tokens if self.mamba is None else self.mamba(tokens)

    def scan_piece(self, tokens: Tensor, carry: Carry | None) -> tuple[Tensor, Carry | None]:
        """:meth:`scan` of one piece [B', L, c] of a longer sequence; carry: what the piece before returned."""
        return (tokens, None) if self.mamba is None else self.mamba.forward_piece(tokens, carry)

    def after_scan(self, scanned: Tensor, height: int) -> Tensor:
        """Scanned tokens [B', L, c] -> feature maps [B', c, height, L / height]: token t becomes pixel t."""
        maps = scanned.reshape(scanned.shape[0], height, -1, scanned.shape[-1]).permute(0, 3, 1, 2)
        out: Tensor = self.smooth(maps)
        return out

    def forward(self, x: Tensor) -> Tensor:
        """x [B', c, h, w] -> the same shape."""
        return self.after_scan(self.scan(self.before_scan(x)), x.shape[-2])


class WaveletMambaBlock(nn.Module):
    """WMB(x) = y + FFN(LN(y)), where y = z + clamp((IWT(bands') + 1) / 2, 0, 1) and z = 2 LN(x) - 1.

    Of the bands of DWT(z), one (LL, or the three details) goes through :class:`WaveletMamba`, the other
    through the illumination estimator. The residual is z, not x.

    Attributes:
        wavelet: of DWT and IWT.
        reach: rows of z, an even number, that either of them looks beyond a strip and around the map's ends.
    """

    def __init__(self, channels: int, config: WalMaFaConfig) -> None:
        super().__init__()
        self.mamba_band = config.mamba_band
        self.wavelet, self.reach = config.wavelet, reach_of(config.wavelet)
        self.norm = PixelNorm(channels, gain=2.0, offset=-1.0)
        self.estimator = IlluminationEstimator(channels, channels)
        self.wavelet_mamba = WaveletMamba(channels, config)
        self.ffn_norm = PixelNorm(channels)
        self.ffn: nn.Module = GatedFeedForward(channels)

    def split(self, x: Tensor) -> Bands:
        """Normalise and split x [B, c, h, w], h and w even. Local: ``reach`` rows decide the bands of a strip."""
        z = self.norm(x)
        ll, details = dwt(z, self.wavelet)
        to_scan, direct = (ll, details) if self.mamba_band == "ll" else (details, ll)
        return Bands(z, to_scan, direct)

    def lit_bands(self, direct: Tensor, scanned: Tensor) -> tuple[Tensor, Tensor]:
        """``direct`` of :class:`Bands` and scanned tokens [B', L, c] -> LL' and the details'. Local, at half size."""
        with_mamba = self.wavelet_mamba.after_scan(scanned, direct.shape[-2])
        lit = self.estimator(direct)
        return (with_mamba, lit) if self.mamba_band == "ll" else (lit, with_mamba)

    def merge(self, ll: Tensor, details: Tensor) -> Tensor:
        """IWT(bands'). Local: ``reach / 2`` rows of the bands beyond a strip's decide its rows."""
        return iwt(ll, details, self.wavelet)

    def finish(self, z: Tensor, merged: Tensor) -> Tensor:
        """z of :class:`Bands` and IWT(bands') -> the block's output [B, c, h, w]. Local (in evaluation mode)."""
        y = z + ((merged + 1) / 2).clamp(0, 1)
        out: Tensor = y + self.ffn(self.ffn_norm(y))
        return out

    def forward(self, x: Tensor) -> Tensor:
        """x [B, c, h, w], h and w even -> the same shape."""
        z, to_scan, direct = self.split(x)
        scanned = self.wavelet_mamba.scan(self.wavelet_mamba.before_scan(to_scan))
        return self.finish(z, self.merge(*self.lit_bands(direct, scanned)))
