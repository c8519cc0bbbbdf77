from __future__ import annotations

import pytest
import torch
from torch import nn

from effcli.nn.ema import Ema


def network_of(value: float) -> nn.Module:
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    with torch.no_grad():
        for tensor in network.state_dict().values():
            tensor.fill_(value)
    return network


def test_the_average_is_the_recurrence() -> None:
    """avg <- d avg + (1 - d) w with d = min(decay, (1 + n) / (10 + n)), in plain numbers."""
    decay, network = 0.15, network_of(4.0)
    ema, expected = Ema(network, decay), 4.0
    for n in range(6):
        value = float(n * n)
        for tensor in network.state_dict().values():
            tensor.fill_(value)
        ema.update(network)
        d = min(decay, (1 + n) / (10 + n))
        expected = d * expected + (1 - d) * value
        assert ema.average["0.weight"][0, 0].item() == pytest.approx(expected, rel=1e-6)
        assert ema.average["1.running_var"][0].item() == pytest.approx(expected, rel=1e-6)
        assert ema.average["1.num_batches_tracked"].item() == value  # whole numbers are copied
    assert ema.n_updates == 6


def test_without_decay_the_last_weights_are_kept() -> None:
    network = network_of(1.0)
    ema = Ema(network, 0.0)
    for tensor in network.state_dict().values():
        tensor.fill_(7.0)
    ema.update(network)
    other = network_of(0.0)
    ema.copy_to(other)
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, network.state_dict()[name]), name


def test_the_average_does_not_change_with_the_network() -> None:
    network = network_of(1.0)
    ema = Ema(network, 0.5)
    network[0].weight.data.fill_(9.0)
    assert ema.average["0.weight"].eq(1.0).all()


def test_a_restored_average_goes_on_exactly() -> None:
    def train(ema: Ema, network: nn.Module, steps: range) -> None:
        for step in steps:
            torch.manual_seed(step)
            for tensor in network.parameters():
                tensor.data.normal_()
            ema.update(network)

    network = network_of(1.0)
    whole, part = Ema(network, 0.9), Ema(network, 0.9)
    train(whole, network, range(8))
    train(part, network, range(3))
    saved = {"average": {k: v.clone() for k, v in part.average.items()}, "n_updates": part.n_updates}
    train(part, network, range(3, 5))  # the object that is restored has gone another way
    part.load_state_dict(saved)
    train(part, network, range(3, 8))
    assert part.state_dict().keys() == saved.keys()
    for name, tensor in whole.average.items():
        assert torch.equal(tensor, part.average[name]), name


def test_a_checkpoint_s_average_comes_to_the_network_s_device() -> None:
    """Checkpoints are read to the CPU; the average stays where it is (``meta`` stands for a GPU here)."""
    state = Ema(network_of(1.0), 0.9).state_dict()
    ema = Ema(network_of(2.0).to("meta"), 0.9)
    ema.load_state_dict(state)
    assert {tensor.device.type for tensor in ema.average.values()} == {"meta"}


def test_the_state_of_another_network_is_refused() -> None:
    with pytest.raises(KeyError, match="another network"):
        Ema(network_of(1.0), 0.9).load_state_dict(Ema(nn.Linear(1, 1), 0.9).state_dict())
