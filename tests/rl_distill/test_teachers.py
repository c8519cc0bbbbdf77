"""Trained policies as teachers: files of ours, and zips of Stable-Baselines3."""

from __future__ import annotations

import io
import json
import os
import zipfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from effcli.core.errors import InputError, UsageError
from effcli.core.runtime import create_runtime
from effcli.rl_distill.dqn import DqnGroup
from effcli.rl_distill.environments.copies import Environments
from effcli.rl_distill.environments.making import make_environments
from effcli.rl_distill.network.policies import ActorCritic
from effcli.rl_distill.ppo import PpoGroup
from effcli.rl_distill.recipe import DqnSection, OpdDaDqnRecipe, OpdDaRecipe, PpoSection
from effcli.rl_distill.teachers.stable_baselines import read_stable_baselines
from effcli.rl_distill.weights import PolicyDescription, described, save_policy
from tests.rl_distill.small_envs import CORRIDOR

CPU = torch.device("cpu")


class Spy(gymnasium.Env[Any, Any]):
    """The place is said to the teacher alone; the student sees noise and whether it is the first half."""

    def __init__(self) -> None:
        numbers = spaces.Box(-1, 1, (3,), np.float32)
        self.observation_space = spaces.Dict({"noise": numbers, "place": spaces.Discrete(5)})
        self.action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.place = 0
        return self._seen(), {}

    def _seen(self) -> dict[str, Any]:
        return {"noise": self.np_random.uniform(-1, 1, 3).astype(np.float32), "place": self.place}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.place = min(4, self.place + int(action))
        return self._seen(), float(self.place), self.place == 4, False, {}


class PlaceAlone(Spy):
    """What the teacher saw."""

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = spaces.Discrete(5)

    def _seen(self) -> Any:
        return self.place


HERE = "tests.rl_distill.test_teachers"


def teacher_file(place: Path, env: Environments, size: str = "small") -> str:
    torch.manual_seed(5)
    network = ActorCritic(env.observed, env.actions, size)
    assert network.actor.bias is not None
    with torch.no_grad():
        network.actor.bias[0] += 3  # it is sure
    about = PolicyDescription("ppo", "x", env.shape, env.n_actions, size, 1, True, 5.0, *described(env))
    save_policy(place, network, about)
    return str(place)


def group(**settings: Any) -> PpoGroup:
    env, opd = settings.pop("env", {"id": CORRIDOR}), settings.pop("opd", {})
    recipe = OpdDaRecipe.model_validate(
        {
            "method": "opd-da",
            "env": {**env, "copies": 2},
            "train": {"env_steps": 64},
            "policies": ["small"] * settings.pop("n", 2),
            "ppo": {"rollout": 16, "minibatches": 2, "learning_rate": 0.01},
            "opd": {"ramp": 0.0, **opd},
        }
    )
    return PpoGroup(recipe, create_runtime(device="cpu", precision="fp32", threads=1), **settings)


def distance_to(one: PpoGroup, states: Tensor) -> float:
    wanted = one.teachers[0](states[None])[1][0].softmax(-1)
    return float((one.policies[0].network(states)[1].softmax(-1) - wanted).abs().sum(-1).mean())


@pytest.mark.parametrize("size", ["small", "large"])
@pytest.mark.parametrize("peers", [True, False])
def test_policies_move_towards_a_teacher(tmp_path: Path, size: str, peers: bool) -> None:
    file = teacher_file(tmp_path / "t.safetensors", make_environments(CORRIDOR, 1), size)
    opd = {"teachers": [file], "peers": peers, "decision_weight": 20.0}
    one, alone = group(opd=opd), group(opd={"targets": "none"})
    states = torch.eye(4)
    before = distance_to(one, states)
    frozen = [p.clone() for p in one.teachers[0].networks[0].parameters()]
    for update in range(one.n_updates):
        values = one.update(update)
        alone.update(update)
    assert distance_to(one, states) < before / 2
    assert values["decision"] > 0
    assert all(map(torch.equal, frozen, one.teachers[0].networks[0].parameters()))
    assert one.attention_means is not None
    assert one.attention_means.shape == (2, 3)
    torch.testing.assert_close(one.attention_means.sum(1), torch.ones(2))
    assert (float(one.attention_means[:, :2].sum()) > 0) is peers


