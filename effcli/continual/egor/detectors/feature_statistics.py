"""Means and variances of features: what a prior of synthesised images is made of.

BatchNorm keeps them while it learns. Where it is folded into the convolutions they are measured: on free photographs
for the detector in the package, whose file of statistics lies beside its weights, or on the new images.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field, Json
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from effcli.continual.egor.detectors.detector import Detector
from effcli.continual.egor.detectors.nanodet import NanoDetM
from effcli.core.errors import InputError
from effcli.core.tensor_file import builtin_file, save_tensors
from effcli.core.weight_file import Count, Header, read_weights

FORMAT, VERSION = "effcli-feature-statistics", "1"
SHIPPED = "builtin:nanodet-m-statistics"


@dataclass(frozen=True)
class FeatureStatistics:
    """Of some layers of a network.

    Attributes:
        layers: their names.
        means: of the channels, one ``[C]`` per layer.
        variances: biased ones, likewise.
    """

    layers: tuple[str, ...]
    means: tuple[Tensor, ...]
    variances: tuple[Tensor, ...]

    def to(self, device: torch.device) -> FeatureStatistics:
        """The same on a device."""
        means, variances = (
            tuple(one.to(device) for one in values) for values in (self.means, self.variances)
        )
        return FeatureStatistics(self.layers, means, variances)


class StatisticsHeader(Header):
    """What is in the metadata."""

    FORMAT: ClassVar[str] = FORMAT
    VERSION: ClassVar[str] = VERSION
    layers: Json[Annotated[dict[str, Count], Field(min_length=1)]]


def watched_layers(network: nn.Module) -> dict[str, nn.Module]:
    """The layers whose features a prior is about: BatchNorm; without any, the convolutions of NanoDet's backbone."""
    modules = dict(network.named_modules())
    norms = {
        name: one for name, one in modules.items() if isinstance(one, nn.BatchNorm2d | FrozenBatchNorm2d)
    }
    if norms or not isinstance(network, NanoDetM):
        return norms
    return {
        name: one
        for name, one in modules.items()
        if name.startswith("backbone.") and isinstance(one, nn.Conv2d)
    }


def own_statistics(network: Detector) -> FeatureStatistics | None:
    """Those that a detector came with: BatchNorm's running ones, or those shipped with NanoDet-m; None without any.

    A NanoDet whose backbone has learned since is no longer the one that was measured.
    """
    layers = watched_layers(network)
    if not layers:
        return None
    if isinstance(network, NanoDetM):
        return _shipped(network)
    norms: Mapping[str, Any] = layers
    return FeatureStatistics(
        tuple(norms),
        tuple(one.running_mean for one in norms.values()),
        tuple(one.running_var for one in norms.values()),
    )


def _shipped(network: NanoDetM) -> FeatureStatistics | None:
    from effcli.continual.egor.weights import BUILTIN, load_detector

    known, own = load_detector(BUILTIN)[0].state_dict(), network.state_dict()
    backbone = [name for name in known if name.startswith("backbone.")]
    if not all(torch.equal(own[name].cpu(), known[name]) for name in backbone):
        return None
    with builtin_file(SHIPPED, FORMAT) as file:
        return load_statistics(file, SHIPPED).to(own[backbone[0]].device)


@torch.no_grad()
def measured_statistics(network: Detector, batches: Iterable[Tensor]) -> FeatureStatistics:
    """Of images as the network takes them, ``[B, 3, H, W]`` each batch; every pixel of every image counts the same.

    Raises:
        ValueError: the network has no layers that are watched.
    """
    layers = watched_layers(network)
    if not layers:
        raise ValueError("no layer is watched")
    sums: dict[str, list[Tensor]] = {}
    counts = dict.fromkeys(layers, 0)

    def look(name: str, x: Tensor) -> None:
        x = x.double()
        new = [x.sum((0, 2, 3)), x.square().sum((0, 2, 3))]
        sums[name] = [a + b for a, b in zip(sums[name], new, strict=True)] if name in sums else new
        counts[name] += x.numel() // x.shape[1]

    with watching(layers, look):
        for images in batches:
            network(images)
    means = {name: total / counts[name] for name, (total, _) in sums.items()}
    variances = [squares / counts[name] - means[name].square() for name, (_, squares) in sums.items()]
    return FeatureStatistics(
        tuple(sums),
        tuple(one.float() for one in means.values()),
        tuple(one.clamp_min(0).float() for one in variances),
    )


class _ChannelMoments(torch.autograd.Function):
    """Mean and biased variance of each channel, ``[B, C, H, W]`` to two ``[C]``.

    ``torch.var`` over these dimensions is not vectorised on CPUs; passes over what is centred are five times as fast.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        mean = x.mean((0, 2, 3), keepdim=True)
        centred = x - mean
        ctx.save_for_backward(centred)
        return mean.flatten(), centred.square().mean((0, 2, 3))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, by_mean: Tensor, by_variance: Tensor) -> Tensor:
        (centred,) = ctx.saved_tensors
        n = centred.numel() // centred.shape[1]
        each = (by_mean / n)[:, None, None], (2 * by_variance / n)[:, None, None]
        return torch.addcmul(each[0], centred, each[1])


def channel_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of the channels of float ``[B, C, H, W]``, each ``[C]``; differentiable once."""
    found: tuple[Tensor, Tensor] = _ChannelMoments.apply(x)
    return found


@contextmanager
def watching(layers: Mapping[str, nn.Module], look: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Show what enters each BatchNorm, or leaves each convolution, until the end of the context.

    Args:
        layers: by name.
        look: gets the name of a layer and its features.
    """

    def entering(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, inputs: look(name, inputs[0])

    def leaving(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        return lambda _, __, output: look(name, output)

    handles = [
        layer.register_forward_hook(leaving(name))
        if isinstance(layer, nn.Conv2d)
        else layer.register_forward_pre_hook(entering(name))
        for name, layer in layers.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def save_statistics(file: Path, found: FeatureStatistics, metadata: Mapping[str, str]) -> None:
    """Write a file of statistics: all layers one after another, with their names and widths in the metadata."""
    layers = json.dumps(dict(zip(found.layers, map(len, found.means), strict=True)))
    tensors = {"means": torch.cat(found.means).cpu(), "variances": torch.cat(found.variances).cpu()}
    save_tensors(file, tensors, {**metadata, "format": FORMAT, "version": VERSION, "layers": layers})


def load_statistics(file: Path, place: str) -> FeatureStatistics:
    """Read a file of statistics.

    Raises:
        InputError: it is of another kind, or damaged.
    """
    header, tensors = read_weights(file, place, StatisticsHeader)
    widths = list(header.layers.values())
    values = [tensors.get(name, torch.empty(0)) for name in ("means", "variances")]
    if any(one.shape != (sum(widths),) or not one.is_floating_point() for one in values):
        raise InputError(f"its statistics are not of {sum(widths)} channels", place=place)
    if not all(bool(one.isfinite().all()) for one in values) or float(values[1].min()) < 0:
        raise InputError("has statistics that are not finite, or negative variances", place=place)
    means, variances = (one.split(widths) for one in values)
    return FeatureStatistics(tuple(header.layers), means, variances)
