"""Normalisation of observations and rewards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from effcli.core.runtime import create_runtime
from effcli.rl_distill import load
from effcli.rl_distill.dqn import DqnGroup
from effcli.rl_distill.environments.copies import Step
from effcli.rl_distill.environments.reward_scale import RewardScale
from effcli.rl_distill.network.encoders import Normaliser
from effcli.rl_distill.pipeline import export, save_policies
from effcli.rl_distill.ppo import PpoGroup
from effcli.rl_distill.recipe import DqnSection, OpdDaDqnRecipe, OpdDaRecipe, PpoSection
from effcli.rl_distill.training import TrainedGroup, TrainingRecord
from tests.rl_distill.small_envs import CORRIDOR

ENV = {"id": CORRIDOR, "copies": 2, "normalise_observations": True, "normalise_rewards": True}


def group(kind: str, together: bool = True) -> tuple[Any, Any]:
    runtime = create_runtime(device="cpu", precision="fp32", threads=1)
    if kind == "ppo":
        ppo = PpoSection(rollout=16, minibatches=2)
        recipe: Any = OpdDaRecipe(env=ENV, train={"env_steps": 64}, policies=("small",) * 2, ppo=ppo)
        return PpoGroup(recipe, runtime, together=together), recipe
    dqn = DqnSection(replay=100, batch_size=8, learning_starts=20)
    recipe = OpdDaDqnRecipe(env=ENV, train={"env_steps": 120}, policies=("small",) * 2, dqn=dqn)
    return DqnGroup(recipe, runtime, together=together), recipe


def test_statistics_are_those_of_all_that_was_seen() -> None:
    one, x = Normaliser(3), torch.randn(500, 3) * torch.tensor([1.0, 5.0, 0.1]) + 2
    for part in x.split([1, 200, 299]):
        one.add(part)
    both = torch.cat([x, torch.tensor([[1.0], [-1.0]]).expand(2, 3)])  # one of mean 0 and variance 1, nearly
    torch.testing.assert_close(one.mean, both.mean(0), rtol=0.01, atol=0.01)
    torch.testing.assert_close(one.variance, both.var(0, unbiased=False), rtol=0.05, atol=0.02)
    out = one(x)
    torch.testing.assert_close(out.mean(0), torch.zeros(3), rtol=0, atol=0.2)


def test_rewards_are_scaled_by_the_spread_of_returns() -> None:
    scale, draws, returns = RewardScale(4, 0.9), np.random.default_rng(0), np.zeros(4)
    everything = []
    for _ in range(2000):
        rewards, done = draws.normal(3, 7, 4).astype(np.float32), draws.random(4) < 0.1
        step = Step(np.zeros((4, 1)), rewards, done, np.zeros(4, bool), np.ones(4, bool))
        found = scale.scaled(rewards, step)
        returns = returns * 0.9 + rewards
        everything += returns.tolist()
        returns[done] = 0
    assert scale.variance == pytest.approx(np.var(everything), rel=1e-3)
    assert found == pytest.approx(rewards / np.std(everything), rel=1e-3)


@pytest.mark.parametrize("kind", ["ppo", "dqn"])
def test_it_is_kept_with_the_policy_and_resumed(kind: str, tmp_path: Path) -> None:
    (one, recipe), (other, _), (alone, _) = group(kind), group(kind), group(kind, together=False)
    for update in range(one.n_updates):
        one.update(update)
        alone.update(update)
    statistics = [dict(policy.network.named_buffers()) for policy in one.policies]
    assert float(statistics[0]["encoder.0.count"]) > 50
    assert not torch.equal(statistics[0]["encoder.0.mean"], statistics[1]["encoder.0.mean"])
    seen = torch.randn(5, 4)
    for a, b in zip(one.policies, alone.policies, strict=True):
        torch.testing.assert_close(a.network(seen)[1], b.network(seen)[1], rtol=1e-3, atol=1e-4)
    other.load_state_dict(one.state_dict())
    for a, b in zip(one.policies, other.policies, strict=True):
        assert torch.equal(a.network(seen)[1], b.network(seen)[1])
        assert a.scale.state_dict() == b.scale.state_dict()
    (tmp_path / "model").mkdir()
    run: Any = type("Run", (), {"file": lambda self, name: tmp_path / name})()
    save_policies(TrainedGroup(one, TrainingRecord()), recipe, 0, run)
    policy = load(tmp_path / "model/policy-1.safetensors")
    assert torch.equal(policy(seen), one.policies[0].network(seen)[1])
    if kind == "ppo":
        import onnxruntime

        export(policy, tmp_path / "p.onnx")
        session = onnxruntime.InferenceSession(tmp_path / "p.onnx")
        (found,) = session.run(None, {"observations": seen.numpy()})
        np.testing.assert_allclose(found, policy(seen).detach().numpy(), atol=1e-5)
