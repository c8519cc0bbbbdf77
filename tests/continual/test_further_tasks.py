"""Tasks that are added to a run and taken back: what was learned is compared, not paths, and nothing is half done."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from effcli.continual.evaluation import measuring
from effcli.continual.further_tasks import begin_task, longer_recipe, shorter_recipe, take_back
from effcli.continual.pipeline import plan_run, run
from effcli.continual.recipe import ContinualRecipe
from effcli.continual.records import known_tasks
from effcli.continual.stream import load_stream
from effcli.core.errors import InputError, UsageError
from effcli.core.recipe import parse_set
from effcli.core.registry import find_recipe, recipe_of_run
from effcli.core.run import open_run
from effcli.core.runtime import create_runtime

pytestmark = pytest.mark.slow


def save_class(folder: Path, name: str, n: int = 6, first: int = 0) -> None:
    """Pictures of a colour of their own; those from ``first`` on are other ones."""
    colour = np.random.default_rng(ord(name[0])).integers(40, 216, 3)
    (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(first, first + n):
        noise = np.random.default_rng((ord(name[0]), number)).integers(-30, 30, (8, 8, 3))
        Image.fromarray(np.clip(colour + noise, 0, 255).astype(np.uint8)).save(
            folder / name / f"{number}.png"
        )


def recipe_for(data: Path, method: str = "er", *settings: str) -> ContinualRecipe:
    small = ["data.side=8", "data.channels=3", "network.width=2", "data.tasks=2", "train.epochs=1"]
    small += ["train.first_epochs=1"] if method in {"ir", "frozen-ncm"} else []
    small += ["buffer.size=4", "buffer.batch_size=2"] if method not in {"ir", "frozen-ncm", "sgd"} else []
    if method == "frozen-ncm":
        small.remove("train.epochs=1")
    sets = [parse_set(one) for one in (*small, f"data.source={data}", *settings)]
    recipe = find_recipe("continual", method, sets)
    assert isinstance(recipe, ContinualRecipe)
    return recipe


def learn(place: Path, recipe: ContinualRecipe) -> dict[str, Any]:
    """What the command does with ``--resume -o PLACE``."""
    runtime = create_runtime(device="cpu", precision="fp32", seed=recipe.seed, threads=1)
    plan = plan_run(recipe, place)
    with open_run(place, recipe, runtime, verb="run", recipe_name="er", resume=True) as opened:
        if not opened.is_finished:
            run(recipe, plan.inputs, opened)
    content: dict[str, Any] = json.loads((place / "result.json").read_text())["metrics"]
    return content


def add(place: Path, folder: Path) -> dict[str, Any]:
    """``--tasks-dir FOLDER --resume -o PLACE``."""
    longer = longer_recipe(place, folder)
    plan_run(longer, place)
    begin_task(place, longer)
    return learn(place, longer)


def undo(place: Path) -> dict[str, Any]:
    """``--undo -o PLACE``."""
    shorter = shorter_recipe(place)
    take_back(place, shorter)
    return learn(place, shorter)


def checksums(place: Path) -> dict[str, str]:
    return {
        str(file.relative_to(place)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(place.rglob("*"))
        if file.is_file()
    }


def weights(place: Path) -> dict[str, Any]:
    return {name: value.tolist() for name, value in load_file(place / "model/classifier.safetensors").items()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder ``data`` with classes a to d, and a run ``run`` that learned them."""
    folder = tmp_path_factory.mktemp("further")
    for name in "abcd":
        save_class(folder / "data", name)
    learn(folder / "run", recipe_for(folder / "data"))
    return folder


@pytest.fixture
def place(finished: Path, tmp_path: Path) -> Path:
    """A copy of the run beside its data, and a folder with two new classes."""
    shutil.copytree(finished / "run", tmp_path / "run")
    for name in "xy":
        save_class(tmp_path / "new", name)
    return tmp_path


def refuse(place: Path, folder: Path, error: type[Exception], message: str) -> None:
    before = checksums(place / "run")
    with pytest.raises(error, match=message):
        plan_run(longer_recipe(place / "run", folder), place / "run")
    assert checksums(place / "run") == before


def test_a_refused_task_leaves_every_byte(place: Path) -> None:
    refuse(place, place / "nowhere", InputError, "no such file or folder")
    refuse(place, place / "new" / "x", InputError, "has no classes")
    save_class(place / "one", "z", n=1)
    refuse(place, place / "one", UsageError, "a single training image")
    recipe = recipe_of_run("continual", place / "run")
    assert isinstance(recipe, ContinualRecipe)
    refuse(place, Path(recipe.data.source), UsageError, "nothing new: all its 24 training images")


