"""CartPole with distractors: levels, and what a policy is tested on."""

from __future__ import annotations

from pathlib import Path

import gymnasium
import numpy as np
import pytest

from effcli.core.errors import UsageError
from effcli.core.run import open_run
from effcli.core.runtime import create_runtime
from effcli.rl_distill.environments.distractors import ID, DistractorLevels
from effcli.rl_distill.environments.making import environments_of, make_environments
from effcli.rl_distill.pipeline import plan_run, run
from effcli.rl_distill.recipe import PpoRecipe


def test_a_level_shows_the_state_and_its_own_distractors() -> None:
    states = np.random.default_rng(0).normal(size=(5, 4))
    levels = DistractorLevels(2, 7, 8)
    numbers = np.array([0, 1, 0, 1, 0])
    shown = levels.shown(states, numbers)
    np.testing.assert_allclose(shown[:, :4], states, rtol=1e-6)
    np.testing.assert_array_equal(shown[0, 4:], shown[2, 4:])
    assert np.abs(shown[:, 4:]).max() <= 1
    same = DistractorLevels(1, 8, 8).shown(states, np.zeros(5, int))
    np.testing.assert_array_equal(same[1], shown[1])  # level 8, wherever a range begins
    assert not np.allclose(same[0], shown[0])
    assert DistractorLevels(1, 0, 0).shown(states, np.zeros(5, int)).shape == (5, 4)
    with pytest.raises(UsageError, match="cannot be made: ValueError: levels must be 1 or more"):
        make_environments(ID, 1, kwargs={"levels": 0})


def test_one_copy_and_many_show_the_same_kind_of_thing() -> None:
    env = make_environments(ID, 3, kwargs={"levels": 5, "distractors": 6})
    assert env.shape == (10,)
    shown, seen = env.reset(1), []
    levels = DistractorLevels(5, 0, 6)
    for _ in range(200):
        for row in shown:
            fits = [
                np.allclose(levels.shown(row[None, :4], np.array([i]))[0], row, atol=1e-5) for i in range(5)
            ]
            assert any(fits)
            seen.append(fits.index(True))
        shown = env.step(np.ones(3, np.int64)).shown
    assert len(set(seen)) > 2
    one = gymnasium.make(ID, levels=1, first_level=3, distractors=6)
    state, _ = one.reset(seed=1)
    np.testing.assert_allclose(
        DistractorLevels(1, 3, 6).shown(state[None, :4], np.array([0]))[0], state, atol=1e-6
    )
    assert one.step(1)[0].shape == (10,)


def test_a_training_of_levels_resumes_in_the_middle_of_its_episodes() -> None:
    env, other = (make_environments(ID, 2, kwargs={"levels": 4}) for _ in range(2))
    env.reset(3)
    for _ in range(15):
        env.step(np.ones(2, np.int64))
    state = env.state_dict()
    other.reset(5)
    assert state is not None
    assert other.load_state_dict(state)
    for _ in range(30):
        one, two = env.step(np.ones(2, np.int64)), other.step(np.ones(2, np.int64))
        np.testing.assert_array_equal(one.shown, two.shown)


def test_evaluations_have_arguments_of_their_own(tmp_path: Path) -> None:
    recipe = PpoRecipe.model_validate(
        {
            "env": {"id": ID, "copies": 2, "kwargs": {"distractors": 4}},
            "eval": {"kwargs": {"first_level": 1000, "levels": 1}, "episodes": 2},
            "train": {"env_steps": 64},
            "policies": ["small"],
            "ppo": {"rollout": 16, "epochs": 1},
        }
    )
    levels = DistractorLevels(1, 1000, 4)
    shown = environments_of(recipe, 2).reset(0)
    np.testing.assert_allclose(levels.shown(shown[:, :4], np.zeros(2, int)), shown, atol=1e-6)
    shown = environments_of(recipe).reset(0)
    assert not np.allclose(levels.shown(shown[:, :4], np.zeros(2, int)), shown)
    runtime = create_runtime(device="cpu", precision="fp32", threads=1)
    with open_run(tmp_path / "run", recipe, runtime, verb="run", recipe_name="x") as one:
        metrics = run(recipe, plan_run(recipe).inputs, one).metrics
    wrong = recipe.model_copy(update={"eval": recipe.eval.model_copy(update={"kwargs": {"distractors": 5}})})
    with pytest.raises(UsageError, match=r"eval\.kwargs: observations \[9\], in training \[8\]"):
        plan_run(wrong)
    assert metrics["play"]["mean_return"] == pytest.approx(np.mean(metrics["play"]["mean_returns"]))
