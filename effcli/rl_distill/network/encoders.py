"""From observations to features: one encoder per part of an observation (docs/methods/opd-da.md, Networks)."""

from __future__ import annotations

import math
from itertools import accumulate

import torch
from torch import Tensor, nn

from effcli.rl_distill.environments.observations import SMALLEST_FRAME, Observed, Part

SIZES = {"small": 0.5, "normal": 1.0, "large": 2.0}
"""Width relative to the usual network."""


def encoder(observed: Observed, size: str, *, normalises: bool = False) -> tuple[nn.Sequential, int]:
    """The usual network for observations, and its number of features.

    Numbers and choices get two layers of 64 with tanh; grids of planes (MinAtar) 16 3x3 filters and a layer of 128;
    pictures with sides of at least 36 pixels the network of Mnih et al. (Nature 2015), smaller ones three layers of 32
    3x3 filters. Of several parts each has an encoder, and a layer of 64 (512 with a picture) reads them all.

    Args:
        observed: what the observations are.
        size: ``small``, ``normal`` or ``large``.
        normalises: numbers are normalised by running statistics first.
    """
    times = SIZES[size]
    if observed.is_single:
        return _of_part(observed.parts[0], times, normalises)
    ends = [0, *accumulate(part.n_values for part in observed.parts)]
    read = [i for i, part in enumerate(observed.parts) if part.kind not in ("mask", "hidden")]
    parts = [_of_part(observed.parts[i], times, normalises) for i in read]
    places = [(ends[i], ends[i + 1]) for i in read]
    inside = Parts([one for one, _ in parts], [observed.parts[i].shape for i in read], places)
    width = round((512 if has_pictures(observed) else 64) * times)
    return nn.Sequential(inside, linear(sum(n for _, n in parts), width), nn.Tanh()), width


def has_pictures(observed: Observed) -> bool:
    """Whether convolutions read a part of it; actor and critic then share one encoder."""
    return any(part.kind in ("picture", "planes") for part in observed.parts)


def _of_part(part: Part, times: float, normalises: bool) -> tuple[nn.Sequential, int]:
    if part.kind == "planes":
        channels, width = round(16 * times), round(128 * times)
        height, wide, planes = part.shape
        conv = _orthogonal(nn.Conv2d(planes, channels, 3))
        flat = channels * (height - 2) * (wide - 2)
        layers = [ChannelsFirst(), conv, nn.ReLU(), nn.Flatten(), linear(flat, width), nn.ReLU()]
        return nn.Sequential(*layers), width
    if part.kind == "picture":
        return _of_picture(part, times)
    width = round(64 * times)
    before: list[nn.Module] = [nn.Flatten(-len(part.shape))] if len(part.shape) > 1 else []
    n_in = part.n_values
    if part.kind == "choices":
        before, n_in = [OneHot(part)], sum(part.choices)
    elif normalises:
        before.append(Normaliser(n_in))
    return nn.Sequential(*before, linear(n_in, width), nn.Tanh(), linear(width, width), nn.Tanh()), width