def test_a_single_class_and_nested_ones_are_said(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_class(place / "one", "a")
    with pytest.raises(UsageError, match="has a single class, 'a'; at least two"):
        load_stream(recipe_for(place / "one"))
    for name in "cd":
        save_class(place / "one" / "b", name)
    load_stream(recipe_for(place / "one"))
    assert "count for that class: b/c, b/d" in caplog.text


def test_an_undone_task_leaves_what_was_there(place: Path) -> None:
    before, numbers = weights(place / "run"), (place / "run" / "metrics.jsonl").read_text()
    kept = json.loads((place / "run" / "result.json").read_text())["metrics"]
    longer = add(place / "run", place / "new")
    assert longer["classes"] == [["a", "b"], ["c", "d"], ["x", "y"]]
    first = weights(place / "run")
    assert first != before
    shutil.rmtree(place / "new")  # to take a task back nothing of it is needed
    found = undo(place / "run")
    assert found["classes"] == kept["classes"] and found["accuracy_matrix"] == kept["accuracy_matrix"]
    assert weights(place / "run") == before and (place / "run" / "metrics.jsonl").read_text() == numbers
    with pytest.raises(UsageError, match="no added task to remove"):
        undo(place / "run")
    for name in "xy":
        save_class(place / "again", name)
    add(place / "run", place / "again")
    assert weights(place / "run") == first  # as if it had not been taken back


def test_what_was_learned_is_compared_and_not_paths(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    add(place / "run", place / "new")
    before = checksums(place / "run")
    assert add(place / "run", place / "new")["classes"][2:] == [["x", "y"]]
    assert checksums(place / "run") == before  # the same command again
    save_class(place / "new", "z")
    assert add(place / "run", place / "new")["classes"][2:] == [["x", "y"], ["z"]]
    assert "left out, learned already: 12 images" in caplog.text


def test_a_renamed_class_is_told_from_a_new_one(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    recipe = recipe_of_run("continual", place / "run")
    assert isinstance(recipe, ContinualRecipe)
    data = Path(recipe.data.source)
    (data / "a").rename(data / "z")
    load_stream(recipe, known_tasks(place / "run"))
    assert "('a' is called 'z' there: a run keeps the names" in caplog.text
    (data / "z").rename(data / "a")
    shutil.copytree(data / "b", place / "new" / "beta")
    refuse(place, place / "new", UsageError, "6 images of the class 'beta' have been learned as 'b'")
    (place / "new" / "beta").rename(place / "new" / "c")
    plan_run(longer_recipe(place / "run", place / "new"), place / "run")
    assert "learned as another class before, which is not undone: 6 images" in caplog.text


@pytest.mark.parametrize("method", ["er", "clfd-er", "e2net", "ir"])
def test_more_images_of_a_known_class_are_more_data(method: str, tmp_path: Path) -> None:
    for name in "abcd":
        save_class(tmp_path / "data", name)
    settings = ["frequency.enabled=true"] if method == "clfd-er" else []
    learn(tmp_path / "run", recipe_for(tmp_path / "data", method.removeprefix("clfd-"), *settings))
    save_class(tmp_path / "new", "a", first=10)
    assert add(tmp_path / "run", tmp_path / "new")["classes"] == [["a", "b"], ["c", "d"], []]
    save_class(tmp_path / "new", "e")
    metrics = add(tmp_path / "run", tmp_path / "new")
    assert metrics["classes"] == [["a", "b"], ["c", "d"], [], ["e"]]
    assert len(metrics["accuracy_matrix"][-1]) == 4


def test_a_prototype_becomes_the_mean_over_all_images(tmp_path: Path) -> None:
    """With features that stay it does not matter whether a class comes at once or in two parts."""
    for name in "abcd":
        save_class(tmp_path / "parts" / "train", name, n=5)
        save_class(tmp_path / "whole" / "train", name, n=9 if name == "c" else 5)
        for folder in ("parts", "whole"):
            save_class(tmp_path / folder / "val", name, n=2, first=20)
    for folder in ("parts", "whole"):
        learn(tmp_path / f"run-{folder}", recipe_for(tmp_path / folder, "frozen-ncm"))
    save_class(tmp_path / "more" / "train", "c", n=4, first=5)
    save_class(tmp_path / "more" / "val", "c", n=1, first=30)
    add(tmp_path / "run-parts", tmp_path / "more")
    parts, whole = weights(tmp_path / "run-parts"), weights(tmp_path / "run-whole")
    name = "classifier.head.weight"
    np.testing.assert_allclose(parts[name], whole[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", ["default", "ir"])
def test_old_images_are_needed_only_to_measure_again(
    method: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def prepare(folder: str) -> None:
        for name in "abcd":
            save_class(tmp_path / folder, name)
        learn(tmp_path / f"run-{folder}", recipe_for(tmp_path / folder, method))

    for name in "xy":
        save_class(tmp_path / "new", name)
    for folder in ("there", "gone"):
        prepare(folder)
    shutil.rmtree(tmp_path / "gone")
    there, gone = add(tmp_path / "run-there", tmp_path / "new"), add(tmp_path / "run-gone", tmp_path / "new")
    assert "its tasks stay learned, but are not measured again" in caplog.text
    assert weights(tmp_path / "run-there") == weights(tmp_path / "run-gone")
    assert gone["accuracy_matrix"][:2] == there["accuracy_matrix"][:2]
    assert gone["accuracy_matrix"][2][:2] == [None, None]
    assert gone["accuracy_matrix"][2][2] == there["accuracy_matrix"][2][2]
    runtime = create_runtime(device="cpu", precision="fp32", seed=0, threads=1)
    measured = measuring.evaluate_run(tmp_path / "run-gone", None, runtime).metrics
    assert measured["per_class"].keys() == {"x", "y"}


def test_test_images_stay_test_images_wherever_they_lie(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With more pictures a new share would be held out, and some of it would be learned images."""
    recipe = recipe_of_run("continual", place / "run")
    assert isinstance(recipe, ContinualRecipe)
    data = place / "data"
    shutil.copytree(recipe.data.source, data)
    held = load_stream(recipe_for(data))
    learn(place / "other", recipe_for(data))
    for file in sorted(data.rglob("*.png")):
        file.rename(file.with_name(f"renamed-{file.name}"))
    for name in "abcd":
        save_class(data, name, n=3, first=50)
    metrics = add(place / "other", place / "new")
    assert None not in metrics["accuracy_matrix"][2]
    next(data.glob("d/renamed-*")).unlink()
    from effcli.continual.records import digests_of, known_tasks

    again = load_stream(recipe_of_run("continual", place / "other"), known_tasks(place / "other"))  # type: ignore[arg-type]
    for old, new in zip(held, again, strict=False):
        before, now = digests_of(old.eval.images).tolist(), digests_of(new.eval.images).tolist()
        assert set(now) <= set(before) and len(now) >= len(before) - 1


def test_an_interrupted_task_needs_its_own_images(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    longer = longer_recipe(place / "run", place / "new")
    begin_task(place / "run", longer)
    shutil.copytree(place / "run", place / "copy")

    def stop_after(n: int) -> Callable[..., Any]:
        from effcli.continual.methods.er import Er

        original, calls = Er.after_step, [0]

        def after_step(self: Any, *arguments: Any) -> None:
            original(self, *arguments)
            calls[0] += 1
            if calls[0] == n:
                raise KeyboardInterrupt

        return after_step

    monkeypatch.setattr("effcli.continual.methods.er.Er.after_step", stop_after(1))
    with pytest.raises(KeyboardInterrupt):
        learn(place / "run", longer)
    monkeypatch.undo()
    (place / "new" / "x" / "0.png").rename(place / "0.png")
    with pytest.raises(InputError, match="of 10 training images of task 3, which is not learned yet"):
        plan_run(longer, place / "run")
    (place / "0.png").rename(place / "new" / "x" / "other-name.png")
    save_class(place / "new", "w")  # not part of the task that was begun
    assert learn(place / "run", longer)["classes"][2] == ["x", "y"]
    shutil.rmtree(place / "new" / "w")
    (place / "new" / "x" / "other-name.png").rename(place / "new" / "x" / "0.png")
    learn(place / "copy", longer)
    assert weights(place / "run") == weights(place / "copy")


def test_numbered_classes_without_images_do_not_exist(tmp_path: Path) -> None:
    """Labels that begin with 1, or of which one is missing."""
    draws = np.random.default_rng(0)
    labels = np.array([1, 2, 4, 5] * 3)
    arrays: dict[str, Any] = {
        name: draws.integers(0, 256, (12, 8, 8), dtype=np.uint8) for name in ("x_train", "x_test")
    }
    np.savez(tmp_path / "x.npz", **arrays, y_train=labels, y_test=labels)
    tasks = load_stream(recipe_for(tmp_path / "x.npz"))
    assert [task.classes for task in tasks] == [("1", "2"), ("4", "5")]
    assert sorted(tasks[1].train.labels.tolist()) == [2, 2, 2, 3, 3, 3]
