"""What two processes do together; started by torchrun, writes rank<n>.json into the folder that is its argument."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from toy_task import ToyRecipe, ToyTrain, run_toy

from effcli.core.errors import EffcliError, RunError
from effcli.core.run import open_run
from effcli.core.runtime import Runtime, create_runtime

folder = Path(sys.argv[1])
written: list[str] = []


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    """Note every path in the folder that this process opens to write, renames, makes or removes."""
    writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
    if writes or event in {"os.rename", "os.mkdir", "os.remove"}:
        written.extend(str(one) for one in arguments[:2] if str(one).startswith(str(folder)))


def batch(index: int) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(index))
    return x, x.sum(1, keepdim=True).sin()


def toy_network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 1))


def fit(runtime: Runtime) -> list[float]:
    """Each rank takes its share of the batch; together they must do what one process does."""
    network = toy_network()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    parallel = runtime.wrap(network)
    for index in range(5):
        x, y = (part[runtime.rank :: runtime.world] for part in batch(index))
        loss = (parallel(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [value for parameter in network.parameters() for value in parameter.flatten().tolist()]


def fails() -> None:
    raise RunError("the disk is full", place="somewhere", hint="free some space")


def outcome_of(function: Any, *arguments: Any, **options: Any) -> list[str | None]:
    try:
        function(*arguments, **options)
    except EffcliError as error:
        return [type(error).__name__, str(error), error.hint]
    return ["no error", None, None]


def main() -> None:
    runtime = create_runtime(device="cpu", precision="fp32", seed=3, threads=1)
    sys.addaudithook(watch)

    def stop_one(stage: str, step: int) -> None:
        if stage == "train" and step == 7 and runtime.rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    report = {
        "world": runtime.world,
        "threads": torch.get_num_threads(),
        "any": [runtime.any_rank(runtime.rank == 1), runtime.any_rank(False)],
        "mean": runtime.mean_over_ranks({"a": runtime.rank, "b": 2.0}),
        "from_main": runtime.from_main({"rank": runtime.rank}),
        "on_main": runtime.on_main(lambda: f"made by {runtime.rank}"),
        "on_main_error": outcome_of(runtime.on_main, fails),
        "seeds": [runtime.generator("x").initial_seed(), runtime.rank],
        "parameters": fit(runtime),
        "interrupted": outcome_of(run_toy, folder / "toy", stop_one),
        "wrong_directory": outcome_of(
            open_run,
            folder / "toy",
            ToyRecipe(train=ToyTrain(steps=5)),
            runtime,
            verb="run",
            recipe_name="toy",
        ),
        "resumed": outcome_of(run_toy, folder / "toy", resume=True),
    }
    report["written"] = list(written)
    (folder / f"rank{runtime.rank}.json").write_text(json.dumps(report), encoding="utf-8")


if __name__ == "__main__":
    main()
