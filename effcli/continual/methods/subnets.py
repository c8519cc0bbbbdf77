"""Subnets of a ResNet-18: the first channels of each layer (the elastic network of E2Net, after Once-for-All).

A subnet is a choice of one width for each stage and one for the middle of each block. It runs in place, on slices of
the network's weights, or as a copy that stands alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effcli.continual.learner import Classifier
from effcli.nn.resnet import BLOCKS_PER_STAGE, ResNet18, Widths, convolve

Statistics = Literal["running", "batch", "updated"]
"""What BatchNorm uses: its running statistics; the batch's; the batch's, which also move the running ones."""


@dataclass(frozen=True)
class Subnet:
    """A choice, as places in the ascending list of ratios.

    Attributes:
        middles: k, of the channels inside each of the eight blocks, as a share of the block's outputs.
        stages: w, of the outputs of each of the four stages.
    """

    middles: tuple[int, ...]
    stages: tuple[int, ...]

    def contains(self, other: Subnet) -> bool:
        """Whether it is at least as wide everywhere."""
        mine, others = (*self.middles, *self.stages), (*other.middles, *other.stages)
        return all(a >= b for a, b in zip(mine, others, strict=True))


def widths_of(subnet: Subnet, full: Widths, ratios: Sequence[float]) -> Widths:
    """The channel counts of a subnet of a network with the widths ``full``."""
    outs = tuple(_channels(out, ratios[w]) for out, w in zip(full.outs, subnet.stages, strict=True))
    mids = tuple(
        _channels(outs[number // BLOCKS_PER_STAGE], ratios[e]) for number, e in enumerate(subnet.middles)
    )
    return Widths(outs, mids)


def _channels(full: int, ratio: float) -> int:
    """A share of the channels, to the nearest multiple of 8 that is not below nine tenths of it; at most all."""
    wanted = full * ratio
    rounded = max(8, int(wanted + 4) // 8 * 8)
    if rounded < 0.9 * wanted:
        rounded += 8
    return min(rounded, full)


def draw_subnets(
    n: int, n_open: int, full: Widths, at_least: Subnet | None, random: np.random.Generator
) -> list[Subnet]:
    """Draw choices among the ``n_open`` smallest ratios, none narrower than ``at_least`` anywhere.

    Where ``at_least`` is wider than the open ratios, it stays as it is.
    """
    n_middles, n_stages = len(full.mids), len(full.outs)
    low = np.zeros(n_middles + n_stages, int)
    if at_least is not None:
        low[:] = (*at_least.middles, *at_least.stages)
    drawn = random.integers(low, np.maximum(n_open, low + 1), size=(n, len(low)))
    return [Subnet(tuple(map(int, row[:n_middles])), tuple(map(int, row[n_middles:]))) for row in drawn]


def open_ratios(n_ratios: int, n_tasks: int, growth: float | Literal["auto"]) -> list[int]:
    """How many of the smallest ratios may be drawn after each task.

    Steps of ``r/2 (1 + cos(pi s / (T - 1)))``, rounded, at least 1 but for the last; never more than there are.
    """
    r = 2 * n_ratios / n_tasks if growth == "auto" else growth
    total, found = 0, []
    for s in range(n_tasks):
        step = round(r / 2 * (1 + math.cos(math.pi * s / max(n_tasks - 1, 1))))
        total += max(step, 1) if s < n_tasks - 1 or n_tasks == 1 else step
        found.append(min(total, n_ratios))
    return found


def n_parameters(widths: Widths, in_channels: int, n_classes: int) -> int:
    """Of a network with a head, BatchNorm's statistics not counted."""
    total = 9 * in_channels * widths.outs[0] + 2 * widths.outs[0]
    for before, mid, out, stride in widths.blocks():
        total += 9 * before * mid + 2 * mid + 9 * mid * out + 2 * out
        if stride != 1 or before != out:
            total += before * out + 2 * out
    return total + (widths.outs[-1] + 1) * n_classes


def run_subnet(network: Classifier, widths: Widths, x: Tensor, statistics: Statistics) -> Tensor:
    """Logits ``[B, n_classes]`` of the subnet with these widths, in place."""
    backbone = network.backbone
    x = F.relu(_norm(backbone.bn, _conv(backbone.conv, x, widths.outs[0]), statistics), inplace=True)
    block: Any
    for block, (_, mid, out, _) in zip(backbone.blocks, widths.blocks(), strict=True):
        inner = F.relu(_norm(block.bn1, _conv(block.conv1, x, mid), statistics), inplace=True)
        inner = _norm(block.bn2, _conv(block.conv2, inner, out), statistics)
        if len(block.shortcut):
            x = _norm(block.shortcut[1], _conv(block.shortcut[0], x, out), statistics)
        x = F.relu(inner + x, inplace=True)
    features = x.mean((2, 3))
    return F.linear(features, network.head.weight[:, : features.shape[1]], network.head.bias)


def _conv(layer: nn.Conv2d, x: Tensor, out: int) -> Tensor:
    assert not isinstance(layer.padding, str)
    return convolve(x, layer.weight[:out, : x.shape[1]], layer.stride, layer.padding)


def _norm(layer: nn.BatchNorm2d, x: Tensor, statistics: Statistics) -> Tensor:
    c = x.shape[1]
    mean, var = (None, None) if statistics == "batch" else (layer.running_mean, layer.running_var)
    if mean is not None and var is not None:
        mean, var = mean[:c], var[:c]
    momentum = 0.1 if layer.momentum is None else layer.momentum
    is_training = statistics != "running"
    return F.batch_norm(x, mean, var, layer.weight[:c], layer.bias[:c], is_training, momentum, layer.eps)


@torch.no_grad()
def copy_subnet(network: Classifier, widths: Widths) -> Classifier:
    """The subnet as a network of its own, with frozen weights."""
    full = network.state_dict()
    copy = Classifier(ResNet18(widths, network.backbone.conv.in_channels), network.head.out_features)
    for name, weights in copy.state_dict().items():
        weights.copy_(full[name][tuple(slice(n) for n in weights.shape)])
    return copy.to(network.head.weight.device).requires_grad_(False)


@torch.no_grad()
def sort_middles(network: Classifier) -> None:
    """Put the channels inside each block in order of importance, the most important first.

    Importance is the L1 norm of the second convolution's weights for the channel. The network's function stays; it is
    done in place, so an optimiser with a state for each weight would have to follow.
    """
    block: Any
    for block in network.backbone.blocks:
        order = block.conv2.weight.abs().sum((0, 2, 3)).argsort(descending=True, stable=True)
        block.conv1.weight.copy_(block.conv1.weight[order])
        block.conv2.weight.copy_(block.conv2.weight[:, order])
        for values in (block.bn1.weight, block.bn1.bias, block.bn1.running_mean, block.bn1.running_var):
            values.copy_(values[order])
