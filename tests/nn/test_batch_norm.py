"""Synchronised batch normalisation: two gloo processes against nn.BatchNorm2d on the whole batch."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from effcli.nn.batch_norm import SyncedBatchNorm2d

SIZES = (2, 4)


def batch_and_weights() -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(sum(SIZES), 3, 4, 5, generator=generator) * 2 + 1
    x[: SIZES[0]] += 3  # the two parts have different statistics
    loss_weight = torch.randn(x.shape, generator=generator)
    state = {"weight": torch.tensor([0.5, 1.0, 2.0]), "bias": torch.tensor([-1.0, 0.0, 1.0])}
    return x, loss_weight, state


def forward_backward(norm: nn.BatchNorm2d, part: slice) -> dict[str, torch.Tensor]:
    """Two forward passes in training mode, then the gradients of a weighted sum of the last output."""
    x, loss_weight, state = batch_and_weights()
    norm.load_state_dict(state, strict=False)
    norm(x[part] * 0.5)
    leaf = x[part].clone().requires_grad_()
    out = norm(leaf)
    (out * loss_weight[part]).sum().backward()
    gradients = {"weight": norm.weight.grad, "bias": norm.bias.grad}
    return {"out": out.detach(), "input": leaf.grad, **gradients, **norm.state_dict(prefix="state.")}


def worker(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=(folder / "rendezvous").as_uri(), rank=rank, world_size=2)
    part = slice(0, SIZES[0]) if rank == 0 else slice(SIZES[0], None)
    torch.save(forward_backward(SyncedBatchNorm2d(3), part), folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_equal_one_on_the_whole_batch(tmp_path):
    processes = [
        subprocess.Popen([sys.executable, __file__, str(rank), str(tmp_path)], stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    for process in processes:
        _, messages = process.communicate(timeout=120)
        assert process.returncode == 0, messages.decode()
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    whole = forward_backward(nn.BatchNorm2d(3), slice(None))
    for name in ("out", "input"):
        torch.testing.assert_close(torch.cat([first[name], second[name]]), whole[name], rtol=1e-4, atol=1e-5)
    for name in ("weight", "bias"):
        torch.testing.assert_close(first[name] + second[name], whole[name], rtol=1e-4, atol=1e-5)
    for name in (name for name in whole if name.startswith("state.")):
        torch.testing.assert_close(first[name], whole[name])
        torch.testing.assert_close(second[name], whole[name])


@pytest.mark.parametrize("training", [True, False])
def test_one_process_is_batch_norm(training):
    results = [
        forward_backward(norm.train(training), slice(None))
        for norm in (SyncedBatchNorm2d(3), nn.BatchNorm2d(3))
    ]
    assert results[0].keys() == results[1].keys()
    for name in results[0]:
        assert torch.equal(results[0][name], results[1][name])


if __name__ == "__main__":
    worker(int(sys.argv[1]), Path(sys.argv[2]))
