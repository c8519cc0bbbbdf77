"""What happens at the end of an episode: copies that reset themselves or not, games that never end, first frames."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from effcli.core.errors import UsageError
from effcli.core.runtime import create_runtime
from effcli.rl_distill import evaluation
from effcli.rl_distill.environments.copies import Environments, Step
from effcli.rl_distill.environments.making import make_environments
from effcli.rl_distill.evaluation import play
from effcli.rl_distill.ppo import PpoGroup
from effcli.rl_distill.recipe import OpdDaRecipe, PpoSection
from effcli.rl_distill.replay import Replay
from effcli.rl_distill.returns import Returns
from tests.rl_distill.small_envs import Corridor, Frames

CPU = torch.device("cpu")
MODES = list(AutoresetMode)


def corridors(mode: AutoresetMode, n: int = 2) -> Environments:
    """Copies of lengths 3, 4, ..., cut off after six steps."""
    makes = [partial(Corridor, 5, 6) for _ in range(n)]
    return Environments(SyncVectorEnv(makes, autoreset_mode=mode), "corridors")


def same_step_corridors(num_envs: int) -> SyncVectorEnv:
    return SyncVectorEnv([lambda: Corridor(5, 6)] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP)


def three_corridors() -> SyncVectorEnv:
    return SyncVectorEnv([Corridor] * 3)


def walk(envs: Environments, n: int, replay: Replay | None = None) -> list[tuple[Any, ...]]:
    """Valid transitions of random walks, by copy: what was shown, action, reward, what followed, terminated, done."""
    draws = [np.random.default_rng(copy) for copy in range(len(envs))]
    shown, found = envs.reset(0), []
    if replay is not None:
        replay.begin(shown)
    returns = Returns(len(envs))
    waiting: list[int | None] = [None] * len(envs)
    for _ in range(n):
        actions = np.array([draws[i].integers(0, 2) if one is None else one for i, one in enumerate(waiting)])
        step: Step = envs.step(actions)
        returns.add(step)
        if replay is not None:
            replay.add(actions, step.rewards, step)
        for copy in range(len(envs)):
            waiting[copy] = (
                None if step.valid[copy] else int(actions[copy])
            )  # an ignored action is taken again
            if step.valid[copy]:
                row = (shown[copy].tobytes(), actions[copy], float(step.rewards[copy]))
                ended = (bool(step.terminated[copy]), bool(step.done[copy]))
                found.append((copy, *row, step.observations[copy].tobytes(), *ended))
        shown = step.shown
    assert len(returns.values) == sum(row[-1] for row in found)
    return found


def test_all_modes_of_reset_give_the_same_transitions() -> None:
    by_mode = [walk(corridors(mode, 1), 60) for mode in MODES]
    shortest = min(map(len, by_mode))
    assert shortest > 40
    assert by_mode[0][:shortest] == by_mode[1][:shortest] == by_mode[2][:shortest]
    assert any(row[-1] and not row[-2] for row in by_mode[0])  # some were cut off


@pytest.mark.parametrize("mode", MODES)
def test_the_memory_gives_back_what_was_seen_in_every_mode(mode: AutoresetMode) -> None:
    envs = corridors(mode)
    replay = Replay(50, 2, envs.shape, envs.dtype)
    happened = {row[1:-1] for row in walk(envs, 80, replay)}
    batch = replay.read(*replay.places(500, torch.Generator().manual_seed(0)), CPU)
    for x, action, reward, following, terminated in zip(*batch, strict=True):
        row = (x.numpy().tobytes(), int(action), float(reward), following.numpy().tobytes(), bool(terminated))
        assert row in happened


def test_the_value_of_a_state_that_was_cut_off_counts_in_every_mode() -> None:
    """Where episodes are only cut off, the advantages of all modes agree."""
    found = []
    for mode in MODES:
        runtime = create_runtime(device="cpu", precision="fp32", threads=1)
        group = PpoGroup(
            OpdDaRecipe(env={"copies": 1}, policies=("small",), ppo=PpoSection(rollout=14)), runtime
        )
        policy = group.policies[0]
        makes = [lambda: Corridor(9, 6)]
        policy.env = Environments(SyncVectorEnv(makes, autoreset_mode=mode), "corridors")
        from effcli.rl_distill.network.policies import ActorCritic
        from effcli.rl_distill.network.stack import stacks_of

        torch.manual_seed(0)
        policy.network = ActorCritic(policy.env.observed, policy.env.actions, "small")
        with torch.no_grad():
            assert policy.network.actor.bias is not None
            policy.network.actor.bias[1] = 99  # always to the right
        policy.observations = policy.env.reset(0)
        (stack,) = stacks_of([policy.network], runtime)
        rollout = group.collect(stack)
        found.append(rollout.advantages[0, rollout.valid[0] > 0][:6])
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0], found[2])


def test_functions_may_make_vector_environments() -> None:
    here = "tests.rl_distill.test_resets"
    envs = make_environments(f"{here}:same_step_corridors", 4)
    assert len(envs) == 4
    envs.reset(0)
    steps = [envs.step(np.ones(4, int)) for _ in range(4)]
    assert steps[-1].terminated.all()
    assert steps[-1].observations.argmax(1).tolist() == [4] * 4
    assert steps[-1].shown.argmax(1).tolist() == [0] * 4
    with pytest.raises(UsageError, match="makes 3 copies, not 4") as caught:
        make_environments(f"{here}:three_corridors", 4)
    assert "env.copies=3" in str(caught.value.hint)
    assert len(make_environments(f"{here}:three_corridors", 4, exactly=False)) == 3


class Moving(Frames):
    """Stacks whose first frames are those of the game so far, not four times the first."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.count += 4
        self.frames = [(self.count + i) % 256 for i in range(4)]
        return self._seen(), {}


