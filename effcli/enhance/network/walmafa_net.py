"""WalMaFa: wavelet-based Mamba with Fourier adjustment for low-light image enhancement (ACCV 2024).

The network of docs/methods/walmafa.md, Network (released code `model/Walmafa.py:361-473`), without the parameters that
the released code creates and never uses. The blocks are in `wavelet_mamba_block.py` (WMB), `fourier_block.py` (FFAB),
`feed_forward.py` and `illumination.py`.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effcli.enhance.network.config import WalMaFaConfig
from effcli.enhance.network.exposure import exposed
from effcli.enhance.network.exposure_head import N_MAPS, apply_maps
from effcli.enhance.network.feed_forward import FusedGatedFeedForward, GatedFeedForward
from effcli.enhance.network.fourier_block import FourierAdjustmentBlock
from effcli.enhance.network.illumination import IlluminationMap
from effcli.enhance.network.level import LevelPredictor
from effcli.enhance.network.wavelet_mamba_block import WaveletMambaBlock

SIDE_MULTIPLE = 16
"""Both sides of the network's input are multiples of this: three halvings and one wavelet level."""


_N_SEEN = 7
"""Channels that a network with an exposure head sees: the picture lit, the picture, the gain."""
_FIRST_MAPS_STD = 2e-3
"""Of the weights that say the maps, at the start: nearly the common curve, from where every map can be learned."""


def pad_to_multiple(x: Tensor, multiple: int = SIDE_MULTIPLE) -> tuple[Tensor, tuple[int, int]]:
    """Pad right and bottom until both sides are multiples, by reflection where the picture is large enough
    for it.

    Args:
        x: [B, C, H, W] with H, W >= 1.
        multiple: what the sides become multiples of.

    Returns:
        The padded pictures (x itself where nothing is missing) and the size (H, W) to crop the output to. A
        side no longer than its padding, where reflection is undefined, is padded by repeating the last row
        or column.
    """
    height, width = x.shape[-2:]
    return _pad(_pad(x, -2, 0, -height % multiple), -1, 0, -width % multiple), (height, width)


def add_border(x: Tensor, margin: int) -> Tensor:
    """Continue pictures by ``margin`` pixels on every side, by reflection where they are large enough for it.

    Args:
        x: [B, C, H, W] with H, W >= 1.
        margin: pixels, even, so that the wavelet's cells stay where they are; 0 returns x itself.
    """
    return _pad(_pad(x, -2, margin, margin), -1, margin, margin)


def _pad(x: Tensor, axis: int, before: int, after: int) -> Tensor:
    """Pad one of the last two axes by reflection, or by repeating its ends where it is no longer than the padding."""
    if before == after == 0:
        return x
    amount = (0, 0, before, after) if axis == -2 else (before, after, 0, 0)
    return F.pad(x, amount, mode="reflect" if max(before, after) < x.shape[axis] else "replicate")


class ExactConv2d(nn.Conv2d):
    """A convolution in the precision of its weights, whatever the autocast.

    The few convolutions between the blocks decide how precise the whole is: with them in float32 and the blocks
    in bfloat16 the output is 10 dB closer to float32 than with all in bfloat16, for a tenth of the arithmetic.
    """

    def forward(self, x: Tensor) -> Tensor:
        """See nn.Conv2d."""
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.to(self.weight.dtype))


class Downsample(nn.Module):
    """[B, c, h, w] -> [B, 2c, h/2, w/2]: conv 3x3 to c/2, pixel-unshuffle."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = ExactConv2d(channels, channels // 2, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return F.pixel_unshuffle(self.conv(x), 2)


class Upsample(nn.Module):
    """[B, c, h, w] -> [B, c/2, 2h, 2w]: conv 3x3 to 2c, pixel-shuffle."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = ExactConv2d(channels, 2 * channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return F.pixel_shuffle(self.conv(x), 2)


class WeightedSkip(nn.Module):
    """conv(w0 * skip + w1 * x) with learnable weights per channel, 1 at the start."""

    def __init__(self, channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, channels))
        self.conv = ExactConv2d(channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)

    def forward(self, skip: Tensor, x: Tensor) -> Tensor:
        """Both inputs [B, c, h, w] -> [B, out_channels, h, w]."""
        w_skip, w_x = self.weight[:, :, None, None]
        out: Tensor = self.conv(w_skip * skip + w_x * x)
        return out


