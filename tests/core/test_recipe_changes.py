"""Recipes of version 0.1: an error that names the new key in files of people, read in run directories."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from pydantic import Field, ValidationError

from effcli.core.errors import RecipeError
from effcli.core.recipe import CompatRecipe, Override, Section, Switch, load_recipe
from effcli.core.recipe_changes import Added, Renamed, upgraded
from effcli.core.registry import TASKS, recipe_of_run


class Loss(Section):
    scale: Literal["exp", "raw"] = "exp"
    rows: int = 4


class Walk(CompatRecipe):
    task: str = "walk"
    method: str = "a"
    loss: Loss = Field(Loss(), description="")
    flip: float = 0.0
    switches: ClassVar = {"loss.scale": Switch("exp", "raw", "exp"), "flip": Switch(0.0, 0.5, 0.0)}


RENAMED = (
    Renamed("data.flip", "flip", {True: 0.5, False: 0.0}),
    Renamed("loss.scale", "loss.scale", {"released": "raw"}),
    Renamed("loss.lines", "loss.rows", methods=("a", "b")),
    Renamed("threads", "", hint="use --threads"),
    Renamed("method", "method", {"b": "a"}, when="data"),
)


def load(text: str, place: str = "mine.yaml", overrides: tuple[Override, ...] = ()) -> Walk:
    return load_recipe(Walk, text, place, overrides, renamed=RENAMED)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: {flip: true}", "data: unknown key|data.flip"),
        ("loss: {lines: 3}", "mine.yaml:2: loss.lines: is now called 'loss.rows'"),
        ("loss: {scale: released}", "mine.yaml:2: loss.scale: released is now called raw"),
        ("threads: 2", "mine.yaml:2: threads: this key is gone; use --threads"),
    ],
)
def test_an_old_key_is_an_error_that_names_the_new_one(text: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load(f"task: walk\n{text}\n")
    found = f"{caught.value.place}: {caught.value.message}"
    assert any(part in found for part in message.split("|"))


def test_so_is_one_on_the_command_line() -> None:
    with pytest.raises(RecipeError, match=r"is now called 'loss\.rows'"):
        load("task: walk\n", overrides=(Override("--set loss.lines=3", "loss.lines", 3),))


def test_a_run_directory_of_the_old_version_opens(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(
        "task: walk\nmethod: b\ndata: {flip: true}\nloss: {lines: 3, scale: released}\nthreads: 2\n"
    )
    (tmp_path / "result.json").touch()
    recipe = load(file.read_text(), str(file))
    assert (recipe.method, recipe.flip, recipe.loss.rows, recipe.loss.scale) == ("a", 0.5, 3, "raw")


def test_what_compat_stands_for() -> None:
    assert load("task: walk\n") == load("task: walk\ncompat: ours\n") == Walk()
    released = load("task: walk\ncompat: released\nloss: {rows: 2}\n")
    assert (released.loss.scale, released.loss.rows, released.flip) == ("raw", 2, 0.5)
    alone = load("task: walk\ncompat: released\nloss: {scale: exp}\n")
    assert (alone.loss.scale, alone.flip) == ("exp", 0.5)
    assert Walk(compat="released", loss=Loss(rows=1)).loss == Loss(rows=1, scale="raw")
    with pytest.raises(RecipeError, match="compat: Input should be 'paper', 'released' or 'ours'"):
        load("task: walk\ncompat: mine\n")


COMPAT_RECIPES = {
    cls
    for task in TASKS.values()
    for method in task.methods
    if issubclass(cls := task.recipe_class({"method": method.name}), CompatRecipe)
}


@pytest.mark.parametrize("cls", sorted(COMPAT_RECIPES, key=str), ids=lambda cls: cls.__name__)
def test_the_defaults_of_switches_are_ours(cls: type[CompatRecipe]) -> None:
    """A switch is a key, its default is what ``ours`` says, and every value that it may get is allowed."""
    assert cls.switches
    for compat in ("paper", "released", "ours"):
        content = {"compat": compat, **REQUIRED.get(cls.__name__, {})}
        if (cls.__name__, compat) in REFUSED:
            with pytest.raises(ValidationError, match="compat"):
                cls.model_validate(content)
            continue
        flat = cls.model_validate(content)
        for key, switch in cls.switches.items():
            value = flat
            for part in key.split("."):
                value = getattr(value, part)
            assert value == getattr(switch, compat), (key, compat)
    for key, switch in cls.switches.items():
        model: Any = cls
        *path, last = key.split(".")
        for part in path:
            model = type(model.model_fields[part].default)
        assert model.model_fields[last].default == switch.ours, key


REFUSED = {("StreamDsgnRecipe", "paper")}
REQUIRED = {"EgorRecipe": {"data": {"tasks": 2}}}


def test_a_continual_run_of_the_old_version_opens(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    (tmp_path / "result.json").touch()
    file.write_text(
        "task: continual\nmethod: er\ndata: {hold_out: 0.3, eval_per_class: 7}\naugment: {flip: false}\n"
        "frequency: {enabled: true, alphas: paper}\n"
    )
    recipe: Any = recipe_of_run("continual", tmp_path)
    assert (recipe.eval.hold_out, recipe.eval.per_class, recipe.augment.flip) == (0.3, 7, 0.0)
    assert recipe.frequency.alphas == "equation-4"
    file.write_text(
        "task: continual\nmethod: egor\ndata: {tasks: 2, hold_out: 0.3}\ntrain: {flip: false}\nbase: {flip: false}\n"
        "composition: {mirror: true}\ndistillation: {nms: scaled}\nnetwork: {weights: a.pth}\n"
    )
    detector: Any = recipe_of_run("continual", tmp_path)
    assert (detector.augment.flip, detector.composition.flip, detector.distillation.nms) == (
        0.0,
        0.5,
        "pixels",
    )
    assert detector.network.init == "a.pth"


def test_a_key_that_was_added_to_some_methods_is_not_given_to_others():
    changes = (Added("network.head", "picture", methods=("a",)),)
    assert upgraded({"method": "a"}, changes) == {"method": "a", "network": {"head": "picture"}}
    assert upgraded({"method": "b"}, changes) == {"method": "b"}
