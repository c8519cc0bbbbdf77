"""Files that come from anybody run and import nothing but registered environments."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from effcli.core.errors import InputError, UsageError
from effcli.core.recipe import Override
from effcli.core.registry import find_recipe
from effcli.core.runtime import Runtime, create_runtime
from effcli.rl_distill import pipeline
from effcli.rl_distill.environments.actions import single_choice
from effcli.rl_distill.environments.chosen import ChosenEnvironment
from effcli.rl_distill.environments.observations import observed_of_shape
from effcli.rl_distill.network.policies import ActorCritic
from effcli.rl_distill.weights import PolicyDescription, save_policy

EVIL = """
from pathlib import Path
import gymnasium

Path("imported").touch()

def pwn():
    Path("called").touch()
    return gymnasium.make("CartPole-v1")
"""
NAMES = ["evilmod:pwn", "evilmod:Evil-v0", "evilmod:CartPole-v1", "evilmod.sub:pwn", ":CartPole-v1"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a module that notes when it is imported."""
    (tmp_path / "evilmod.py").write_text(EVIL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "evilmod", raising=False)
    return tmp_path


@pytest.fixture
def runtime() -> Runtime:
    return create_runtime(device="cpu", precision="fp32")


def policy_file(folder: Path, env: str) -> str:
    about = PolicyDescription("ppo", env, (4,), 2, "small", 1, True, None)
    save_policy(
        folder / "mail.safetensors", ActorCritic(observed_of_shape((4,)), single_choice(2), "small"), about
    )
    return "mail.safetensors"


@pytest.mark.parametrize("env", NAMES)
def test_a_policy_file_imports_nothing(place: Path, runtime: Runtime, env: str) -> None:
    file = policy_file(place, env)
    with pytest.raises(InputError, match="names Python code") as caught:
        pipeline.evaluate(file, 1, ChosenEnvironment(), runtime)
    assert caught.value.hint == f"if you trust this code, add --env {env}"
    with pytest.raises(InputError, match="names Python code"):
        pipeline.watch(file, None, place / "a.gif", 5, ChosenEnvironment(), runtime)
    assert not (place / "imported").exists()


@pytest.mark.parametrize("env", ["evilmod", "evilmod/pwn-v0", "evilmod.pwn", "../evilmod"])
def test_an_id_that_is_not_registered_imports_nothing(place: Path, runtime: Runtime, env: str) -> None:
    with pytest.raises(UsageError):
        pipeline.evaluate(policy_file(place, env), 1, ChosenEnvironment(), runtime)
    assert not (place / "imported").exists()


def test_what_is_typed_is_run(place: Path, runtime: Runtime) -> None:
    result = pipeline.evaluate(
        policy_file(place, "evilmod:pwn"), 1, ChosenEnvironment("evilmod:pwn"), runtime
    )
    assert result.metrics["env"] == "evilmod:pwn"
    assert (place / "called").exists()


def test_a_recipe_file_names_no_code(place: Path) -> None:
    (place / "mail.yaml").write_text("task: rl-distill\nenv: {id: 'evilmod:pwn'}\n")
    with pytest.raises(UsageError, match=r"env\.id: names Python code, 'evilmod:pwn'") as caught:
        find_recipe("rl-distill", "mail.yaml")
    assert caught.value.hint == "if you trust this code, add -s env.id=evilmod:pwn"
    of_a_claim = Override("arm evil", "env.id", "evilmod:pwn")
    with pytest.raises(UsageError, match="names Python code"):
        find_recipe("rl-distill", "default", [of_a_claim])
    for flag, key, value in (
        ("--env evilmod:pwn", "env.id", "evilmod:pwn"),
        ("--set x", "env", {"id": "a:b"}),
    ):
        assert find_recipe("rl-distill", "mail.yaml", [Override(flag, key, value)])
