from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_task import ToyRecipe, ToyTrain

from effcli.core.errors import RecipeError, UsageError
from effcli.core.evidence.claims import arm_recipe, load_claim
from effcli.core.recipe import (
    Override,
    Recipe,
    Section,
    difference,
    dump_recipe,
    load_recipe,
    parse_set,
    read_claim,
    read_recipe,
    shipped_recipes,
    task_of,
)
from effcli.core.registry import TASKS, get_task
from effcli.enhance.recipe import WalMaFaRecipe

RECIPES = [(task, name) for task in TASKS for name in shipped_recipes(task)]
CLAIMS = [(task, name) for task in TASKS for name in shipped_recipes(task, claims=True)]


def load(text: str, *sets: str) -> WalMaFaRecipe:
    return load_recipe(WalMaFaRecipe, text, "x.yaml", [parse_set(one) for one in sets])


def mistakes(text: str, *sets: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load(text, *sets)
    return str(caught.value).splitlines()


class Words(Section):
    """Keys that take text, and one that is true or false."""

    cache: Literal["on", "off", "auto"] = "auto"
    name: str = ""
    classes: tuple[tuple[str, ...], ...] = ()
    is_fast: bool = False


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("cache: on", "cache", "on"),
        ("cache: off", "cache", "off"),
        ("name: no", "name", "no"),
        ("name: 2024-01-01", "name", "2024-01-01"),
        ("classes: [[yes, no], [y, n, On, OFF]]", "classes", (("yes", "no"), ("y", "n", "On", "OFF"))),
        *((f"is_fast: {word}", "is_fast", True) for word in ("on", "yes", "y", "true", "True", "ON")),
        *((f"is_fast: {word}", "is_fast", False) for word in ("off", "no", "n", "false", "FALSE", "Off")),
    ],
)
def test_words_that_older_yaml_takes_for_true_and_false(text: str, key: str, value: Any) -> None:
    recipe = load_recipe(Words, text, "x.yaml")
    assert getattr(recipe, key) == value
    assert load_recipe(Words, dump_recipe(recipe), "x.yaml") == recipe
    if ":" in text:
        assert load_recipe(Words, "{}", "x.yaml", [parse_set(text.replace(": ", "=", 1))]) == recipe


# --- mistakes -----------------------------------------------------------------------------------------


def test_all_mistakes_of_file_and_flags_are_reported_at_once_with_their_places() -> None:
    text = "task: enhance\ntrain:\n  steps: 5\n  lerning_rate: 3\nnetwork:\n  blocks: [1, 0, 2]\nweigths: a\n"
    found = mistakes(text, "seed=-1", "seed.x=3", "data.patch=17", "trian.x=1")
    assert sorted(found) == sorted(
        [
            "x.yaml:4: train.lerning_rate: unknown key, did you mean 'learning_rate'?",
            "x.yaml:6: network.blocks.1: Input should be greater than 0, not 0",
            "x.yaml:7: weigths: unknown key, did you mean 'weights'?",
            "--set seed=-1: seed: Input should be greater than or equal to 0, not -1",
            "--set seed.x=3: seed.x: 'seed' is not a section",
            "--set data.patch=17: data.patch: Input should be a multiple of 16, not 17",
            "--set trian.x=1: trian: unknown key, did you mean 'train'?",
        ]
    )


def test_one_mistake_has_its_place_apart_from_its_message() -> None:
    with pytest.raises(RecipeError) as caught:
        load("task: enhance\nseed: x\n")
    assert caught.value.place == "x.yaml:2"
    assert caught.value.message.startswith("seed: Input should be a valid integer")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "x.yaml: is empty"),
        ("# nothing\n", "x.yaml: is empty"),
        ("[1, 2]", "x.yaml: must be a mapping of keys to values"),
        ("just words", "x.yaml: must be a mapping of keys to values"),
        ("seed: 1\nmethod: walmafa\nseed: 2", "x.yaml:3: seed: key given twice"),
        ("train:\n  steps: 1\n  steps: 1", "x.yaml:3: train.steps: key given twice"),
        ("seed: 1\ntrain: [1", "x.yaml:2: not valid YAML: expected ',' or ']', but got '<stream end>'"),
        (
            "seed: 2024-13-01",
            "x.yaml:1: seed: Input should be a valid integer, unable to parse string as an integer, not '2024-13-01'",
        ),
        ("? [1]\n: 2", "x.yaml:1: not valid YAML: found unhashable key"),
        ("seed: &a {b: *a}", "x.yaml:1: seed: Input should be a valid integer"),
        ("train:\nseed: 1", "x.yaml:1: train: is a section; its keys go below it, indented"),
        ("train: 3", "x.yaml:1: train: is a section; its keys go below it, indented"),
        ("seed: 1\nsteps: 3", "x.yaml:2: steps: unknown key, did you mean 'train.steps'?"),
        ("zzzz: 3", "x.yaml:1: zzzz: unknown key"),
        (
            "train: {steps: yes}",
            "x.yaml:1: train.steps: Input should be a valid integer, unable to parse string as an integer, not 'yes'",
        ),
        ("train: {steps: true}", "x.yaml:1: train.steps: Input should be a number, not true"),
        ("strength: .nan", "x.yaml:1: strength: Input should be a finite number, not .nan"),
        (
            "train: {learning_rate: .inf}",
            "x.yaml:1: train.learning_rate: Input should be a finite number, not .inf",
        ),
        ("eval: {data: 3}", "x.yaml:1: eval.data: Input should be a list, not 3"),
        ("task: quantize", "x.yaml:1: task: Input should be 'enhance', not quantize"),
        (
            "train: {learning_rate: 1e-7}",
            "x.yaml: recipe: train.min_learning_rate is above train.learning_rate",
        ),
    ],
)
def test_a_mistake_in_a_file(text: str, expected: str) -> None:
    assert mistakes(text) == [expected]


