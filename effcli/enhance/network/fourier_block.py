"""The Fourier adjustment at WalMaFa's bottleneck: amplitude and phase, each through its own 1x1 convolutions.

FFAB of WalMaFa (docs/methods/walmafa.md, Fourier adjustment block).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_VALUES_AT_ONCE = 1 << 20


class PointwiseConv2d(nn.Conv2d):
    """A 1x1 convolution that is a matrix product where no gradient is needed.

    For planar float32 maps PyTorch takes its slow convolution, which copies them first.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, n, h, w] -> the same shape."""
        if torch.is_grad_enabled() or self.bias is None:
            return super().forward(x)
        product = torch.matmul(self.weight[:, :, 0, 0], x.flatten(2))
        out: Tensor = product.add_(self.bias[:, None]).unflatten(2, x.shape[2:])
        return out


class FourierEnhancement(nn.Module):
    """FEB: the spectrum of a projection of v, its amplitude and phase adjusted channel-wise, back, plus v.

    The amplitude may become negative and the phase is not wrapped; frequencies mix only through the
    transform. The frequency domain is computed in float32 whatever the autocast: a bfloat16 phase is off by
    up to 0.008 rad.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(channels, channels, 1)
        self.amplitude = _adjustment(channels)
        self.phase = _adjustment(channels)

    def forward(self, v: Tensor) -> Tensor:
        """v [B, n, h, w] of any size -> the same shape."""
        projected = self.project(v)
        dtype = projected.dtype
        with torch.autocast(v.device.type, enabled=False):
            spectrum = half_spectrum(projected.to(torch.promote_types(dtype, torch.float32)))
            del projected
            if torch.is_grad_enabled():
                spectrum = self.adjust(spectrum)
            else:  # frequencies do not mix here: a few rows at a time keep large pictures small
                n_rows = max(1, _VALUES_AT_ONCE // spectrum[:, :, :1].numel())
                for rows in torch.split(spectrum, n_rows, dim=2):
                    rows.copy_(self.adjust(rows))
            back = torch.fft.irfft2(spectrum, s=v.shape[-2:])
            del spectrum
        return _plus(back.to(dtype), v)

    def adjust(self, spectrum: Tensor) -> Tensor:
        """A complex spectrum [B, n, h, w] -> the same shape, amplitude and phase adjusted at each frequency."""
        amplitude = self.amplitude(spectrum.abs())
        phase = self.phase(spectrum.angle())
        # Not torch.polar: its gradient has the wrong sign where the amplitude is negative.
        return torch.complex(amplitude * phase.cos(), amplitude * phase.sin())


class FourierProcess(nn.Module):
    """PB: v + conv1x1(FEB(v))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.enhance = FourierEnhancement(channels)
        self.project = nn.Conv2d(channels, channels, 1)

    def forward(self, v: Tensor) -> Tensor:
        """v [B, n, h, w] -> the same shape."""
        return _plus(self.project(self.enhance(v)), v)


class FourierMerge(nn.Module):
    """Two stages side by side, processed at twice the width and projected back: conv1x1(PB([a, b]))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.process = FourierProcess(2 * channels)
        self.project = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """a and b [B, n, h, w] -> [B, n, h, w]."""
        out: Tensor = self.project(self.process(torch.cat((a, b), dim=1)))
        return out


class FourierAdjustmentBlock(nn.Module):
    """FFAB: four Fourier stages down, three merges back up, at one resolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.entry = nn.Conv2d(channels, channels, 1)
        self.stage_0 = FourierProcess(channels)
        self.stage_1 = FourierProcess(channels)
        self.stage_2 = FourierProcess(channels)
        self.stage_3 = FourierProcess(channels)
        self.merge_2 = FourierMerge(channels)
        self.merge_1 = FourierMerge(channels)
        self.merge_0 = FourierMerge(channels)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, n, h, w] -> the same shape."""
        x0 = self.stage_0(self.entry(x))
        x1 = self.stage_1(x0)
        x2 = self.stage_2(x1)
        x3 = self.stage_3(x2)
        x4 = self.merge_2(x2, x3)
        del x2, x3
        x5 = self.merge_1(x1, x4)
        del x1, x4
        out: Tensor = self.merge_0(x0, x5)
        return out


def half_spectrum(x: Tensor) -> Tensor:
    """The half spectrum of real maps [..., h, w], with the bins that are real by symmetry made exactly real.

    The transform leaves a rounding error of either sign in their imaginary part. Where such a bin is negative, that
    sign decides between phases of pi and -pi, and the network would amplify it to a visible difference.
    """
    spectrum: Tensor = torch.fft.rfft2(x)
    rows, columns = (slice(None, None, n // 2) if n % 2 == 0 else slice(1) for n in x.shape[-2:])
    spectrum.imag[..., rows, columns].zero_()
    return spectrum


def _adjustment(channels: int) -> nn.Sequential:
    return nn.Sequential(
        PointwiseConv2d(channels), nn.LeakyReLU(0.1, inplace=True), PointwiseConv2d(channels)
    )


def _plus(a: Tensor, b: Tensor) -> Tensor:
    """a + b, into a's memory where no gradient needs it."""
    return a + b if torch.is_grad_enabled() else a.add_(b)
