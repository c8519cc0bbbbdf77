"""Subnets: their sizes, and that a part of the network in place is the network that it would be alone."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from effcli.continual.learner import Classifier
from effcli.continual.methods.subnets import (
    Subnet,
    copy_subnet,
    draw_subnets,
    n_parameters,
    open_ratios,
    run_subnet,
    sort_middles,
    widths_of,
)
from effcli.continual.recipes.e2net import E2NetSection
from effcli.nn.resnet import ResNet18, Widths

RATIOS = E2NetSection().ratios
FULL = Widths.of(16)


@pytest.fixture
def network() -> Classifier:
    """With statistics and weights that are not those of a new one."""
    torch.manual_seed(0)
    made = Classifier(ResNet18(FULL), 10)
    for layer in made.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for values in (layer.running_mean, layer.running_var, layer.weight.data, layer.bias.data):
                assert values is not None
                values.uniform_(0.5, 1.5)
    return made.eval()


def some_subnets(n: int) -> list[Subnet]:
    return draw_subnets(n, len(RATIOS), FULL, None, np.random.default_rng(0))


def statistics_of(network: nn.Module) -> list[Tensor]:
    return [value.clone() for name, value in network.state_dict().items() if "running" in name]


@pytest.mark.parametrize(("n_classes", "wanted"), [(10, 11_173_962), (100, 11_220_132), (200, 11_271_432)])
def test_the_whole_network_has_the_weights_of_a_resnet_18(n_classes: int, wanted: int) -> None:
    assert n_parameters(Widths.of(64), 3, n_classes) == wanted


def test_the_smallest_subnet_of_cifar_10_has_27842_weights() -> None:
    smallest = widths_of(Subnet((0,) * 8, (0,) * 4), Widths.of(64), RATIOS)
    assert n_parameters(smallest, 3, 10) == 27_842


def test_weights_are_counted_as_they_are(network: Classifier) -> None:
    for subnet in some_subnets(10):
        widths = widths_of(subnet, FULL, RATIOS)
        alone = copy_subnet(network, widths)
        assert n_parameters(widths, 3, 10) == sum(p.numel() for p in alone.parameters())


@pytest.mark.parametrize("full", [8, 16, 40, 64, 512])
def test_channels_are_rounded_as_mobilenets_round(full: int) -> None:
    """To the nearest multiple of 8, at least 8; one more where a tenth would be lost; never more than there are."""
    shape = Widths((full,) * 4, (full,) * 8)
    for k, ratio in enumerate(RATIOS):
        wanted = max(8, math.floor((full * ratio + 4) / 8) * 8)
        wanted += 8 if wanted < 0.9 * full * ratio else 0
        assert widths_of(Subnet((9,) * 8, (k,) * 4), shape, RATIOS).outs == (min(wanted, full),) * 4


def test_channels_of_the_papers_first_and_last_stage() -> None:
    full = Widths.of(64)
    found = [widths_of(Subnet((9,) * 8, (k,) * 4), full, RATIOS).outs for k in range(10)]
    assert [outs[0] for outs in found] == [8, 16, 24, 24, 32, 40, 48, 48, 56, 64]
    assert [outs[3] for outs in found] == [48, 104, 152, 208, 256, 304, 360, 408, 464, 512]


def test_all_channels_are_the_network_itself(network: Classifier) -> None:
    x = torch.randn(4, 3, 16, 16)
    torch.testing.assert_close(run_subnet(network, FULL, x, "running"), network(x))


def test_a_subnet_in_place_is_its_copy(network: Classifier) -> None:
    x = torch.randn(4, 3, 16, 16)
    for subnet in some_subnets(10):
        widths = widths_of(subnet, FULL, RATIOS)
        alone = copy_subnet(network, widths).eval()
        assert not any(p.requires_grad for p in alone.parameters())
        torch.testing.assert_close(run_subnet(network, widths, x, "running"), alone(x), atol=1e-5, rtol=1e-5)
        alone.train()
        torch.testing.assert_close(run_subnet(network, widths, x, "batch"), alone(x), atol=1e-4, rtol=1e-4)


def test_statistics_of_the_batch_leave_the_running_ones_alone(network: Classifier) -> None:
    before = statistics_of(network)
    widths = widths_of(some_subnets(1)[0], FULL, RATIOS)
    run_subnet(network, widths, torch.randn(4, 3, 8, 8), "batch")
    assert all(map(torch.equal, before, statistics_of(network)))


def test_released_statistics_move_the_first_channels_alone(network: Classifier) -> None:
    before = network.backbone.bn.running_mean
    assert before is not None
    before = before.clone()
    widths = widths_of(Subnet((0,) * 8, (4,) * 4), FULL, RATIOS)
    run_subnet(network, widths, torch.randn(4, 3, 8, 8), "updated")
    moved = network.backbone.bn.running_mean != before
    assert moved.tolist() == [True] * 8 + [False] * 8


def test_sorted_channels_compute_the_same(network: Classifier) -> None:
    network = network.double()
    x = torch.randn(4, 3, 16, 16, dtype=torch.double)
    wanted, before = network(x), copy.deepcopy(network.backbone.blocks[0])
    sort_middles(network)
    torch.testing.assert_close(network(x), wanted)
    for block in network.backbone.blocks:
        importance = block.conv2.weight.abs().sum((0, 2, 3))
        assert bool((importance.diff() <= 1e-12).all())
    first, moved = (block.state_dict()["conv1.weight"] for block in (before, network.backbone.blocks[0]))
    assert not torch.equal(first, moved)


def test_how_many_ratios_are_open_after_each_task() -> None:
    assert open_ratios(10, 5, 4.0) == [4, 7, 9, 10, 10]
    assert open_ratios(99, 10, 4.0) == [4, 8, 12, 15, 17, 19, 20, 21, 22, 22]
    assert open_ratios(10, 10, 4.0)[-1] == 10
    for n_tasks in (1, 2, 5, 10, 20):
        found = open_ratios(10, n_tasks, "auto")
        assert len(found) == n_tasks and found == sorted(found) and found[0] >= 1
        assert found[-1] == 10


def test_subnets_are_drawn_between_the_last_one_and_the_open_ratios() -> None:
    least = Subnet((1, 2, 3, 0, 0, 0, 5, 0), (0, 2, 5, 0))
    drawn = draw_subnets(400, 4, FULL, least, np.random.default_rng(0))
    assert all(one.contains(least) for one in drawn)
    choices = np.array([(*one.middles, *one.stages) for one in drawn]).T
    lows = (*least.middles, *least.stages)
    for values, low in zip(choices, lows, strict=True):
        assert sorted(set(values.tolist())) == ([low] if low >= 4 else list(range(low, 4)))
