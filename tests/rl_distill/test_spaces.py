"""Observations and actions of every kind: what they are taken for, and that policies learn with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from effcli.core.errors import UsageError
from effcli.core.runtime import Runtime, create_runtime
from effcli.rl_distill import load
from effcli.rl_distill.dqn import DqnGroup
from effcli.rl_distill.environments.actions import actions_of
from effcli.rl_distill.environments.copies import EnvironmentFailure, Environments
from effcli.rl_distill.environments.making import make_environments
from effcli.rl_distill.environments.observations import observed_of
from effcli.rl_distill.environments.pictures import picture_of
from effcli.rl_distill.network.encoders import encoder
from effcli.rl_distill.network.exported import ExportedPolicy
from effcli.rl_distill.network.policies import FORBIDDEN
from effcli.rl_distill.ppo import PpoGroup
from effcli.rl_distill.recipe import DqnSection, OpdDaDqnRecipe, OpdDaRecipe, PpoSection
from effcli.rl_distill.training import TrainedGroup, TrainingRecord
from effcli.rl_distill.weights import policy_files


def of_bytes(*shape: int) -> spaces.Box:
    return spaces.Box(0, 255, shape, np.uint8)


@pytest.fixture
def runtime() -> Runtime:
    return create_runtime(device="cpu", precision="fp32", threads=1)


@pytest.mark.parametrize(
    ("space", "kind", "layout", "scale", "shape"),
    [
        (spaces.Box(-1, 1, (3,)), "numbers", None, 1, (3,)),
        (spaces.Box(-1, 1, ()), "numbers", None, 1, (1,)),
        (spaces.Box(-1, 1, (2, 5)), "numbers", None, 1, (2, 5)),
        (of_bytes(3, 64, 64), "picture", "chw", 255, (3, 64, 64)),
        (of_bytes(64, 48, 3), "picture", "hwc", 255, (64, 48, 3)),
        (of_bytes(3, 32, 32), "picture", "chw", 255, (3, 32, 32)),
        (of_bytes(7, 7, 3), "picture", "hwc", 255, (7, 7, 3)),
        (of_bytes(84, 84), "picture", "hw", 255, (84, 84)),
        (of_bytes(4, 84, 84, 3), "picture", "shwc", 255, (4, 84, 84, 3)),
        (spaces.Box(0, 1, (3, 64, 64)), "picture", "chw", 1, (3, 64, 64)),
        (spaces.Box(0, 255, (3, 64, 64)), "picture", "chw", 255, (3, 64, 64)),
        (spaces.Box(0, 1, (10, 10, 4), np.uint8), "planes", "hwc", 1, (10, 10, 4)),
        (spaces.Discrete(16, start=3), "choices", None, 1, (1,)),
        (spaces.MultiDiscrete([3, 4]), "choices", None, 1, (2,)),
        (spaces.MultiBinary(5), "numbers", None, 1, (5,)),
    ],
)
def test_the_space_says_what_an_observation_is(
    space: Any, kind: str, layout: str | None, scale: float, shape: tuple[int, ...]
) -> None:
    observed = observed_of(space, "x")
    part = observed.parts[0]
    assert (part.kind, part.layout, part.scale, observed.shape) == (kind, layout, scale, shape)
    network, n_features = encoder(observed, "small")
    raw = np.stack([space.sample() for _ in range(3)])
    assert network(torch.from_numpy(observed.pack(raw, 3)).float()).shape == (3, n_features)
    assert sum(p.numel() for p in network.parameters()) < 3_000_000


def test_several_parts_become_one_array_and_back() -> None:
    inner = spaces.Tuple((spaces.Discrete(5, start=-1), spaces.Box(-np.inf, np.inf, (2, 2), np.float32)))
    space = spaces.Dict({"camera": of_bytes(36, 40, 3), "inner": inner, "said": spaces.Text(10)})
    observed = observed_of(space, "x")
    assert observed.left_out == ("said",)
    assert [part.name for part in observed.parts] == ["camera", "inner.0", "inner.1"]
    camera = np.random.default_rng(0).integers(0, 256, (2, 36, 40, 3), dtype=np.uint8)
    numbers = np.array([[[1e-7, 2], [3, 4]], [[5, 6], [7, -8e9]]], np.float32)
    raw = {"camera": camera, "inner": (np.array([-1, 3]), numbers), "said": ("", "a")}
    packed = observed.pack(raw, 2)
    assert packed.dtype == np.float32
    ends = [36 * 40 * 3, 36 * 40 * 3 + 1]
    assert np.array_equal(packed[:, : ends[0]].reshape(camera.shape), camera)
    assert packed[:, ends[0]].tolist() == [-1, 3]
    assert np.array_equal(packed[:, ends[1] :].reshape(numbers.shape), numbers)
    network, n_features = encoder(observed, "small")
    assert network(torch.from_numpy(packed)).shape == (2, n_features)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (of_bytes(64, 64, 64), "which axis is that of the channels"),
        (spaces.Text(5), "observation space Text; supported: Box, Discrete"),
        (spaces.Sequence(spaces.Discrete(3)), "observation space Sequence; supported"),
        (spaces.Dict({"a": spaces.Text(5)}), "no part that can be read"),
        (spaces.Discrete(10**6), "at most 65,536"),
    ],
)
def test_what_cannot_be_read_is_refused(space: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        observed_of(space, "x")


def test_actions_reach_the_environment_as_it_takes_them() -> None:
    several = actions_of(
        spaces.MultiDiscrete(np.array([[2, 3], [4, 5]]), start=np.array([[1, 0], [0, 2]])), "x"
    )
    assert several.of_environment(np.array([[0, 2, 3, 4]])).tolist() == [[[1, 2], [3, 6]]]
    low, high = np.array([-2, 0, -np.inf], np.float32), np.array([2, 1, 5], np.float32)
    clipped = actions_of(spaces.Box(low, high), "x")
    squashed = actions_of(spaces.Box(low, high), "x", "squash")
    taken = clipped.of_environment(np.array([[-3, 0, 9], [0.5, 1, -9]], np.float32))
    assert taken.tolist() == [[-2, 0.5, 5], [1, 1, -9]]
    assert squashed.of_environment(np.array([[0, 99, 0]], np.float32)).tolist() == [[0, 1, 0]]
    finer = spaces.Box(np.array([-0.1, 0.3]), np.array([0.1, 0.7]), dtype=np.float64)
    for extreme in (-9.0, 9.0):
        (one,) = actions_of(finer, "x").of_environment(np.full((1, 2), extreme, np.float32))
        assert finer.contains(one)
    assert actions_of(spaces.MultiBinary(3), "x").choices == (2, 2, 2)
    with pytest.raises(UsageError, match="action space Text"):
        actions_of(spaces.Text(3), "x")


SEEN: dict[str, Any] = {
    "dict": spaces.Dict({"a": spaces.Discrete(3), "b": spaces.Box(-1, 1, (2,))}),
    "tuple": spaces.Tuple((spaces.Discrete(3), spaces.MultiDiscrete([2, 3]))),
    "choice": spaces.Discrete(4),
    "one": spaces.Dict({"a": spaces.Box(-1, 1, (2,))}),
    "masked": spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "action_mask": spaces.MultiBinary(4)}),
}
ACTS: dict[str, Any] = {
    "discrete": spaces.Discrete(4),
    "multi": spaces.MultiDiscrete([2, 3]),
    "box": spaces.Box(-2, 2, (2,)),
}


class Ask(gymnasium.Env[Any, Any]):
    """Games of five steps in any spaces; the reward is 1 where the sum of the action is above 2."""

    def __init__(self, seen: str = "dict", acts: str = "discrete", mask: str = "") -> None:
        self.observation_space, self.action_space = SEEN[seen], ACTS[acts]
        self.mask, self.n = mask, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.n = 0
        return self._seen()

    def _seen(self) -> tuple[Any, dict[str, Any]]:
        seen, allowed = self.observation_space.sample(), np.array([0, 1, 0, 1], np.int8)
        if isinstance(seen, dict) and "action_mask" in seen:
            seen["action_mask"] = allowed
        return seen, {"action_mask": allowed} if self.mask == "info" else {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        assert not self.mask or action in (1, 3), "the mask does not allow it"
        self.n += 1
        seen, info = self._seen()
        return seen, float(np.sum(action) > 2), self.n >= 5, False, info


ASK = "tests.rl_distill.test_spaces:Ask"
CASES = [
    ({"seen": "dict"}, "both"),
    ({"seen": "tuple", "acts": "multi"}, "ppo"),
    ({"seen": "choice", "acts": "box"}, "ppo"),
    ({"seen": "dict", "mask": "info"}, "both"),
    ({"seen": "masked", "mask": "dict"}, "both"),
    ({"seen": "choice"}, "both"),
    ({"seen": "one"}, "both"),
]


@pytest.mark.parametrize(("kwargs", "kinds"), CASES, ids=[str(case[0]) for case in CASES])
def test_groups_learn_and_their_files_decide_the_same(
    kwargs: dict[str, str], kinds: str, runtime: Runtime, tmp_path: Path
) -> None:
    from effcli.rl_distill.pipeline import save_policies

    env = {"id": ASK, "kwargs": kwargs, "copies": 2}
    ppo = OpdDaRecipe(
        env=env, train={"env_steps": 64}, policies=("small",) * 3, ppo=PpoSection(rollout=16, minibatches=2)
    )
    learns = DqnSection(replay=100, batch_size=8, learning_starts=20)
    dqn = OpdDaDqnRecipe(env=env, train={"env_steps": 120}, policies=("small",) * 2, dqn=learns)
    groups: list[Any] = [(PpoGroup(ppo, runtime), ppo)]
    groups += [(DqnGroup(dqn, runtime), dqn)] if kinds == "both" else []
    (tmp_path / "model").mkdir()
    for group, recipe in groups:
        for update in range(group.n_updates):
            values = group.update(update)
        assert np.isfinite(list(values.values())).all()
        assert values["decision"] > 0
        run: Any = type("Run", (), {"file": lambda self, name: tmp_path / name})()
        save_policies(TrainedGroup(group, TrainingRecord()), recipe, 0, run)
        policy, envs = load(tmp_path / "model/policy-2.safetensors"), group.policies[1].env
        assert policy.about.env_kwargs == kwargs
        raw, info = envs._env.reset(seed=5)
        masks = info.get("action_mask")
        actions = policy.predict(raw, masks)
        envs._env.step(actions)
        one = next(iter(gymnasium.vector.utils.iterate(envs._env.observation_space, raw)))
        alone = policy.predict(one, None if masks is None else masks[0])
        np.testing.assert_allclose(alone, actions[0], rtol=1e-5, atol=1e-6)


def test_policies_of_a_run_are_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    for number in (1, 2, 9, 10, 11):
        (tmp_path / f"model/policy-{number}.safetensors").touch()
    assert [file.stem for file in policy_files(str(tmp_path))] == [f"policy-{n}" for n in (1, 2, 9, 10, 11)]


def test_an_exported_policy_says_which_number_its_first_action_has() -> None:
    seen = observed_of(SEEN["choice"], "x")
    for space, ending in (
        (spaces.Discrete(3), "has the highest"),
        (spaces.Discrete(3, start=5), "has the highest; their numbers begin at 5"),
        (spaces.MultiDiscrete([2, 3], start=[0, 7]), "has the highest; their numbers begin at 0, 7"),
    ):
        notes = ExportedPolicy(torch.nn.Identity(), seen, actions_of(space, "x")).notes()
        assert notes["decisions"].endswith(ending)


def test_probabilities_of_forbidden_actions_are_zero(runtime: Runtime) -> None:
    recipe = OpdDaRecipe(env={"id": ASK, "copies": 2, "kwargs": {"mask": "info"}}, policies=("small",))
    group = PpoGroup(recipe, runtime)
    rollout = group.collect(group.stacks[0])
    assert float(rollout.decisions.softmax(-1)[..., [0, 2]].max()) == 0
    assert set(rollout.actions.unique().tolist()) == {1, 3}
    assert float(rollout.decisions[..., 0].max()) == FORBIDDEN


@pytest.mark.parametrize("name", ["FrozenLake-v1", "Taxi-v4", "Blackjack-v1", "Pendulum-v1"])
def test_known_environments_open(name: str) -> None:
    envs = make_environments(name, 2)
    seen = envs.reset(0)
    assert seen.shape == (2, *envs.shape)
    n = envs.actions.n_numbers
    step = envs.step(np.zeros((2, n)) if envs.actions.kind == "numbers" else np.zeros(2, int))
    assert step.observations.shape == seen.shape
    assert (envs.observed.mask is not None) == (name == "Taxi-v4")


def test_arguments_and_packages_of_environments() -> None:
    lake = make_environments("FrozenLake-v1", 1, kwargs={"map_name": "8x8"})
    assert lake.observed.parts[0].choices == (64,)
    with pytest.raises(UsageError, match="cannot be made: TypeError"):
        make_environments("CartPole-v1", 1, kwargs={"nonsense": 1})
    assert make_environments("gymnasium.envs:CartPole-v1", 1).shape == (4,)
    with pytest.raises(UsageError, match="cannot be imported"):
        make_environments("no_such_package:CartPole-v1", 1)
    with pytest.raises(UsageError) as caught:
        make_environments("PongNoFrameskip-v4", 1)
    assert caught.value.hint == "ALE/Pong-v5 is this game with the usual preprocessing"


class Blocks:
    """What pictures are made of: observations, or what it draws."""

    def __init__(self, space: spaces.Box, *, stacked: bool = False, drawn: Any = None) -> None:
        self.observed, self._drawn = observed_of(space, "x", stacked=stacked), np.asarray(drawn)

    def rendered(self) -> np.ndarray:
        return self._drawn


@pytest.mark.parametrize(
    ("space", "value", "expected"),
    [
        (of_bytes(3, 40, 50), 200, 200),
        (of_bytes(40, 50, 3), 200, 200),
        (of_bytes(40, 50, 1), 7, 7),
        (of_bytes(40, 50), 7, 7),
        (spaces.Box(0, 1, (3, 40, 50)), 0.2, 51),
        (spaces.Box(0, 255, (40, 50, 3)), 0.9, 1),
        (of_bytes(4, 40, 50), 9, 9),
    ],
)
def test_frames_of_every_format_are_shown_as_they_are(space: spaces.Box, value: float, expected: int) -> None:
    env: Any = Blocks(space)
    picture = picture_of(env, np.full((1, *space.shape), value, space.dtype))
    assert picture.shape == (40, 50, 3)
    assert picture.dtype == np.uint8
    assert np.unique(picture).tolist() == [expected]


def test_of_three_frames_over_time_the_newest_is_shown() -> None:
    seen = np.stack([np.full((40, 50), value, np.uint8) for value in (1, 2, 3)])[None]
    over_time: Any = Blocks(of_bytes(3, 40, 50), stacked=True)
    assert np.unique(picture_of(over_time, seen)).tolist() == [3]
    colours: Any = Blocks(of_bytes(3, 40, 50))
    assert picture_of(colours, seen)[0, 0].tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("drawn", "expected"),
    [
        (np.full((40, 50, 3), 7, np.uint8), 7),
        (np.full((40, 50, 4), 7, np.uint8), 7),
        (np.full((3, 40, 50), 7, np.uint8), 7),
        (np.full((40, 50), 7, np.int64), 7),
        (np.full((1, 40, 50), 0.2, np.float32), 51),
        (np.full((40, 50, 3), 9.0), 9),
        (np.ones((40, 50), bool), 255),
    ],
)
def test_what_an_environment_draws_is_shown_as_it_is(drawn: np.ndarray, expected: int) -> None:
    env: Any = Blocks(spaces.Box(-1, 1, (4,)), drawn=drawn)
    picture = picture_of(env, np.zeros((1, 4), np.float32))
    assert (picture.shape, picture.dtype) == ((40, 50, 3), np.uint8)
    assert np.unique(picture).tolist() == [expected]


@pytest.mark.parametrize(
    ("drawn", "message"), [(None, "it renders nothing"), (np.zeros((2, 40, 50)), "not a picture")]
)
def test_what_is_no_picture_is_refused(drawn: Any, message: str) -> None:
    env: Any = Blocks(spaces.Box(-1, 1, (4,)), drawn=drawn)
    with pytest.raises(ValueError, match=message):
        picture_of(env, np.zeros((1, 4), np.float32))


class Columns(gymnasium.vector.VectorEnv[Any, Any, Any]):
    """A vector environment whose rewards have an axis too many."""

    num_envs = 2
    single_observation_space = observation_space = SEEN["choice"]
    single_action_space = action_space = ACTS["discrete"]

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        return np.zeros(2, int), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        return np.zeros(2, int), np.zeros((2, 1)), np.zeros(2, bool), np.zeros(2, bool), {}


def test_a_reward_is_one_number() -> None:
    envs = Environments(Columns(), "columns")
    envs.reset(0)
    with pytest.raises(EnvironmentFailure, match=r"reward of shape \[1\]; it is one number of each copy"):
        envs.step(np.zeros(2, int))
