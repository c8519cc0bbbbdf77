"""`effcli rl-distill` from the outside."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.cli.effcli_process import Finished, effcli

pytestmark = pytest.mark.slow

SMALL = ["--steps", "1k", "-s", "ppo.epochs=1", "-s", "eval.episodes=2", "--device", "cpu", "--threads", "1"]
SMALL_DQN = [
    *("--method", "opd-da-dqn", "--steps", "600", "-s", "dqn.learning_starts=100", "-s", "dqn.replay=300"),
    *("-s", "eval.episodes=2", "--threads", "1"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run."""
    folder = tmp_path_factory.mktemp("rl")
    done = effcli("rl-distill", *SMALL, "-o", "run", cwd=folder)
    assert (done.code, done.lines) == (0, ["run"]), done.stderr
    return folder


def refused(place: Path, *words: str | Path) -> Finished:
    done = effcli("rl-distill", *words, cwd=place)
    assert (done.code, done.lines) == (2, []), done.stderr
    return done


def metrics_of(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "result.json").read_text())["metrics"]
    return content


def test_a_run_has_the_metrics_and_the_files_of_the_contract(place: Path) -> None:
    metrics = metrics_of(place / "run")
    names = {"mean_return", "best_return", "returns", "auc", "env_steps", "steps_per_s", "disagreement"}
    assert metrics.keys() >= names
    assert len(metrics["returns"]) == 3
    assert metrics["compare"].keys() == {"independent"}
    assert metrics["best_return"] == max(metrics["returns"])
    assert metrics["returns"][metrics["best_policy"] - 1] == metrics["best_return"]
    for name in ("returns.png", "report.html", *(f"model/policy-{i}.safetensors" for i in (1, 2, 3))):
        assert (place / "run" / name).is_file()


def test_dqn_mean_targets_and_other_sizes(place: Path, tmp_path: Path) -> None:
    done = effcli("rl-distill", *SMALL_DQN, "--targets", "mean", "-o", tmp_path / "dqn", "--json", cwd=place)
    assert done.code == 0, done.stderr
    assert done.json["method"] == "opd-da-dqn"
    words = (*SMALL, "--policy", "small,large,large", "--compare", "", "-o", tmp_path / "sizes", "--json")
    done = effcli("rl-distill", *words, cwd=place)
    assert done.code == 0, done.stderr
    found = effcli("rl-distill", "eval", tmp_path / "sizes", "-n", "2", "--json", cwd=place)
    parameters = found.json["metrics"]["parameters"]
    assert parameters[0] * 3 < parameters[1] == parameters[2]


@pytest.mark.parametrize("words", [SMALL, SMALL_DQN], ids=["ppo", "dqn"])
def test_a_finished_group_is_not_trained_again_on_resume(words: list[str], tmp_path: Path) -> None:
    done = effcli("rl-distill", *words, "--compare", "independent", "-o", "whole", cwd=tmp_path)
    assert done.code == 0, done.stderr
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    for name in ("result.json", "report.html", "checkpoints/independent.pt", "checkpoints/play.pt"):
        (tmp_path / "cut" / name).unlink(missing_ok=True)
    done = effcli("rl-distill", *words, "--compare", "independent", "-o", "cut", "--resume", cwd=tmp_path)
    assert done.code == 0, done.stderr
    assert not [line for line in done.stderr.splitlines() if line.startswith("group:")]
    first, second = (tmp_path / run / "model/policy-1.safetensors" for run in ("whole", "cut"))
    assert first.read_bytes() == second.read_bytes()
    assert metrics_of(tmp_path / "whole")["compare"] == metrics_of(tmp_path / "cut")["compare"]


def test_two_thousand_steps_of_atari(tmp_path: Path) -> None:
    words = ("--env", "ALE/Pong-v5", "--steps", "2000", "--policies", "2", "--policy", "small,small")
    more = ("-s", "ppo.rollout=64", "-s", "ppo.epochs=1", "-s", "eval.episodes=0", "--compare", "")
    done = effcli(
        "rl-distill", *words, *more, "-s", "env.clip_rewards=true", "-o", "pong", "--json", cwd=tmp_path
    )
    assert done.code == 0, done.stderr
    assert done.json["metrics"]["env_steps"] == 2 * 2048
    film = effcli("rl-distill", "watch", "pong", "-o", "pong.mp4", "--steps", "5", cwd=tmp_path)
    assert film.code == 0, film.stderr
    assert (tmp_path / "pong.mp4").read_bytes()[4:8] == b"ftyp"
    done = effcli("rl-distill", "watch", "pong", "-o", "pong.gif", "--steps", "20", cwd=tmp_path)
    assert done.code == 0, done.stderr
    assert Image.open(tmp_path / "pong.gif").size == (84, 84)