def _of_picture(part: Part, times: float) -> tuple[nn.Sequential, int]:
    channels, height, wide = picture_shape(part)
    first = UnitFrames() if part.layout == "chw" and part.scale == 255 else UnitPicture(part)
    width = round(512 * times)
    if min(height, wide) >= SMALLEST_FRAME:
        a, b, c = [round(n * times) for n in (32, 64, 64)]
        kernels = [(channels, a, 8, 4), (a, b, 4, 2), (b, c, 3, 1)]
    else:
        a, width = round(32 * times), round(128 * times)
        strides = [2 if min(height, wide) >= 16 else 1, 2 if min(height, wide) >= 24 else 1, 1]
        kernels = [(n_in, a, 3, stride) for n_in, stride in zip((channels, a, a), strides, strict=True)]
        kernels = [(n, out, min(kernel, height, wide), stride) for n, out, kernel, stride in kernels]
        kernels = kernels[: max(1, (min(height, wide) - 1) // 2)]
    layers: list[nn.Module] = []
    for n_in, n_out, kernel, stride in kernels:
        layers += [_orthogonal(nn.Conv2d(n_in, n_out, kernel, stride)), nn.ReLU()]
    convolutions = nn.Sequential(*layers, nn.Flatten())
    with torch.no_grad():
        flat = convolutions(torch.zeros(1, channels, height, wide)).shape[1]
    return nn.Sequential(first, convolutions, linear(flat, width), nn.ReLU()), width


def picture_shape(part: Part) -> tuple[int, int, int]:
    """Channels, height and width of a picture; frames over time are channels."""
    shape = part.shape
    if part.layout == "hw":
        return (1, *shape)  # type: ignore[return-value]
    if part.layout == "hwc":
        return shape[2], shape[0], shape[1]
    if part.layout == "shwc":
        return shape[0] * shape[3], shape[1], shape[2]
    return shape  # type: ignore[return-value]


def linear(n_in: int, n_out: int, gain: float = math.sqrt(2)) -> nn.Linear:
    """A linear layer with orthogonal weights of a gain and zero bias."""
    layer = nn.Linear(n_in, n_out)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


def _orthogonal(conv: nn.Conv2d) -> nn.Conv2d:
    nn.init.orthogonal_(conv.weight, math.sqrt(2))
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


class UnitFrames(nn.Module):
    """Frames of bytes ``[B, C, H, W]`` to values in 0..1, channels-last in memory."""

    def forward(self, x: Tensor) -> Tensor:
        """``x / 255``."""
        return x.contiguous(memory_format=torch.channels_last) / 255


class ChannelsFirst(nn.Module):
    """``[B, H, W, C]`` to ``[B, C, H, W]``."""

    def forward(self, x: Tensor) -> Tensor:
        """The same values."""
        return x.movedim(-1, 1)


class UnitPicture(nn.Module):
    """Pictures of any layout to ``[B, C, H, W]``, in 0..1 where the bounds of the space say so.

    Args:
        part: the picture.
    """

    def __init__(self, part: Part) -> None:
        super().__init__()
        self._layout, self._scale = part.layout, part.scale

    def forward(self, x: Tensor) -> Tensor:
        """``x / scale``."""
        if self._layout == "hw":
            x = x[:, None]
        elif self._layout == "hwc":
            x = x.movedim(-1, 1)
        elif self._layout == "shwc":
            x = x.movedim(-1, 2).flatten(1, 2)
        return x if self._scale == 1 else x / self._scale


class OneHot(nn.Module):
    """Choices ``[..., K]`` to ones and zeros ``[..., sum of the numbers of choices]``.

    Args:
        part: the choices.
    """

    def __init__(self, part: Part) -> None:
        super().__init__()
        starts = [0, *accumulate(part.choices)][:-1]
        self._first, self._n = part.first_choices, sum(part.choices)
        self._offsets = [start - first for start, first in zip(starts, part.first_choices, strict=True)]

    def forward(self, x: Tensor) -> Tensor:
        """One per choice, the others zero."""
        numbers = torch.arange(self._n, device=x.device)
        places = x.long() + torch.tensor(self._offsets, device=x.device)
        return (places[..., None] == numbers).any(-2).to(torch.float32)


class Normaliser(nn.Module):
    """``(x - mean) / standard deviation``, cut off at 10, by statistics of all observations so far.

    One observation of mean 0 and variance 1 is counted from the start.

    Args:
        n: numbers of an observation.

    Attributes:
        counts: what passes through is counted in.
    """

    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self, n: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(n))
        self.register_buffer("variance", torch.ones(n))
        self.register_buffer("count", torch.ones(()))
        self.counts = False

    def forward(self, x: Tensor) -> Tensor:
        """Normalised."""
        if self.counts:
            self.add(x)
        return normalised(x, self.mean, self.variance)

    def add(self, x: Tensor) -> None:
        """Count observations ``[B, n]`` in (Chan et al. 1979)."""
        total = float(self.count) + len(x)
        share, x = len(x) / total, x.double()
        apart = x.mean(0) - self.mean
        spread = self.variance * (1 - share) + x.var(0, unbiased=False) * share
        self.variance.copy_(spread + apart.square() * share * (1 - share))
        self.mean += apart * share
        self.count.fill_(total)


@torch.no_grad()
def count_in(network: nn.Module, observations: Tensor) -> None:
    """Count observations ``[B, ...]`` in the statistics of a network, if it has any."""
    found = [module for module in network.modules() if isinstance(module, Normaliser)]
    for module in found:
        module.counts = True
    if found and len(observations):
        network(observations.float())
    for module in found:
        module.counts = False


def share_statistics(network: nn.Module, other: nn.Module) -> None:
    """Let another network of the same shape normalise by the statistics of the first, as they change."""
    for name, module in network.named_modules():
        if isinstance(module, Normaliser):
            other.get_submodule(name)._buffers = module._buffers


def normalised(x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """The formula of :class:`Normaliser`."""
    return ((x - mean) / (variance + 1e-8).sqrt()).clamp(-10.0, 10.0)


class Parts(nn.Module):
    """Several parts, each by its own encoder, side by side.

    Args:
        encoders: one per part.
        shapes: of the parts that they read.
        places: where each part begins and ends in an observation.
    """

    def __init__(
        self, encoders: list[nn.Sequential], shapes: list[tuple[int, ...]], places: list[tuple[int, int]]
    ) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(encoders)
        self._shapes, self._places = shapes, places

    def forward(self, x: Tensor) -> Tensor:
        """``[B, N]`` to ``[B, sum of features]``."""
        pieces = zip(self.encoders, self._shapes, self._places, strict=True)
        found = [one(x[:, first:end].unflatten(1, shape)) for one, shape, (first, end) in pieces]
        return torch.cat(found, 1)