def test_one_policy_learns_from_a_teacher_that_sees_more(tmp_path: Path) -> None:
    file = teacher_file(tmp_path / "t.safetensors", make_environments(f"{HERE}:PlaceAlone", 1))
    one = group(
        n=1, env={"id": f"{HERE}:Spy", "hidden": ["place"]}, opd={"teachers": [file], "decision_weight": 5.0}
    )
    for update in range(one.n_updates):
        values = one.update(update)
    assert values["decision"] > 0
    network = one.policies[0].network
    states = torch.rand(6, 4)
    other = states.clone()
    other[:, 3] = 4 - other[:, 3].round()
    assert torch.equal(network(states)[1], network(other)[1])  # the place is hidden from it
    with pytest.raises(UsageError, match=r"env\.hidden: no part 'plaice'"):
        group(env={"id": f"{HERE}:Spy", "hidden": ["plaice"]})


def test_what_cannot_teach_is_refused(tmp_path: Path) -> None:
    file = teacher_file(tmp_path / "t.safetensors", make_environments("Acrobot-v1", 1))
    with pytest.raises(UsageError, match="decides on 3 numbers, the students on 2"):
        group(opd={"teachers": [file]})
    file = teacher_file(tmp_path / "u.safetensors", make_environments("CartPole-v1", 1))
    with pytest.raises(
        UsageError, match=r"sees an observation of shape \[4\]; the students' environment has none"
    ):
        group(env={"id": f"{HERE}:Spy"}, opd={"teachers": [file]})
    dqn = OpdDaDqnRecipe(env={"id": CORRIDOR}, opd={"teachers": [file]}, dqn=DqnSection())
    with pytest.raises(UsageError, match="is a policy of PPO"):
        DqnGroup(dqn, create_runtime(device="cpu", precision="fp32"))
    with pytest.raises(InputError):
        group(opd={"teachers": [str(tmp_path / "no.safetensors")]})


def baselines_zip(place: Path, weights: dict[str, Tensor], data: Any = None) -> str:
    content = io.BytesIO()
    torch.save(weights, content)
    with zipfile.ZipFile(place, "w") as archive:
        archive.writestr("policy.pth", content.getvalue())
        archive.writestr("data", json.dumps(data or {}))
    return str(place)


def linears(name: str, *sizes: int, start: int = 0) -> dict[str, Tensor]:
    found = {}
    for i, (a, b) in enumerate(pairwise(sizes)):
        found[f"{name}.{start + 2 * i}.weight"] = torch.randn(b, a)
        found[f"{name}.{start + 2 * i}.bias"] = torch.randn(b)
    return found


def head(n_in: int, n_out: int) -> dict[str, Tensor]:
    return {"action_net.weight": torch.randn(n_out, n_in), "action_net.bias": torch.randn(n_out)}


def test_weights_of_stable_baselines_are_read_as_they_compute(tmp_path: Path) -> None:
    w = linears("mlp_extractor.policy_net", 4, 8, 6) | head(6, 2) | linears("mlp_extractor.value_net", 4, 8)
    data = {
        "policy_kwargs": {
            ":type:": "<class 'dict'>",
            "activation_fn": "<class 'torch.nn.modules.activation.ReLU'>",
        }
    }
    x = torch.randn(5, 4)
    for activation, given in ((torch.tanh, None), (torch.relu, data)):
        network, kind = read_stable_baselines(
            baselines_zip(tmp_path / "a.zip", w, given), make_environments(CORRIDOR, 1)
        )
        name = "mlp_extractor.policy_net"
        hidden = activation(x @ w[f"{name}.0.weight"].T + w[f"{name}.0.bias"])
        hidden = activation(hidden @ w[f"{name}.2.weight"].T + w[f"{name}.2.bias"])
        features, decisions = network(x)
        torch.testing.assert_close(features, hidden)
        torch.testing.assert_close(decisions, hidden @ w["action_net.weight"].T + w["action_net.bias"])
        assert (kind, network.n_features) == ("ppo", 6)
    q = linears("q_net.q_net", 4, 8, 2) | linears("q_net_target.q_net", 4, 8, 2)
    network, kind = read_stable_baselines(
        baselines_zip(tmp_path / "q.zip", q), make_environments(CORRIDOR, 1)
    )
    hidden = torch.relu(x @ q["q_net.q_net.0.weight"].T + q["q_net.q_net.0.bias"])
    expected = hidden @ q["q_net.q_net.2.weight"].T + q["q_net.q_net.2.bias"]
    torch.testing.assert_close(network(x)[1], expected)
    assert kind == "dqn"


