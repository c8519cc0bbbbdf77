"""Rows of a batch that two processes share out: outputs, gradients and statistics of the whole one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from effcli.core.errors import UsageError
from effcli.nn.batch_norm import SyncedBatchNorm2d
from effcli.nn.gathering import average_gradients, refuse_unshareable, rows_shared

SIZES = (5, 2, 1)
"""The last batch leaves the second process nothing to do."""


def learned() -> dict[str, Tensor]:
    """What a network, and a head that is not shared out, do with some batches."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), SyncedBatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
    )
    head = nn.Linear(3, 2)
    weights = [*network.parameters(), *head.parameters()]
    found: dict[str, Tensor] = {}
    for n in SIZES:
        x = torch.randn(n, 3, 4, 4)
        with rows_shared([network]):
            out = network(x)
            head(out).square().mean().sqrt().backward()
            average_gradients(weights)
        gradients = {f"{n}-{number}": one.grad for number, one in enumerate(weights) if one.grad is not None}
        found |= {**gradients, f"{n}": out.detach()}
        for one in weights:
            one.grad = None
    assert network.eval()(x).shape == (1, 3)  # each process the whole batch again
    return found | network.state_dict()


def worker(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=(folder / "rendezvous").as_uri(), rank=rank, world_size=2)
    torch.save(learned(), folder / f"{rank}.pt")
    network = nn.Dropout(0.5)
    with pytest.raises(UsageError, match="draws random numbers"), rows_shared([network]):
        network(torch.ones(4, 2))
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen([sys.executable, __file__, str(rank), str(tmp_path)], stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    for process in processes:
        _, messages = process.communicate(timeout=120)
        assert process.returncode == 0, messages.decode()
    alone = learned()
    for rank in range(2):
        for name, value in torch.load(tmp_path / f"{rank}.pt").items():
            torch.testing.assert_close(value, alone[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        (nn.Dropout(0.1), "draws random numbers"),
        (StochasticDepth(0.2, "row"), "draws random numbers"),
        (nn.BatchNorm2d(3), "statistics from one process's part"),
    ],
)
def test_what_cannot_be_shared_is_refused_while_it_trains(layer: nn.Module, why: str) -> None:
    network = nn.Sequential(nn.Dropout(0.0), SyncedBatchNorm2d(3), layer)
    with pytest.raises(UsageError, match=f"its layer 2 .*{why}"):
        refuse_unshareable(network, "here")
    refuse_unshareable(network.eval(), "here")


if __name__ == "__main__":
    worker(int(sys.argv[1]), Path(sys.argv[2]))
