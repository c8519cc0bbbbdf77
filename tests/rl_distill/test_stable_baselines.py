"""Zips that Stable-Baselines3 itself has written: four small ones beside this file, and others where it is installed.

``python tests/rl_distill/test_stable_baselines.py`` writes the small ones and what they decide, with it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from effcli.core.errors import InputError, UsageError
from effcli.rl_distill.environments.copies import Environments
from effcli.rl_distill.teachers.stable_baselines import read_stable_baselines

ZIPS = Path(__file__).parent / "zips"
VECTOR = spaces.Box(-1, 1, (5,), np.float32)
PICTURE = spaces.Box(0, 255, (36, 40, 3), np.uint8)
PARTS = spaces.Dict(
    {
        "z": VECTOR,
        "room": spaces.Discrete(3),
        "kinds": spaces.MultiDiscrete([2, 4]),
        "open": spaces.MultiBinary(2),
    }
)
WITH_PICTURE = spaces.Dict({"z": VECTOR, "image": PICTURE, "depth": spaces.Box(0, 1, (3, 4), np.float32)})
CHOICE, TORQUE = spaces.Discrete(3), spaces.Box(-2, 2, (2,), np.float32)
SMALL: dict[str, tuple[str, str, spaces.Space[Any], spaces.Space[Any], dict[str, Any]]] = {
    "ppo-parts": ("PPO", "MultiInputPolicy", PARTS, CHOICE, {}),
    "dqn-vector": ("DQN", "MlpPolicy", VECTOR, CHOICE, {}),
    "ppo-torque": ("PPO", "MlpPolicy", VECTOR, TORQUE, {"use_sde": True}),
    "sac-torque": ("SAC", "MlpPolicy", VECTOR, TORQUE, {}),
}
"""Of each zip the algorithm, the policy, what is observed, the actions, and settings."""


class Random(gymnasium.Env[Any, Any]):
    """Shows anything."""

    def __init__(self, observed: spaces.Space[Any], actions: spaces.Space[Any]) -> None:
        self.observation_space, self.action_space = observed, actions

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observation_space.sample(), 1.0, False, False, {}


def environments(
    observed: spaces.Space[Any], actions: spaces.Space[Any], bounds: Literal["clip", "squash"] = "clip"
) -> Environments:
    made = gymnasium.vector.SyncVectorEnv([lambda: Random(observed, actions)] * 2)
    return Environments(made, "random", bounds=bounds)


def decisions(file: Path, observed: spaces.Space[Any], actions: spaces.Space[Any], seen: Any) -> list[float]:
    """What a zip read here decides, in units of the environment; of SAC before tanh."""
    is_squashed = file.name.startswith("sac")
    env = environments(observed, actions, "squash" if is_squashed else "clip")
    network, _ = read_stable_baselines(str(file), env)
    batch = {k: np.array([v]) for k, v in seen.items()} if isinstance(seen, dict) else np.array([seen])
    with torch.no_grad():
        found = network(torch.from_numpy(env.observed.pack(batch, 1)).float())[1][0]
    if file.name.startswith(("ppo", "a2c")) and isinstance(actions, spaces.Discrete):
        return list(found.log_softmax(-1).tolist())
    if is_squashed:
        return [*found[:2].tolist(), *found[2:].exp().tolist()]
    if isinstance(actions, spaces.Box):
        return [*(2 * found[:2]).tolist(), *(2 * found[2:].exp()).tolist()]
    return list(found.tolist())


@pytest.mark.parametrize("name", SMALL)
def test_a_zip_decides_as_where_it_was_written(name: str) -> None:
    _, _, observed, actions, _ = SMALL[name]
    known = json.loads((ZIPS / f"{name}.json").read_text())
    for seen, wanted in zip(known["observations"], known["decisions"], strict=True):
        found = decisions(ZIPS / f"{name}.zip", observed, actions, seen)
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_a_zip_says_what_it_observes(tmp_path: Path) -> None:
    file = str(ZIPS / "ppo-parts.zip")
    with pytest.raises(UsageError, match="reads 'kinds', which the students' environment does not have"):
        read_stable_baselines(file, environments(spaces.Dict({"z": VECTOR, "room": CHOICE}), CHOICE))
    with pytest.raises(UsageError, match="reads a Dict of observations"):
        read_stable_baselines(file, environments(spaces.Box(-1, 1, (16,), np.float32), CHOICE))
    more = spaces.Dict({**PARTS.spaces, "a": VECTOR})
    network, _ = read_stable_baselines(file, environments(more, CHOICE))
    assert network.n_features == 8


def learner(algorithm: str, policy: str, observed: Any, actions: Any, settings: dict[str, Any]) -> Any:
    baselines = pytest.importorskip("stable_baselines3")
    image = {"MultiInputPolicy": {"cnn_output_dim": 8}, "CnnPolicy": {"features_dim": 8}}.get(policy, {})
    if not (policy == "CnnPolicy" or "image" in getattr(observed, "spaces", {})):
        image = {}
    kwargs = {"net_arch": [8], **({"features_extractor_kwargs": image} if image else {})}
    short = {"PPO": {"n_steps": 8, "batch_size": 8}, "A2C": {"n_steps": 8}, "DQN": {"buffer_size": 10}}
    short["SAC"] = short["DQN"]
    make = getattr(baselines, algorithm)
    env = Random(observed, actions)
    return make(policy, env, policy_kwargs=kwargs, seed=0, device="cpu", **short[algorithm], **settings)


def decided(model: Any, observed: spaces.Space[Any], seen: Any) -> list[float]:
    """What Stable-Baselines3 itself decides."""
    with torch.no_grad():
        tensors, _ = model.policy.obs_to_tensor(seen)
        if hasattr(model, "q_net"):
            return list(model.q_net(tensors)[0].tolist())
        if hasattr(model, "actor"):
            mean, log_std, _ = model.actor.get_action_dist_params(tensors)
            return [*mean[0].tolist(), *log_std[0].exp().tolist()]
        found = model.policy.get_distribution(tensors).distribution
    if hasattr(found, "logits"):
        return list(found.logits[0].tolist())
    return [*found.mean[0].tolist(), *found.stddev[0].tolist()]


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["PPO", "A2C", "DQN"])
@pytest.mark.parametrize(
    ("policy", "observed"),
    [
        ("MlpPolicy", VECTOR),
        ("MlpPolicy", CHOICE),
        ("MlpPolicy", PICTURE),
        ("CnnPolicy", PICTURE),
        ("MultiInputPolicy", PARTS),
        ("MultiInputPolicy", WITH_PICTURE),
    ],
)
def test_what_is_written_now_is_read(
    algorithm: str, policy: str, observed: spaces.Space[Any], tmp_path: Path
) -> None:
    model = learner(algorithm, policy, observed, CHOICE, {})
    file = tmp_path / f"{algorithm.lower()}.zip"
    model.save(file)
    observed.seed(1)
    for _ in range(3):
        seen = observed.sample()
        found = decisions(file, observed, CHOICE, seen)
        np.testing.assert_allclose(found, decided(model, observed, seen), atol=1e-5)


def test_what_is_not_understood_is_refused(tmp_path: Path) -> None:
    from tests.rl_distill.test_teachers import baselines_zip, head, linears

    env = environments(VECTOR, CHOICE)
    weights = linears("mlp_extractor.policy_net", 5, 8) | head(8, 3)
    for data, message in (
        (
            {"features_extractor_class": "<class 'mine.Attention'>"},
            "features extractor 'Attention' is not known",
        ),
        ({"squash_output": "True"}, "was trained with squash_output=True"),
    ):
        with pytest.raises(InputError, match=message):
            read_stable_baselines(baselines_zip(tmp_path / "a.zip", weights, {"policy_kwargs": data}), env)
    lstm = weights | {"lstm_actor.weight_ih_l0": torch.zeros(4, 5)}
    with pytest.raises(InputError, match="weights that are not understood: lstm_actor"):
        read_stable_baselines(baselines_zip(tmp_path / "b.zip", lstm), env)


def test_squashed_and_deterministic_actors_say_what_they_need(tmp_path: Path) -> None:
    from tests.rl_distill.test_teachers import baselines_zip, linears

    file = str(ZIPS / "sac-torque.zip")
    with pytest.raises(UsageError, match="squashed, not clipped") as caught:
        read_stable_baselines(file, environments(VECTOR, TORQUE))
    assert caught.value.hint == "add -s env.action_bounds=squash"
    with pytest.raises(UsageError, match="decides on 2 numbers, the environment has 3 choices"):
        read_stable_baselines(file, environments(VECTOR, CHOICE, "squash"))
    boundless = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    with pytest.raises(UsageError, match="an action without"):
        read_stable_baselines(file, environments(VECTOR, boundless, "squash"))
    td3 = baselines_zip(tmp_path / "td3.zip", linears("actor.mu", 5, 2))
    with pytest.raises(InputError, match="is a policy of TD3, DDPG, or SAC with use_sde"):
        read_stable_baselines(td3, environments(VECTOR, TORQUE, "squash"))


def test_statistics_beside_a_zip_are_said_to_be_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from tests.rl_distill.test_teachers import baselines_zip, head, linears

    weights = (
        linears("mlp_extractor.shared_net", 5, 6) | linears("mlp_extractor.policy_net", 6, 8) | head(8, 3)
    )
    file = baselines_zip(tmp_path / "CartPole-v1.zip", weights)
    (tmp_path / "CartPole-v1").mkdir()
    (tmp_path / "CartPole-v1" / "vecnormalize.pkl").touch()
    network, _ = read_stable_baselines(file, environments(VECTOR, CHOICE))
    assert "statistics for normalisation are in a pickle, which is not read" in caplog.text
    assert sum(p.numel() for p in network.parameters()) == 5 * 6 + 6 + 6 * 8 + 8 + 8 * 3 + 3


def test_statistics_of_any_name_are_said_to_be_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from tests.rl_distill.test_teachers import baselines_zip, head, linears

    file = baselines_zip(tmp_path / "a.zip", linears("mlp_extractor.policy_net", 5, 8) | head(8, 3))
    (tmp_path / "notes.pkl").write_bytes(b"something else")
    read_stable_baselines(file, environments(VECTOR, CHOICE))
    assert caplog.text == ""
    (tmp_path / "rl_model_vecnormalize_32_steps.pkl").touch()
    header = b"\x80\x04\x8c.stable_baselines3.common.vec_env.vec_normalize\x8c\x0cVecNormalize\x93"
    (tmp_path / "stats.pkl").write_bytes(header)
    read_stable_baselines(file, environments(VECTOR, CHOICE))
    assert "rl_model_vecnormalize_32_steps.pkl and 1 more" in caplog.text
    (tmp_path / "rl_model_vecnormalize_32_steps.pkl").unlink()
    read_stable_baselines(file, environments(VECTOR, CHOICE))
    assert "stats.pkl" in caplog.text


def plain(seen: Any) -> Any:
    return {k: np.asarray(v).tolist() for k, v in seen.items()} if isinstance(seen, dict) else seen.tolist()


def write() -> None:
    """Write the small zips, and what they decide."""
    for name, (algorithm, policy, observed, actions, settings) in SMALL.items():
        model = learner(algorithm, policy, observed, actions, settings)
        model.save(ZIPS / f"{name}.zip")
        observed.seed(1)
        seen = [observed.sample() for _ in range(3)]
        known = {
            "observations": [plain(one) for one in seen],
            "decisions": [decided(model, observed, one) for one in seen],
        }
        (ZIPS / f"{name}.json").write_text(json.dumps(known) + "\n")


if __name__ == "__main__":
    write()