def all_that_was_seen(envs: Environments, replay: Replay, n: int) -> set[bytes]:
    draws, shown = np.random.default_rng(0), envs.reset(0)
    replay.begin(shown)
    seen = {one.tobytes() for one in shown}
    for _ in range(n):
        actions = draws.integers(0, envs.n_actions, len(envs))
        step = envs.step(actions)
        replay.add(actions, step.rewards, step)
        seen |= {one.tobytes() for one in step.observations}
    return seen


def check_memory(envs: Environments, replay: Replay, n: int, n_drawn: int) -> None:
    seen = all_that_was_seen(envs, replay, n)
    x, _, _, following, _ = replay.read(*replay.places(n_drawn, torch.Generator().manual_seed(0)), CPU)
    assert all(one.numpy().tobytes() in seen for one in (*x, *following))


def test_stacks_are_stored_as_they_were_seen() -> None:
    envs = Environments(SyncVectorEnv([Moving] * 2), "moving", stacked=True)
    assert envs.observed.stacked
    replay = Replay(60, 2, envs.shape, envs.dtype, stacked=True)
    check_memory(envs, replay, 75, 400)
    again = Replay(60, 2, envs.shape, envs.dtype, stacked=True)
    again.load_state_dict(replay.state_dict())
    first, second = (
        one.read(*one.places(50, torch.Generator().manual_seed(1)), CPU) for one in (replay, again)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    old = {name: value for name, value in replay.state_dict().items() if name not in ("whole", "last")}
    again.load_state_dict(old)  # of version 0.1


@pytest.mark.parametrize("name", ["rgb", "ale"])
def test_nothing_is_taken_for_a_stack_that_is_none(name: str) -> None:
    if name == "rgb":
        space = gymnasium.spaces.Box(0, 255, (3, 64, 64), np.uint8)
        envs = Environments(SyncVectorEnv([partial(Noise, space)] * 2), "noise")
        assert not envs.observed.stacked
    else:
        envs = make_environments("ALE/Breakout-v5", 2)
        assert envs.observed.stacked
    replay = Replay(100, 2, envs.shape, envs.dtype, stacked=envs.observed.stacked)
    check_memory(envs, replay, 120, 200)


class Noise(gymnasium.Env[Any, int]):
    """Random observations; no game ends."""

    def __init__(self, space: Any) -> None:
        self.observation_space, self.action_space = space, gymnasium.spaces.Discrete(2)  # type: ignore[assignment]

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observation_space.sample(), 0.5, False, False, {}


class Half(Corridor):
    """Half of the games never end, by their seeds; a step gives 1."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        self.ends = bool((seed or 0) % 2)
        return super().reset(seed=seed)

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.n += 1
        return self._seen(), 1.0, self.ends and self.n >= 3, False, {}


def test_games_that_never_end_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "MOST_STEPS", 50)

    def make(copies: int) -> Environments:
        return Environments(SyncVectorEnv([Half] * copies), "half")

    runtime = create_runtime(device="cpu", precision="fp32", threads=1)
    games = play(lambda x: torch.zeros(len(x), 2), make, 8, runtime, "policy")
    assert sorted(games.returns) == [3.0] * 4 + [50.0] * 4
    assert (games.n_cut_off, games.mean) == (4, 26.5)

    def endless(copies: int) -> Environments:
        return Environments(SyncVectorEnv([partial(Noise, Corridor().observation_space)] * copies), "noise")

    games = play(lambda x: torch.zeros(len(x), 2), endless, 20, runtime, "policy")
    assert (games.returns, games.n_cut_off) == ([25.0] * 20, 20)


def test_returns_of_games_in_progress_count_where_they_may_never_end() -> None:
    envs = Environments(SyncVectorEnv([Half] * 2), "half")
    returns = Returns(2)
    envs.reset(0)
    for _ in range(200):
        returns.add(envs.step(np.zeros(2, int)))
    assert returns.recent(100) == 3.0
    assert returns.n_unfinished > 0
    assert (returns.recent_or_so_far(100) or 0) > 3.0


def test_a_task_that_never_ends_gives_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from effcli.core.run import open_run
    from effcli.rl_distill import pipeline

    monkeypatch.setattr(evaluation, "MOST_STEPS", 40)
    recipe = OpdDaRecipe(
        env={"id": "tests.rl_distill.test_resets:endless", "copies": 2},
        train={"env_steps": 64},
        policies=("small",) * 2,
        ppo=PpoSection(rollout=16),
        eval={"episodes": 2},
    )
    runtime = create_runtime(device="cpu", precision="fp32", threads=1)
    with open_run(tmp_path / "run", recipe, runtime, verb="run", recipe_name="x", show_progress=False) as run:
        metrics = pipeline.run(recipe, pipeline.plan_run(recipe).inputs, run).metrics
    assert (metrics["mean_return"], metrics["unfinished_games"]) == (16.0, [2, 2])
    assert metrics["play"]["cut_off_games"] == [2, 2]
    assert metrics["play"]["mean_returns"] == [20.0, 20.0]


def endless() -> Noise:
    return Noise(Corridor().observation_space)
