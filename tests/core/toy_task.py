"""A tiny task with everything that resuming must get right; also started in processes of its own."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn

from effcli.core.evidence.result import Result
from effcli.core.recipe import Recipe, Section
from effcli.core.resuming.checkpoint import CheckpointStore, SaveEvery
from effcli.core.run import Run, open_run
from effcli.core.runtime import create_runtime
from effcli.nn.ema import Ema

FIRST, SECOND = 24, 12
Hook = Callable[[str, int], None]


class ToyTrain(Section):
    steps: int = Field(FIRST, ge=1, description="Steps of the first loop.")
    learning_rate: float = Field(1e-2, gt=0, description="Adam's learning rate.")
    note: str | None = Field(None, description="Any text.")


class ToyRecipe(Recipe):
    task: Literal["toy"] = Field("toy", description="The command this recipe is for.")
    method: Literal["sgd"] = Field("sgd", description="The method.")
    train: ToyTrain = Field(ToyTrain(), description="The optimisation.")


def train(recipe: ToyRecipe, run: Run, hook: Hook = lambda stage, step: None) -> Result:
    network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 1))
    kept: Any = run.stage("prepare", lambda: {"scale": torch.rand(4), "names": ("a", "b"), "n": 3})
    scale = kept["scale"]
    fit("train", network, recipe.train.steps, recipe, run, scale, hook)
    run.log("between", 0, weight=network[0].weight.sum())
    head = nn.Linear(4, 1)  # initialised from the global generator, between two loops
    fit("tune", nn.Sequential(network, nn.Linear(1, 4), head), SECOND, recipe, run, scale, hook)
    if run.runtime.is_main:
        torch.save(
            [value for net in (network, head) for value in net.state_dict().values()], run.path / "weights.pt"
        )
    return run.finish({"weight": network[0].weight.detach().sum(), "head": head.weight.detach().sum()})


def fit(
    stage: str, network: nn.Module, steps: int, recipe: ToyRecipe, run: Run, scale: torch.Tensor, hook: Hook
) -> None:
    optimizer = torch.optim.Adam(network.parameters(), lr=recipe.train.learning_rate)
    ema = Ema(network, 0.9)
    parallel = run.runtime.wrap(network)
    for step in run.steps(stage, steps, {"network": network, "optimizer": optimizer, "ema": ema}):
        noise = random.random() + float(np.random.rand())  # libraries draw from these generators too
        x = torch.randn(8, 4) * scale + noise
        loss = (parallel(x) - x.sum(1, keepdim=True)).square().mean()
        run.log(stage, step, every=2, loss=loss.detach())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ema.update(network)
        if step % 5 == 4:
            run.log("inside", step, weight=float(next(network.parameters()).detach().sum()))
        hook(stage, step)
    ema.copy_to(network)


def run_toy(
    path: Path, hook: Hook = lambda stage, step: None, *, resume: bool = False, **settings: Any
) -> Path:
    """Open the run in ``path`` and work on it, as `effcli` does."""
    recipe = ToyRecipe(train=ToyTrain(**settings))
    runtime = create_runtime(device="cpu", precision="fp32", seed=recipe.seed)
    run = open_run(
        path, recipe, runtime, verb="run", recipe_name="toy", resume=resume, save_every=SaveEvery(None, 3)
    )
    with run:
        if not run.is_finished:
            train(recipe, run, hook)
    return path


def run_slowly(path: str) -> None:
    """The run in a process that is going to be killed."""
    torch.set_num_threads(1)
    run_toy(Path(path), lambda stage, step: time.sleep(0.01), resume=True)


def save_and_die(folder: str, n_renames: int) -> None:
    """Save a checkpoint, and die in the middle: before the rename number ``n_renames``."""
    replace, calls = Path.replace, iter(range(1000))

    def dying(self: Path, target: Any) -> Path:
        if next(calls) == n_renames:
            os._exit(9)
        return replace(self, target)

    Path.replace = dying  # type: ignore[method-assign,assignment]
    store = CheckpointStore(Path(folder), "recipe")
    store.load("train")
    store.save("train", {"step": 3})
