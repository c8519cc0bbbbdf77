"""The shipped recipes build the networks of the paper at their sizes: docs/methods/rdd.md, Network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from effcli.core.registry import find_recipe
from effcli.distill.rounds import rounds_of
from effcli.distill.time_grid import TimeGrid
from effcli.distill.trained.classifier import new_classifier
from effcli.distill.trained.teacher import build_teacher, scheduler_config
from tests.distill.small_teacher import teacher


def shipped(name: str) -> Any:
    return find_recipe("distill", name)


def n_parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_the_cifar10_unet() -> None:
    with torch.device("meta"):
        assert n_parameters(build_teacher(shipped("cifar10-diffusion"), 10)) == 35_746_307


def test_the_imagenet_unet() -> None:
    """The released one adds Linear(onehot(y)) to the time embedding; an embedding has no bias of 4 x 128 numbers."""
    with torch.device("meta"):
        unet = build_teacher(shipped("imagenet64-diffusion"), 1000)
    assert n_parameters(unet) == 116_451_203 - 512


def test_the_cifar10_classifier() -> None:
    network = new_classifier(shipped("cifar10-classifier"), 10).eval()
    assert n_parameters(network) == 18_104_458
    with torch.inference_mode():
        maps = network.feature_map(torch.zeros(2, 3, 32, 32))
        assert maps.shape == (2, 1920, 4, 4) and maps.min() >= 0
        assert network.features(torch.zeros(2, 3, 32, 32)).shape == (2, 1920)


@pytest.mark.parametrize("name", ["cifar10", "imagenet64"])
def test_the_rounds_of_the_paper(name: str) -> None:
    recipe = shipped(f"paper-{name}")
    grid = TimeGrid(scheduler_config(shipped(f"{name}-diffusion"), 10), torch.device("cpu"))
    grid.check_steps(recipe.student_steps, recipe.teacher_steps)
    assert grid.timesteps(1024) == list(range(1024, 0, -1))
    rounds = rounds_of(recipe, teacher("sample"))
    assert [one.student_steps for one in rounds] == [512, 256, 128, 64, 32, 16, 8, 4, 2, 1]
    assert [one.student_steps for one in rounds if one.has_features] == [4, 2, 1]
