"""Switches under compat, keys of version 0.1, and combinations that no network can compute."""

from __future__ import annotations

from pathlib import Path

import pytest

from effcli.core.errors import RecipeError
from effcli.core.recipe import Section, load_recipe
from effcli.core.registry import find_recipe
from effcli.detect_stream.network.config import FULL, TINY
from effcli.detect_stream.pipeline import plan_train
from effcli.detect_stream.recipe import RENAMED, StreamDsgnRecipe

PAGE = Path(__file__).resolve().parents[2] / "docs" / "methods" / "streamdsgn.md"
OLD_RUN = """
task: detect-stream
method: streamdsgn
weights: my-detector
stereo_weights: null
network: {size: full, compat: null}
data: {source: kitti, split: paper, eval: kitti, truncation: released}
augment: {mirror: 0.25}
stream: {weights: other, score: 0.5}
"""


def load(text: str, place: str = "mine.yaml") -> StreamDsgnRecipe:
    return load_recipe(StreamDsgnRecipe, f"task: detect-stream\n{text}\n", place, renamed=RENAMED)


def value_of(recipe: Section, key: str) -> object:
    found: object = recipe
    for part in key.split("."):
        found = getattr(found, part)
    return found


def test_defaults_are_ours_and_every_switch_is_on_the_page() -> None:
    page = PAGE.read_text(encoding="utf-8")
    plain, released = StreamDsgnRecipe(), load("compat: released")
    for key, switch in StreamDsgnRecipe.switches.items():
        assert value_of(plain, key) == switch.ours, key
        assert value_of(released, key) == switch.released, key
        assert f"| `{key}` |" in page, key


def test_the_papers_own_text_is_not_guessed() -> None:
    with pytest.raises(RecipeError, match="compat: paper: the full text of the paper was not available"):
        load("compat: paper")


def test_the_shipped_recipe_has_the_released_settings() -> None:
    recipe = find_recipe("detect-stream", "paper")
    assert isinstance(recipe, StreamDsgnRecipe)
    assert recipe.network.config() == FULL
    assert (recipe.data.split, recipe.data.truncation, recipe.loss.motion_by) == (
        "clips",
        "fraction",
        "overlap",
    )
    assert (recipe.augment.paste, recipe.augment.forget, recipe.augment.flip) == (0.9, 0.0, 0.5)


def test_a_volume_that_cannot_be_folded_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"network\.quirks: size full has 10 layers") as caught:
        load("network: {size: full, quirks: false}")
    assert "\n" not in caught.value.message
    with pytest.raises(ValueError, match="10 layers are not a multiple of 4"):
        type(FULL).model_validate(FULL.model_dump() | {"compat": False})
    assert load("network: {size: tiny, quirks: false}").network.config() == TINY


def test_horizons_are_of_the_architecture() -> None:
    assert load("loss: {horizons: [1, 2, 3]}").architecture().horizons == (1, 2, 3)
    assert load("").architecture() == TINY
    for text, message in (
        ("loss: {horizons: [2, 3]}", r"loss\.horizons: \[2, 3\]: frames increase from 1 to 10"),
        ("loss: {horizons: [1, 3, 2]}", "frames increase"),
        ("loss: {horizons: [1, 11]}", "frames increase"),
        ("loss: {horizons: []}", "horizons"),
        ("loss: {target: now, motion: 0, horizons: [1, 2]}", "later frames need target next, not now"),
    ):
        with pytest.raises(RecipeError, match=message):
            load(text)
    with pytest.raises(ValueError, match="horizons increase from 1 to 10"):
        type(TINY).model_validate(TINY.model_dump() | {"horizons": [3]})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: {eval: kitti}", "data.eval: is now called 'eval.data'"),
        ("data: {split: paper}", "data.split: paper is now called clips"),
        ("data: {truncation: released}", "data.truncation: released is now called fraction"),
        ("stream: {weights: mine}", "stream.weights: is now called 'weights'"),
        ("stereo_weights: mine", "stereo_weights: is now called 'train.frozen_stereo'"),
        ("network: {compat: true}", "network.compat: is now called 'network.quirks'"),
        ("augment: {mirror: 0.5}", "augment.mirror: is now called 'augment.flip'"),
    ],
)
def test_old_keys_name_the_new_ones(text: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load(text)
    assert message in str(caught.value)


def test_a_run_of_the_old_version_opens(tmp_path: Path) -> None:
    (tmp_path / "result.json").touch()
    recipe = load_recipe(StreamDsgnRecipe, OLD_RUN, str(tmp_path / "recipe.yaml"), renamed=RENAMED)
    assert (recipe.weights, recipe.train.init, recipe.train.frozen_stereo) == ("other", "my-detector", None)
    assert (recipe.eval.data, recipe.data.split, recipe.data.truncation) == ("kitti", "clips", "fraction")
    assert (recipe.augment.flip, recipe.stream.score, recipe.network.config()) == (0.25, 0.5, FULL)


def test_a_run_of_this_version_keeps_its_weights(tmp_path: Path) -> None:
    (tmp_path / "result.json").touch()
    text = "task: detect-stream\nweights: mine\nstream: {score: 0.5}\n"
    recipe = load_recipe(StreamDsgnRecipe, text, str(tmp_path / "recipe.yaml"), renamed=RENAMED)
    assert (recipe.weights, recipe.train.init) == ("mine", None)


def test_a_training_does_not_silently_ignore_weights() -> None:
    with pytest.raises(RecipeError, match=r"weights: mine would not be used.*train\.init"):
        plan_train(load("weights: mine"))


@pytest.mark.parametrize(
    "other", [{"loss": {"depth": 0}}, {"train": {"frozen_stereo": "builtin:street-tiny"}}]
)
def test_depth_steps_need_depth_to_be_learned(other: dict[str, dict[str, object]]) -> None:
    settings = {"train": {"depth_steps": 3}}
    for section, values in other.items():
        settings[section] = settings.get(section, {}) | values  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"train\.depth_steps"):
        StreamDsgnRecipe.model_validate({"task": "detect-stream", **settings})
    StreamDsgnRecipe.model_validate({"task": "detect-stream", "train": {"depth_steps": 3}})
