"""Two processes (gloo) take the steps of one, with every kind of method; in float64, so that rounding hides nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from effcli.continual.network import classifier_of
from effcli.continual.weights import save_classifier
from effcli.nn.gathering import average_gradients, rows_shared
from tests.continual.streams import begin, seed, tiny_method, tiny_tasks

METHODS = (
    *("er", "er frequency.enabled=true", "cls-er", "e2net", "ir", "icarl", "ewc", "wa"),
    "slca network.backbone={folder}/own.safetensors",
    "ease network.backbone=timm:test_vit:{folder}/vit.safetensors ease.hidden=4 ease.dropout=0",
)
BATCH = 5
"""New images of a step, which two processes cannot share evenly."""


def steps_of(name: str, *settings: str) -> list[dict[str, Any]]:
    """Terms of the loss and gradients of two steps of each of two tasks."""
    method, found = tiny_method(name, *settings), []
    for task in tiny_tasks():
        seed(task.number)
        begin(method, task)
        optimizer = method.optimizer()
        weights = [one for group in optimizer.param_groups for one in group["params"]]
        method.learner.begin_epoch(task, 1, 2)
        for rows in torch.arange(len(task.train)).split(BATCH)[:2]:
            seed(int(rows[0]))
            images, labels = task.train.images[rows], task.train.labels[rows]
            with rows_shared(method.networks()):
                terms = dict(method.loss(images, labels))
                optimizer.zero_grad()
                torch.stack(list(terms.values())).sum().backward()
                average_gradients(weights)
                gradient = torch.cat([one.grad.flatten() for one in weights if one.grad is not None])
                found.append({**{name: value.detach() for name, value in terms.items()}, "": gradient})
                for group in optimizer.param_groups:
                    group["lr"] = 1e-3  # steps of random weights are chaotic
                optimizer.step()
                method.after_step(images, labels)
        method.end_task(task)
    return found


def write_backbones(folder: Path) -> None:
    """Trained networks for SLCA and EASE: a tiny classifier, a tiny Vision Transformer."""
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(3)
    save_classifier(folder / "own.safetensors", classifier_of(tiny_method("sgd"), list("abcd"), 8))
    save_file(timm.create_model("test_vit", num_classes=7).state_dict(), folder / "vit.safetensors")


def worker(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]
    methods = {one: one.format(folder=folder).split() for one in METHODS}
    if rank == 0:
        torch.save({one: steps_of(*words) for one, words in methods.items()}, folder / "alone.pt")
    dist.init_process_group("gloo", init_method=(folder / "rendezvous").as_uri(), rank=rank, world_size=2)
    torch.save({one: steps_of(*words) for one, words in methods.items()}, folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    write_backbones(tmp_path)
    command = [sys.executable, "-m", "tests.continual.test_shared_rows"]
    root, environment = Path(__file__).parents[2], {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path)], stderr=subprocess.PIPE, cwd=root, env=environment
        )
        for rank in range(2)
    ]
    for process in processes:
        _, messages = process.communicate(timeout=300)
        assert process.returncode == 0, messages.decode()
    alone, first, second = (torch.load(tmp_path / f"{name}.pt") for name in ("alone", "0", "1"))
    for method, steps in alone.items():
        for one, of_first, of_second in zip(steps, first[method], second[method], strict=True):
            assert one.keys() == of_first.keys()
            assert torch.equal(of_first[""], of_second[""])
            for name, value in one.items():
                apart = (of_first[name] - value).norm()
                assert apart <= 1e-6 * value.norm(), (method, name, apart)
    assert (
        all("space" in one for one in alone["ir"][2:]) and "replay" in alone["er frequency.enabled=true"][1]
    )


if __name__ == "__main__":
    worker(int(sys.argv[1]), Path(sys.argv[2]))