@pytest.mark.parametrize("text", ["seed: \x00", "a: !!python/object/apply:os.getcwd []", "\t- {", "a: *b"])
def test_what_is_not_plain_yaml_is_one_line_and_no_code_runs(text: str) -> None:
    (line,) = mistakes(text)
    assert line.startswith("x.yaml")
    assert "not valid YAML" in line


def test_numbers_that_yaml_reads_as_strings() -> None:
    recipe = load("train: {learning_rate: 1e-4, adam_eps: 5E-5}", "train.min_learning_rate=1e-5")
    assert (recipe.train.learning_rate, recipe.train.adam_eps) == (1e-4, 5e-5)
    assert recipe.train.min_learning_rate == 1e-5


# --- --set --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("a.b=3", "a.b", 3),
        ("a=[x, 2]", "a", ["x", 2]),
        ("a=no", "a", "no"),
        ("a=on", "a", "on"),
        ("a=True", "a", True),
        ("a=2024-01-01", "a", "2024-01-01"),
        ("a=", "a", None),
        ("a=null", "a", None),
        ("a=x=y", "a", "x=y"),
        (" a =1.5", "a", 1.5),
        ("a={b: 1}", "a", {"b": 1}),
        ("a='1'", "a", "1"),
        ("a=été", "a", "été"),
    ],
)
def test_set_values_are_yaml(text: str, key: str, value: Any) -> None:
    assert parse_set(text) == Override(f"--set {text}", key, value)


