"""Recipes of enhance: compat, and keys of version 0.1."""

from __future__ import annotations

from pathlib import Path

import pytest

from effcli.core.errors import RecipeError
from effcli.core.recipe import Override
from effcli.core.registry import find_recipe
from effcli.enhance.recipe import WalMaFaRecipe

PAGE = Path(__file__).resolve().parents[2] / "docs" / "methods" / "walmafa.md"


def test_the_defaults_are_ours_and_every_switch_is_on_the_page() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for key, switch in WalMaFaRecipe.switches.items():
        section, name = key.split(".")
        assert getattr(getattr(WalMaFaRecipe(), section), name) == switch.ours
        assert f"| `{key}` |" in page


@pytest.mark.parametrize(
    ("compat", "expected"),
    [("paper", ("ll", "transpose")), ("released", ("high", "reshape")), ("ours", ("ll", "transpose"))],
)
def test_compat_chooses_the_switches(compat: str, expected: tuple[str, str]) -> None:
    recipe = find_recipe("enhance", "small", [Override("", "compat", compat)])
    assert isinstance(recipe, WalMaFaRecipe)
    assert (recipe.network.mamba_band, recipe.network.token_order) == expected
    assert recipe.network.dim == 8


def test_the_paper_recipe_follows_the_released_code() -> None:
    recipe = find_recipe("enhance", "paper")
    assert isinstance(recipe, WalMaFaRecipe)
    assert (recipe.network.mamba_band, recipe.network.token_order) == ("high", "reshape")


@pytest.mark.parametrize(("old", "new"), [("train", "data.source"), ("eval", "eval.data")])
def test_an_old_key_is_an_error_that_names_the_new_one(old: str, new: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(f"task: enhance\ndata: {{{old}: [pairs]}}\n")
    with pytest.raises(RecipeError, match=f"data.{old}: is now called '{new}'"):
        find_recipe("enhance", str(file))


def test_a_run_of_the_old_version_opens(tmp_path: Path) -> None:
    text = "task: enhance\nmethod: walmafa\ndata: {train: [a], eval: [b], patch: 96}\n"
    (tmp_path / "recipe.yaml").write_text(text)
    (tmp_path / "result.json").touch()
    recipe = find_recipe("enhance", str(tmp_path))
    assert isinstance(recipe, WalMaFaRecipe)
    assert (recipe.data.source, recipe.eval.data, recipe.data.patch) == (("a",), ("b",), 96)
    assert (recipe.network.head, recipe.network.wavelet) == ("picture", "haar")


def test_a_wavelet_is_chosen_by_name_and_an_unknown_one_refused() -> None:
    recipe = find_recipe("enhance", "small", [Override("", "network.wavelet", "sym4")])
    assert isinstance(recipe, WalMaFaRecipe)
    assert recipe.network.wavelet == "sym4"
    with pytest.raises(RecipeError, match=r"network\.wavelet: unknown wavelet 'db40'; available: .*db1-db38"):
        find_recipe("enhance", "small", [Override("", "network.wavelet", "db40")])
