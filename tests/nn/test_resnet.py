"""ResNet-18 for small images, against torchvision's with another stem."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

from effcli.continual.learner import Classifier
from effcli.nn.resnet import ResNet18, ShortcutConv, Widths


def torchvisions(n_classes: int) -> ResNet:
    network = ResNet(BasicBlock, [2, 2, 2, 2], num_classes=n_classes)
    network.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    network.maxpool = nn.Identity()
    return network


def test_it_computes_what_torchvision_s_does() -> None:
    torch.manual_seed(0)
    ours, theirs = Classifier(ResNet18(Widths.of(64)), 10), torchvisions(10)
    values = [one for one in ours.state_dict().values() if one.is_floating_point()]
    for value in values:
        value.uniform_(0.02, 0.05)
    names = [name for name, one in theirs.state_dict().items() if one.is_floating_point()]
    theirs.load_state_dict(dict(zip(names, values, strict=True)), strict=False)
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("n_classes", "wanted"), [(10, 11_173_962), (200, 11_271_432)])
def test_weights_of_the_papers_network(n_classes: int, wanted: int) -> None:
    network = Classifier(ResNet18(Widths.of(64)), n_classes)
    assert sum(p.numel() for p in network.parameters()) == wanted
    assert sum(p.numel() for p in torchvisions(n_classes).parameters()) == wanted


def test_channels_double_where_the_side_is_halved() -> None:
    widths = Widths.of(20)
    assert widths.outs == (20, 40, 80, 160)
    assert [stride for *_, stride in widths.blocks()] == [1, 1, 2, 1, 2, 1, 2, 1]
    network = ResNet18(widths, in_channels=1)
    assert network.dim == 160
    for side in (8, 28, 33):
        assert network(torch.rand(2, 1, side, side)).shape == (2, 160)


def test_a_head_that_grows_keeps_its_rows() -> None:
    network = Classifier(ResNet18(Widths.of(4)), 3)
    before = network.head.weight.detach().clone(), network.head.bias.detach().clone()
    network.grow(2)
    assert network.head.out_features == 5
    assert torch.equal(network.head.weight[:3], before[0]) and torch.equal(network.head.bias[:3], before[1])
    assert network.head.weight.requires_grad


@pytest.mark.parametrize("channels", [2, 8])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_shortcut_is_a_strided_convolution(channels: int, stride: int) -> None:
    torch.manual_seed(0)
    ours, plain = ShortcutConv(channels, 6, stride), nn.Conv2d(channels, 6, 1, stride, bias=False).double()
    with torch.no_grad():
        plain.weight.copy_(ours.weight)
    x = torch.randn(3, channels, 7, 8, requires_grad=True)
    wanted = x.detach().double().requires_grad_()
    upstream = torch.randn(3, 6, -(-7 // stride), 8 // stride)
    ours(x).backward(upstream)
    plain(wanted).backward(upstream.double())
    torch.testing.assert_close(ours(x).double(), plain(wanted), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.weight.grad, plain.weight.grad.float(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(x.grad, wanted.grad.float(), rtol=1e-5, atol=1e-5)
