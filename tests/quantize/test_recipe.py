"""The settings of `effcli quantize`: the switches of MPQ-DM, and recipes of version 0.1."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from effcli.core.errors import RecipeError
from effcli.core.recipe import Override
from effcli.core.registry import find_recipe
from effcli.quantize.recipe import MpqDmRecipe

PAGE = Path(__file__).resolve().parents[2] / "docs" / "methods" / "mpq-dm.md"


def value_of(recipe: Any, key: str) -> Any:
    for part in key.split("."):
        recipe = getattr(recipe, part)
    return recipe


@pytest.mark.parametrize("key", MpqDmRecipe.switches)
def test_a_switch_is_ours_by_default_and_stands_in_the_table(key: str) -> None:
    switch = MpqDmRecipe.switches[key]
    section, _, name = key.rpartition(".")
    field = type(value_of(MpqDmRecipe(), section)).model_fields[name]
    assert field.default == switch.ours
    for compat in ("paper", "released", "ours"):
        assert value_of(MpqDmRecipe(compat=compat), key) == getattr(switch, compat)
    assert re.search(rf"^\| `{re.escape(key)}` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("name", ["paper-bedroom", "paper-imagenet"])
def test_recipes_of_the_paper_search_up_to_half_and_keep_the_gradient_of_trd(name: str) -> None:
    recipe: Any = find_recipe("quantize", name)
    allocation, train = recipe.allocation, recipe.train
    assert (allocation.search, allocation.profile) == ("half", "main-path")
    assert (train.zero_points, train.trd_pool, train.trd_detached) == ("float", None, False)


def test_values_of_version_0_1_are_named_in_the_error_and_read_in_runs(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="code is now called tenth"):
        find_recipe("quantize", "default", [Override("--set", "allocation.search", "code")])
    (tmp_path / "result.json").touch()
    (tmp_path / "recipe.yaml").write_text(
        "task: quantize\nmethod: mpq-dm\nallocation: {search: code, profile: paper}\n"
    )
    recipe: Any = find_recipe("quantize", str(tmp_path))
    assert (recipe.allocation.search, recipe.allocation.profile) == ("tenth", "main-path")


@pytest.mark.parametrize("rule", ["error", "uniform"])
def test_plus_beside_another_rule_is_refused(rule: str) -> None:
    given = [("allocation.plus", True), ("allocation.rule", rule)]
    with pytest.raises(
        RecipeError, match=f"allocation.plus goes by kurtosis, not with allocation.rule: {rule}"
    ):
        find_recipe("quantize", "default", [Override("--set", key, value) for key, value in given])
