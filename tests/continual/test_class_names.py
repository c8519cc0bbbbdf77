"""Names of classes that look the same, and images that are there twice."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from effcli.continual.class_names import say_alike, spelled_as
from effcli.continual.recipe import ContinualRecipe
from effcli.continual.stream import load_stream
from effcli.core.recipe import parse_set
from effcli.core.registry import find_recipe
from effcli.data.image_sets import ImageSet

NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


def save_class(folder: Path, first: int, n: int = 6) -> None:
    folder.mkdir(parents=True)
    for number in range(first, first + n):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")


def recipe_for(data: Path) -> ContinualRecipe:
    sets = [f"data.source={data}", "data.side=8", "data.tasks=1"]
    recipe = find_recipe("continual", "er", [parse_set(one) for one in sets])
    assert isinstance(recipe, ContinualRecipe)
    return recipe


def test_a_name_in_two_unicode_forms_is_one_class() -> None:
    images = ImageSet(
        torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 2, 0]), (NFD, NFC, "dog")
    )
    found = spelled_as(images)
    assert (found.classes, found.labels.tolist()) == ((NFD, "dog"), [0, 0, 1, 0])
    assert spelled_as(images, (NFC,)).classes == (NFC, "dog")
    assert spelled_as(found, (NFD,)) is found


def test_parts_may_spell_their_classes_in_another_unicode_form(tmp_path: Path) -> None:
    for number, name in enumerate((f"train/{NFC}", "train/dog", f"test/{NFD}", "test/dog")):
        save_class(tmp_path / name, 10 * number)
    (task,) = load_stream(recipe_for(tmp_path))
    assert task.classes == (NFC, "dog")
    assert torch.bincount(task.eval.labels).tolist() == [6, 6]


@pytest.mark.parametrize("pair", [("Cat", "cat"), ("01", "1"), ("polar bear", "polar_bear"), ("dog", "dog ")])
def test_names_that_are_easily_confused_are_said(
    pair: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    say_alike(pair, (), "one")
    say_alike(pair[1:], pair[:1], "two")
    assert caplog.text.count(f"leading zeros: {pair[0]!r} and {pair[1]!r}") == 2


def test_different_names_are_not_said(caplog: pytest.LogCaptureFixture) -> None:
    say_alike(("1", "10", "100", "-1", "1.5", "15", "0", "cat", "cats"), ("dog",), "place")
    assert not caplog.text


def test_images_that_are_there_twice_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number, name in enumerate(("train/cat", "train/dog", "test/cat", "test/dog")):
        save_class(tmp_path / name, 10 * number)
    load_stream(recipe_for(tmp_path))
    assert not caplog.text
    picture = (tmp_path / "train/cat/0.png").read_bytes()
    (tmp_path / "train/dog/copy.png").write_bytes(picture)
    (tmp_path / "test/cat/copy.png").write_bytes(picture)
    load_stream(recipe_for(tmp_path))
    assert "in more than one class: 1 image, such as in 'cat' and 'dog'" in caplog.text
    assert "1 of 13 test images is also among those to learn from" in caplog.text