def test_minatar(tmp_path: Path) -> None:
    words = ("--env", "MinAtar/Breakout-v1", "--steps", "1k", "-s", "ppo.epochs=1", "-s", "eval.episodes=1")
    done = effcli("rl-distill", *words, "--compare", "", "-o", "run", "--json", cwd=tmp_path)
    assert done.code == 0, done.stderr
    assert done.json["metrics"]["best_return"] >= 0


def test_an_exported_policy_decides_the_same(place: Path, tmp_path: Path) -> None:
    import onnxruntime
    import torch

    from effcli.rl_distill.weights import load_policy

    for name in ("policy.onnx", "policy.safetensors"):
        done = effcli("rl-distill", "export", "run", "--policy", "2", "-o", tmp_path / name, cwd=place)
        assert (done.code, done.lines) == (0, [str(tmp_path / name)]), done.stderr
    observations = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    session = onnxruntime.InferenceSession(tmp_path / "policy.onnx")
    (found,) = session.run(None, {"observations": observations})
    with torch.no_grad():
        expected = load_policy(tmp_path / "policy.safetensors")(torch.from_numpy(observations)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert session.get_modelmeta().custom_metadata_map["env"] == "CartPole-v1"


def test_what_cannot_be_learned_is_refused(place: Path) -> None:
    assert "did you mean 'CartPole-v1'" in refused(place, "--env", "CartPol-v1").stderr
    assert (
        "DQN needs a single discrete action"
        in refused(place, "--env", "Pendulum-v1", "--method", "dqn").stderr
    )
    assert "steps" in refused(place, "--steps", "0").stderr
    assert "steps" in refused(place, "--steps", "many").stderr
    assert "--algo is now called --method" in refused(place, "--algo", "dqn").stderr
    assert "unknown file extension '.txt'" in refused(place, "export", "run", "-o", "a.txt").stderr
    other = refused(place, *SMALL, "--env", "Acrobot-v1", "-o", "run", "--resume")
    assert "env.id" in other.stderr
    assert "contains no policies" in refused(place, "eval", ".").stderr


def test_two_policies_with_attention_are_warned_of(place: Path, tmp_path: Path) -> None:
    done = effcli("rl-distill", *SMALL, "--policies", "2", "--dry-run", cwd=place)
    assert done.code == 0
    assert "attention makes no difference" in done.stderr


GAMES = """
import gymnasium

class Fails(gymnasium.Wrapper):
    steps = 0

    def step(self, action):
        Fails.steps += 1
        if Fails.steps == 700:
            raise RuntimeError("the game is over")
        return super().step(action)

class NoNumber(gymnasium.Wrapper):
    def step(self, action):
        seen, _, terminated, truncated, info = super().step(action)
        return seen, float("nan"), terminated, truncated, info

def fails():
    return Fails(gymnasium.make("CartPole-v1"))

def no_number():
    return NoNumber(gymnasium.make("CartPole-v1"))
"""


def test_an_environment_that_fails_costs_no_work(tmp_path: Path) -> None:
    (tmp_path / "games.py").write_text(GAMES)
    words = ("--env", "games:fails", *SMALL, "--compare", "", "--policies", "2", "-o", "run")
    done = effcli("rl-distill", *words, cwd=tmp_path)
    assert (done.code, done.lines) == (1, [])
    assert "the environment failed: RuntimeError: the game is over" in done.stderr
    assert (tmp_path / "run" / "checkpoints" / "group.pt").is_file()
    done = effcli("rl-distill", *words, "--resume", cwd=tmp_path)
    assert done.code == 1  # it fails again, later
    assert "resumed with new episodes" in done.stderr


def test_rewards_that_are_no_numbers_stop_the_run(tmp_path: Path) -> None:
    (tmp_path / "games.py").write_text(GAMES)
    words = ("--env", "games:no_number", *SMALL, "--compare", "", "-o", "run")
    done = effcli("rl-distill", *words, cwd=tmp_path)
    assert (done.code, done.lines) == (1, [])
    assert "the environment failed: a reward is NaN or infinite" in done.stderr


def test_environments_in_processes_give_the_same(tmp_path: Path) -> None:
    words = ("--env", "Acrobot-v1", *SMALL, "--compare", "", "--policies", "1", "--targets", "none")
    for name, workers in (("here", "0"), ("beside", "2")):
        done = effcli("rl-distill", *words, "--workers", workers, "-o", name, cwd=tmp_path)
        assert done.code == 0, done.stderr
    first, second = (tmp_path / run / "model/policy-1.safetensors" for run in ("here", "beside"))
    assert first.read_bytes() == second.read_bytes()