@pytest.mark.parametrize("text", ["a", "=3", " =3", "a=[1", "a=@x", "a=!!python/name:os.getcwd"])
def test_set_that_cannot_be_read(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_set(text)
    assert caught.value.place == f"--set {text}"


def test_set_overrides_in_order_and_into_sections_that_are_not_there() -> None:
    recipe = load(
        "train:\n  steps: 3\n", "train.steps=4", "train.steps=5", "network={dim: 4}", "network.d_state=2"
    )
    assert (recipe.train.steps, recipe.network.dim, recipe.network.d_state) == (5, 4, 2)
    assert load("train:\n", "train.steps=4").train.steps == 4


def test_a_flag_that_replaces_a_section_is_where_its_mistakes_are() -> None:
    assert mistakes("train:\n  foo: 1\n", "train={steps: 0, foo: 1}") == [
        "--set train={steps: 0, foo: 1}: train.steps: Input should be greater than or equal to 1, not 0",
        "--set train={steps: 0, foo: 1}: train.foo: unknown key",
    ]


def test_set_changes_one_of_two_sections_that_share_an_anchor() -> None:
    class Two(Recipe):
        one: ToyTrain
        two: ToyTrain

    text = "task: t\nmethod: m\none: &a {steps: 7}\ntwo: *a\n"
    recipe = load_recipe(Two, text, "x.yaml", [parse_set("two.steps=8")])
    assert (recipe.one.steps, recipe.two.steps) == (7, 8)


# --- dump and difference ------------------------------------------------------------------------------

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(
    [
        "a\nb",
        "...",
        "---",
        "null",
        "1e-4",
        "yes",
        "a: b",
        "#x",
        " x ",
        "\n",
        "a\x85b",
        "\u2028",
        "'",
        '"\\',
        "%",
        "@",
        "☃",
    ]
)


@given(
    note=st.none() | TEXTS,
    learning_rate=st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    comments=st.booleans(),
)
def test_dump_and_load_are_inverse(note: str | None, learning_rate: float, comments: bool) -> None:
    recipe = ToyRecipe(train=ToyTrain(note=note, learning_rate=learning_rate))
    text = dump_recipe(recipe, comments=comments)
    assert load_recipe(ToyRecipe, text, "x.yaml") == recipe


def test_dump_explains_each_key() -> None:
    text = dump_recipe(ToyRecipe())
    assert "# Steps of the first loop.\n  steps: 24\n" in text


def test_difference_names_the_first_key_that_differs() -> None:
    recipe = ToyRecipe()
    assert difference(recipe, ToyRecipe()) is None
    assert difference(recipe, ToyRecipe(seed=1)) == "seed: 0 -> 1"
    assert difference(recipe, ToyRecipe(train=ToyTrain(note="x"))) == "train.note: None -> 'x'"


# --- files --------------------------------------------------------------------------------------------


def test_reading_by_name_file_and_run_directory(tmp_path: Path) -> None:
    text, place = read_recipe("enhance", "default")
    assert place == "recipes/enhance/default.yaml"
    (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
    assert read_recipe("enhance", str(tmp_path)) == (text, str(tmp_path / "recipe.yaml"))
    assert read_recipe("enhance", str(tmp_path / "recipe.yaml"))[0] == text


def test_a_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    file = tmp_path / "windows.yaml"
    file.write_bytes("\ufefftask: enhance\r\nseed: 4\r\n".encode())
    assert load(read_recipe("enhance", str(file))[0]).seed == 4


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("task: enhance # é".encode("latin-1"))
    folder = tmp_path / "folder.yaml"
    folder.mkdir()
    for name, reason in [(latin, "is not a text file in UTF-8"), (folder, "is a folder, not a recipe")]:
        with pytest.raises(UsageError) as caught:
            read_recipe("enhance", str(name))
        assert (caught.value.place, caught.value.message) == (str(name), reason)
    with pytest.raises(UsageError, match="no recipe") as caught:
        read_recipe("enhance", "defalt")
    assert caught.value.hint == "did you mean 'default'?"
    with pytest.raises(UsageError, match="is a folder, not a claim"):
        read_claim("enhance", str(folder))


def test_the_task_of_a_file() -> None:
    assert task_of("task: enhance\n", "x.yaml") == "enhance"
    for text in ("seed: 1", "task: 3", "[1]", ""):
        with pytest.raises(RecipeError, match="has no 'task:' key"):
            task_of(text, "x.yaml")


def test_an_unknown_task_names_the_nearest() -> None:
    with pytest.raises(UsageError) as caught:
        get_task("enhanse")
    assert caught.value.hint == "did you mean 'enhance'?"
    assert shipped_recipes("no-such-task") == []


# --- what is shipped ----------------------------------------------------------------------------------


def test_every_shipped_file_belongs_to_a_task() -> None:
    root = Path(str(files("effcli.recipes")))
    found = {path.relative_to(root).as_posix() for path in root.rglob("*.yaml")}
    known = {f"{task.replace('-', '_')}/{name}.yaml" for task, name in RECIPES}
    known |= {f"{task.replace('-', '_')}/claims/{name}.yaml" for task, name in CLAIMS}
    assert found == known


@pytest.mark.parametrize(("task", "name"), RECIPES)
def test_shipped_recipe_is_valid_and_survives_a_round_trip(task: str, name: str) -> None:
    text, place = read_recipe(task, name)
    recipe = load_recipe(get_task(task).recipe_class, text, place)
    assert task_of(text, place) == recipe.task == task
    assert load_recipe(type(recipe), dump_recipe(recipe), place) == recipe


@pytest.mark.parametrize(("task", "name"), CLAIMS)
def test_shipped_claim_is_valid_and_its_arms_resolve_and_differ(task: str, name: str, tmp_path: Path) -> None:
    claim, loaded = load_claim(task, name)
    assert (claim.task, loaded) == (task, name)
    for names in claim.data.values():
        for file in [names] if isinstance(names, str) else names:
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).touch()
    recipes = [arm_recipe(claim, arm, 0, tmp_path) for arm in claim.arms]
    assert len({dump_recipe(recipe) for recipe in recipes}) == len(recipes)


class Trained(Section):
    steps: int = 3


class General(Recipe):
    absent: ClassVar = {"train": "nothing is trained", "keep": "nothing is kept"}


class Training(General):
    train: Trained = Trained()


@pytest.mark.parametrize(
    ("model", "override", "message"),
    [
        (
            General,
            Override("--steps", "train.steps", 3),
            "--steps: train.steps: not a setting of this method",
        ),
        (General, Override("-s", "keep", 3), "-s: keep: not a setting of this method: nothing is kept"),
        (Training, Override("-s", "train.foo", 3), "-s: train.foo: unknown key"),
    ],
)
def test_a_key_that_other_methods_have_says_why_this_one_has_not(
    model: type[Recipe], override: Override, message: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(model, "task: toy\nmethod: toy", "x.yaml", [override])
    assert str(caught.value).startswith(message)