def test_continuous_actions_of_stable_baselines_are_in_units_of_the_environment(tmp_path: Path) -> None:
    w = linears("mlp_extractor.policy_net", 3, 8) | head(8, 1) | {"log_std": torch.tensor([0.3])}
    env = make_environments("Pendulum-v1", 1)  # torques from -2 to 2
    network, _ = read_stable_baselines(baselines_zip(tmp_path / "a.zip", w), env)
    x = torch.randn(5, 3)
    mean = torch.tanh(x @ w["mlp_extractor.policy_net.0.weight"].T + w["mlp_extractor.policy_net.0.bias"])
    mean = mean @ w["action_net.weight"].T + w["action_net.bias"]
    decisions = network(x)[1]
    torch.testing.assert_close(decisions[:, :1] * 2, mean)
    torch.testing.assert_close(decisions[:, 1].exp() * 2, torch.full((5,), 0.3).exp())


def test_pictures_of_stable_baselines(tmp_path: Path) -> None:
    w = {}
    for i, shape in ((0, (32, 4, 8, 8)), (2, (64, 32, 4, 4)), (4, (64, 64, 3, 3))):
        w[f"features_extractor.cnn.{i}.weight"] = torch.randn(shape) / 30
        w[f"features_extractor.cnn.{i}.bias"] = torch.zeros(shape[0])
    w |= linears("features_extractor.linear", 3136, 512) | head(512, 6)
    network, _ = read_stable_baselines(
        baselines_zip(tmp_path / "a.zip", w), make_environments("ALE/Pong-v5", 1)
    )
    assert network(torch.zeros(2, 4, 84, 84))[1].shape == (2, 6)
    with pytest.raises(UsageError, match="reads pictures, which the environment does not have"):
        read_stable_baselines(str(tmp_path / "a.zip"), make_environments(CORRIDOR, 1))


def test_an_untrained_teacher_is_frozen_and_decided_by_the_seed() -> None:
    one, same = (group(opd={"teachers": ["random", "random"], "peers": False}) for _ in range(2))
    states = torch.eye(4)
    first, second = (teacher(states[None])[1] for teacher in one.teachers)
    torch.testing.assert_close(first, same.teachers[0](states[None])[1])
    assert not torch.equal(first, second)
    one.update(0)
    torch.testing.assert_close(first, one.teachers[0](states[None])[1])
    torch.testing.assert_close(first.softmax(-1), torch.full_like(first, 0.5), atol=0.02, rtol=0)


class Pwn:
    def __reduce__(self) -> Any:
        return os.mkdir, ("pwned",)


def test_nothing_in_a_zip_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    env = make_environments(CORRIDOR, 1)
    file = baselines_zip(tmp_path / "evil.zip", {"action_net.weight": Pwn()})  # type: ignore[dict-item]
    with pytest.raises(InputError, match="cannot be read"):
        read_stable_baselines(file, env)
    assert not (tmp_path / "pwned").exists()
    for name, content, message in (
        ("text.zip", b"no zip", "cannot be read"),
        ("torn.zip", Path(file).read_bytes()[:200], "cannot be read"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=message):
            read_stable_baselines(name, env)
    for weights, message in (
        ({"a": torch.zeros(1)}, "no known network"),
        (head(4, 2) | {"action_net.bias": torch.tensor([1.0, float("nan")])}, "not finite"),
        (
            head(4, 2) | linears("mlp_extractor.policy_net", 4, 8),
            "8 features, the layer of decisions reads 4",
        ),
    ):
        with pytest.raises(InputError, match=message):
            read_stable_baselines(baselines_zip(tmp_path / "b.zip", weights), env)
    with pytest.raises(UsageError, match="decides on 3 choices, the environment has 2"):
        read_stable_baselines(
            baselines_zip(tmp_path / "c.zip", head(8, 3) | linears("mlp_extractor.policy_net", 4, 8)), env
        )
    kwargs = {"policy_kwargs": {"activation_fn": "<class 'evil.Function'>"}}
    with pytest.raises(InputError, match="'Function' is not known"):
        read_stable_baselines(baselines_zip(tmp_path / "d.zip", head(4, 2), kwargs), env)


def test_a_teacher_is_a_setting_of_a_group() -> None:
    assert OpdDaRecipe(opd={"teachers": ["a"]}).opd.attention_input == "decision"
    with pytest.raises(ValueError, match=r"without peers there must be opd\.teachers"):
        OpdDaRecipe(opd={"peers": False})
    assert PpoSection().gamma == 0.99