class WalMaFa(nn.Module):
    """The enhancement network; see :class:`~effcli.enhance.network.config.WalMaFaConfig` for its variants.

    The weights are stored channels-last, which is the layout its feature maps keep throughout.
    """

    def __init__(self, config: WalMaFaConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or WalMaFaConfig()
        c = config.dim
        n_1, n_2, n_3 = config.blocks
        self.illumination = IlluminationMap(c)
        has_head = config.head == "exposure"
        self.embed = ExactConv2d(_N_SEEN if has_head else 3, c, 3, padding=1, bias=False)
        self.down_1 = Downsample(c)
        self.encoder_1 = _blocks(n_1, 2 * c, config)
        self.down_2 = Downsample(2 * c)
        self.encoder_2 = _blocks(n_2, 4 * c, config)
        self.down_3 = Downsample(4 * c)
        self.encoder_3 = _blocks(n_3, 8 * c, config)
        self.fourier = FourierAdjustmentBlock(8 * c) if config.fourier else nn.Identity()
        self.up_3 = Upsample(8 * c)
        self.skip_2 = WeightedSkip(4 * c, 4 * c, 1)
        self.decoder_2 = _blocks(n_2, 4 * c, config)
        self.up_2 = Upsample(4 * c)
        self.skip_1 = WeightedSkip(2 * c, 2 * c, 1)
        self.decoder_1 = _blocks(n_1, 2 * c, config)
        self.up_1 = Upsample(2 * c)
        self.decoder_0 = _blocks(n_1, c, config)
        self.output = WeightedSkip(c, N_MAPS if has_head else 3, 3)
        if has_head:
            nn.init.trunc_normal_(self.output.conv.weight, std=_FIRST_MAPS_STD)
        self.level = LevelPredictor() if has_head else None
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor, log_gain: Tensor | None = None) -> Tensor:
        """Brighten pictures.

        Args:
            x: [B, 3, H, W] sRGB in 0..1, H and W multiples of 16 (see :func:`pad_to_multiple`).
            log_gain: [B], of the head "exposure": the gain of the curve that all pixels share; None is no gain.

        Returns:
            [B, 3, H, W]; of the head "picture" not bounded: clamp it to 0..1 for display.

        Raises:
            ValueError: if a side is not a multiple of 16.
        """
        if x.shape[-2] % SIDE_MULTIPLE or x.shape[-1] % SIDE_MULTIPLE:
            raise ValueError(f"sides must be multiples of {SIDE_MULTIPLE}, not {x.shape[-2]}x{x.shape[-1]}")
        if self.level is None:
            return self.decode(self.embed_picture(x))
        if log_gain is None:
            log_gain = x.new_zeros(len(x))
        return apply_maps(x, log_gain, self.decode(self.embed_exposed(x, log_gain)))

    def embed_picture(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, c, H, W], of the head "picture"."""
        x = x.contiguous(memory_format=torch.channels_last)
        embedded: Tensor = self.embed(self.illumination(x))
        return embedded

    def embed_exposed(self, x: Tensor, log_gain: Tensor) -> Tensor:
        """[B, 3, H, W] and [B] -> [B, c, H, W], of the head "exposure": it sees the picture lit and as it is."""
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(x.device.type, enabled=False):
            lit = exposed(x.float(), log_gain)
            gain = (log_gain / 3)[:, None, None, None].expand(-1, 1, *x.shape[-2:])
            seen = torch.cat((self.illumination(lit), x, gain), 1)
        embedded: Tensor = self.embed(seen.contiguous(memory_format=torch.channels_last))
        return embedded

    def decode(self, embedded: Tensor) -> Tensor:
        """What is behind the first convolution: [B, c, H, W] -> the picture or the maps of the head."""
        e_1 = self.encoder_1(self.down_1(embedded))
        e_2 = self.encoder_2(self.down_2(e_1))
        latent = self.fourier(self.encoder_3(self.down_3(e_2)))
        d_2 = self.decoder_2(self.skip_2(e_2, self.up_3(latent)))
        d_1 = self.decoder_1(self.skip_1(e_1, self.up_2(d_2)))
        d_0 = self.up_1(d_1)
        out: Tensor = self.output(self.decoder_0(d_0), d_0)
        return out

    def fuse(self) -> WalMaFa:
        """A copy for inference: evaluation mode, no gradients, each feed-forward network in its fused form.

        Its output equals this network's in evaluation mode up to rounding. It is not for saving: its
        parameters are no longer those of the format.
        """
        copied = copy.deepcopy(self).eval().requires_grad_(False)
        for module in copied.modules():
            if isinstance(module, WaveletMambaBlock) and isinstance(module.ffn, GatedFeedForward):
                module.ffn = FusedGatedFeedForward(module.ffn).eval().requires_grad_(False)
        return copied.to(memory_format=torch.channels_last)


def blank_network(config: WalMaFaConfig) -> WalMaFa:
    """A network whose weights mean nothing yet; the caller's random numbers stay as they are.

    Not on the meta device: its operators import the tracing compiler, which takes longer than filling the weights.
    """
    with torch.random.fork_rng(devices=[]):
        return WalMaFa(config)


def _blocks(n_blocks: int, channels: int, config: WalMaFaConfig) -> nn.Sequential:
    return nn.Sequential(*(WaveletMambaBlock(channels, config) for _ in range(n_blocks)))
