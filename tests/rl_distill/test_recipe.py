"""Recipes of rl-distill: methods, and keys of version 0.1."""

from __future__ import annotations

from pathlib import Path

import pytest

from effcli.core.errors import RecipeError
from effcli.core.recipe import Override
from effcli.core.registry import find_recipe
from effcli.rl_distill.recipe import OpdDaDqnRecipe, OpdDaRecipe, PpoRecipe


def refused(text: str, tmp_path: Path) -> str:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(RecipeError) as caught:
        find_recipe("rl-distill", str(file))
    return caught.value.message


def test_an_old_key_is_an_error_that_names_the_new_one(tmp_path: Path) -> None:
    message = refused("task: rl-distill\nmethod: opd-da\nsteps: 500\n", tmp_path)
    assert message == "steps: is now called 'train.env_steps'"


def test_an_independent_method_has_no_peers(tmp_path: Path) -> None:
    message = refused("task: rl-distill\nmethod: ppo\nopd: {ramp: 0}\n", tmp_path)
    assert "ppo trains independent policies and has no 'opd'; the methods opd-da and opd-da-dqn do" in message


def test_runs_of_the_old_version_open(tmp_path: Path) -> None:
    (tmp_path / "result.json").touch()
    old = "task: rl-distill\nmethod: {}\nsteps: 700\npolicies: [small, large]\nopd: {{attention_input: decision}}\n"
    for method, kind in (("ppo", OpdDaRecipe), ("dqn", OpdDaDqnRecipe)):
        (tmp_path / "recipe.yaml").write_text(old.format(method))
        recipe = find_recipe("rl-distill", str(tmp_path))
        assert type(recipe) is kind
        assert recipe.train.env_steps == 700


def test_a_run_of_the_old_version_is_resumed(tmp_path: Path) -> None:
    from effcli.core.recipe import dump_recipe
    from effcli.core.resuming.run_directory import claim_directory

    recipe = find_recipe("rl-distill", "opd-da-dqn")
    old = dump_recipe(recipe, comments=False).replace("method: opd-da-dqn", "method: dqn")
    old = old.replace("train:\n  env_steps: 500000\n  tensorboard: false", "steps: 500000")
    (tmp_path / "recipe.yaml").write_text(old)
    (tmp_path / "log.txt").touch()
    lock = claim_directory(tmp_path, recipe, resume=True)
    assert lock is not None
    lock.close()


def test_policies_of_different_sizes_compare_decisions() -> None:
    overrides = [Override("--policy", "policies", ["small", "large"])]
    recipe = find_recipe("rl-distill", "default", overrides)
    assert isinstance(recipe, OpdDaRecipe)
    assert recipe.opd.attention_input == "decision"
    assert isinstance(find_recipe("rl-distill", "ppo", overrides), PpoRecipe)
