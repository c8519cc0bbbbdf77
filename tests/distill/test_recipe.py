"""The settings of `effcli distill`: the switches of its methods, and recipes of version 0.1."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from effcli.core.errors import RecipeError
from effcli.core.recipe import CompatRecipe, Override
from effcli.core.registry import find_recipe
from effcli.distill.clip_kd.recipe import ClipKdRecipe
from effcli.distill.recipe import RddRecipe

PAGES = Path(__file__).resolve().parents[2] / "docs" / "methods"
SWITCHES = [(recipe, key) for recipe in (RddRecipe, ClipKdRecipe) for key in recipe.switches]


def value_of(recipe: Any, key: str) -> Any:
    for part in key.split("."):
        recipe = getattr(recipe, part)
    return recipe


@pytest.mark.parametrize(("recipe", "key"), SWITCHES, ids=[key for _, key in SWITCHES])
def test_a_switch_is_ours_by_default_and_stands_in_the_table(recipe: type[CompatRecipe], key: str) -> None:
    switch = recipe.switches[key]
    section, _, name = key.rpartition(".")
    holder = type(value_of(recipe(), section)) if section else recipe  # type: ignore[call-arg]
    assert holder.model_fields[name].default == switch.ours
    for compat in ("paper", "released", "ours"):
        found = value_of(recipe(compat=compat), key)  # type: ignore[call-arg]
        assert found == getattr(switch, compat)
    page = (PAGES / f"{recipe.model_fields['method'].default}.md").read_text(encoding="utf-8")
    assert re.search(rf"^\| `{re.escape(key)}` \|", page, re.MULTILINE)


@pytest.mark.parametrize("name", ["paper-cifar10", "paper-imagenet64"])
def test_recipes_of_the_paper_relate_pairs_and_keep_true_pixels(name: str) -> None:
    recipe: Any = find_recipe("distill", name)
    assert (recipe.relations.rows, recipe.relations.queue, recipe.augment.flip) == ("pairs", "pixels", 0.5)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("steps", 1, "steps: is now called 'student_steps'"),
        ("train.few_step_updates", 3, "is now called 'train.last_rounds_steps'"),
        ("data.flip", True, "is now called 'augment.flip', and true 0.5"),
        ("relations.queue", "released", "released is now called mixed"),
    ],
)
def test_a_key_of_version_0_1_is_an_error_that_names_the_new_one(key: str, value: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(message)):
        find_recipe("distill", "default", [Override("--set", key, value)])


def run_of(folder: Path, text: str) -> Any:
    (folder / "result.json").touch()
    (folder / "recipe.yaml").write_text("task: distill\n" + text)
    return find_recipe("distill", str(folder))


def test_a_run_of_version_0_1_opens(tmp_path: Path) -> None:
    recipe = run_of(
        tmp_path,
        "method: rdd\nsteps: 2\ndata: {flip: true}\ntrain: {updates: 3, few_step_updates: 4}\n"
        "relations: {queue: released}\n",
    )
    assert (recipe.student_steps, recipe.augment.flip, recipe.relations.queue) == (2, 0.5, "mixed")
    assert (recipe.train.steps, recipe.train.last_rounds_steps) == (3, 4)


def test_so_does_one_of_clip_kd(tmp_path: Path) -> None:
    recipe = run_of(
        tmp_path,
        "method: clip-kd\nloss: {mask: released, gd_temperature: released}\neval: {source: pairs}\n",
    )
    assert (recipe.loss.mask, recipe.loss.gd_temperature, recipe.eval.data) == ("unused", "scale", "pairs")
