"""The residual networks for CIFAR: their size, their shortcuts, and what those in the package see."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import nn

from effcli.core.tensor_file import builtin_file
from effcli.data.image_sets import load_images, to_range
from effcli.metrics.features import FORMAT, load_classifier, load_features
from effcli.nn.classifiers.cifar_resnet import CifarResNet, CifarResNetConfig, PlainBlock
from tests.data_root import data_file


@pytest.mark.parametrize(("depth", "n_parameters"), [(20, 269_722), (32, 464_154), (56, 853_018)])
def test_it_has_as_many_parameters_as_published(depth: int, n_parameters: int) -> None:
    network = CifarResNet(CifarResNetConfig(depth=depth))
    assert sum(p.numel() for p in network.parameters()) == n_parameters
    convolutions = sum(isinstance(module, nn.Conv2d) for module in network.modules())
    assert convolutions + 1 == depth


def test_shortcuts_skip_pixels_and_pad_channels_on_both_sides() -> None:
    block = PlainBlock(4, 8, 2).eval()
    nn.init.zeros_(block.conv2.weight)  # only the shortcut is left
    x = torch.rand(2, 4, 6, 6)
    wanted = torch.zeros(2, 8, 3, 3)
    for i in range(3):
        for j in range(3):
            wanted[:, 2:6, i, j] = x[:, :, 2 * i, 2 * j]
    torch.testing.assert_close(block(x), wanted)


def test_features_are_the_means_of_the_last_of_three_maps() -> None:
    torch.manual_seed(0)
    network = CifarResNet(CifarResNetConfig(depth=8, n_classes=3)).eval()
    images = 2 * torch.rand(2, 3, 32, 32) - 1
    maps = network.feature_maps(images)
    assert [tuple(one.shape[1:]) for one in maps] == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]
    torch.testing.assert_close(network.features(images), maps[-1].mean((2, 3)))
    torch.testing.assert_close(network(images), network.linear(maps[-1].mean((2, 3))))


def test_a_depth_that_makes_no_whole_blocks_is_refused() -> None:
    with pytest.raises(ValidationError, match="21 is not 6n"):
        CifarResNetConfig(depth=21)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "least"), [("builtin:cifar10-resnet20", 0.78), ("builtin:cifar10-resnet56", 0.8)]
)
def test_those_in_the_package_know_photographs(name: str, least: float) -> None:
    test = load_images(str(data_file("cifar10.npz")), "eval", side=32, channels=3)
    images, labels = test.images[::5], test.labels[::5]
    with builtin_file(name, FORMAT) as file:
        network, moments = load_classifier(file, name)
    assert isinstance(network, CifarResNet) and moments.n == 50_000
    found = torch.cat([network(to_range(part)).argmax(1) for part in images.split(250)])
    assert float((found == labels).float().mean()) > least
    features = load_features(name).features(images)
    torch.testing.assert_close(features.double().mean(0), moments.mean, atol=0.08, rtol=0)


def test_its_gradient_reaches_the_images() -> None:
    network = CifarResNet(CifarResNetConfig(depth=8)).eval()
    images = torch.zeros(1, 3, 32, 32, requires_grad=True)
    F.mse_loss(network.features(images), torch.ones(1, 64)).backward()
    assert images.grad is not None and float(images.grad.abs().max()) > 0
