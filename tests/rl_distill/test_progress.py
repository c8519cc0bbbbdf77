"""Evaluations during the training, TensorBoard, and the schedule of the weights of distillation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from effcli.core.run import open_run
from effcli.core.runtime import create_runtime
from effcli.rl_distill import load, pipeline
from effcli.rl_distill.opd_da import ramp_up, weight_at
from effcli.rl_distill.recipe import OpdDaRecipe, OpdSection, PpoSection
from tests.rl_distill.small_envs import CORRIDOR


def test_the_best_weights_are_kept_and_everything_is_on_the_board(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe = OpdDaRecipe(
        env={"id": CORRIDOR, "copies": 2},
        train={"env_steps": 160, "tensorboard": True},
        policies=("small",) * 2,
        ppo=PpoSection(rollout=16, minibatches=1, learning_rate=0.01),
        eval={"episodes": 3, "every": 64, "every_episodes": 2},
    )
    runtime = create_runtime(device="cpu", precision="fp32", threads=1)
    with open_run(tmp_path / "run", recipe, runtime, verb="run", recipe_name="x", show_progress=False) as run:
        metrics = pipeline.run(recipe, pipeline.plan_run(recipe).inputs, run).metrics
    found = metrics["evaluations"]
    assert len(found) == 3  # after 64, 128 and at the end
    returns = [one["returns"] for one in found]
    assert metrics["best_evaluations"] == [max(one) for one in zip(*returns, strict=True)]
    best = load(tmp_path / "run/model/best/policy-1.safetensors")
    assert best.about.mean_return == metrics["best_evaluations"][0]
    last = load(tmp_path / "run", 1)
    if returns[-1][0] < max(one[0] for one in returns):
        assert not torch.equal(best.network.actor.weight, last.network.actor.weight)  # type: ignore[arg-type]
    board = EventAccumulator(str(tmp_path / "run/tensorboard"))
    board.Reload()
    names = board.Tags()["scalars"]
    assert {"group/policy", "group/return_1", "group/evaluation_2"} <= set(names)
    assert [round(one.value, 4) for one in board.Scalars("group/evaluation_2")] == [
        pytest.approx(one[1], abs=1e-3) for one in returns
    ]


def test_weights_rise_and_fall_by_the_schedule() -> None:
    constant, linear, cosine = (
        OpdSection(ramp=0.2, schedule=one) for one in ("constant", "linear", "cosine")
    )
    assert weight_at(90, 100, constant) == ramp_up(90, 100, 0.2) == 1
    for one in (linear, cosine):
        assert weight_at(10, 100, one) == ramp_up(10, 100, 0.2) < 1
        assert weight_at(20, 100, one) == 1
        assert weight_at(60, 100, one) == pytest.approx(0.5)
        assert weight_at(100, 100, one) == pytest.approx(0)
    assert weight_at(80, 100, linear) == pytest.approx(0.25)
    assert weight_at(40, 100, cosine) == pytest.approx((1 + 2**-0.5) / 2)
    assert weight_at(50, 100, OpdSection(ramp=1, schedule="linear")) == ramp_up(50, 100, 1)
