"""Cutting a set into tasks: every form of a split, labels that stay with their images, and what does not fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from effcli.continual.class_splits import (
    class_order,
    further_task,
    hold_out,
    limit_per_class,
    merged,
    parse_split,
    split_classes,
)
from effcli.continual.stream import load_stream
from effcli.core.errors import UsageError
from effcli.data.image_sets import ImageSet
from tests.continual.streams import tiny_recipe

NAMES = ("ant", "bee", "cat", "dog", "elk", "fox")


def set_of(n_each: int = 4, names: tuple[str, ...] = NAMES, first_value: int = 0) -> ImageSet:
    """Each pixel of an image is the number of its class, so that a wrong label shows."""
    labels = torch.arange(len(names)).repeat(n_each)
    images = (labels + first_value).to(torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2).contiguous()
    return ImageSet(images, labels, names)


@pytest.mark.parametrize(
    ("tasks", "n_classes", "sizes"),
    [
        (3, 6, [2, 2, 2]),
        (1, 6, [6]),
        ("50+10x5", 100, [50] + [5] * 10),
        ("6+6", 12, [6, 6]),
        ("40+20+20", 80, [40, 20, 20]),
        ("2x3+4", 10, [3, 3, 4]),
        ("4 + 1x2", 6, [4, 2]),
        ((1, 2, 3), 6, [1, 2, 3]),
        ((("a", "b"), ("c",)), 3, [2, 1]),
    ],
)
def test_ways_of_writing_a_split(tasks: Any, n_classes: int, sizes: list[int]) -> None:
    assert parse_split(tasks, n_classes) == sizes


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (4, "6 classes cannot be split into 4 tasks"),
        (7, "6 classes cannot be split into 7 tasks"),
        ("2+3x1", r"tasks of \[2, 1, 1, 1\] classes do not add up to 6 classes"),
        ((3, 3, 0), r"\[3, 3, 0\]"),
        ((7, -1), r"\[7, -1\]"),
        ("half", "cannot read 'half'"),
    ],
)
def test_splits_that_do_not_fit(tasks: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_split(tasks, 6)


def test_a_split_into_unequal_tasks_is_suggested() -> None:
    with pytest.raises(UsageError) as caught:
        parse_split(4, 10)
    assert caught.value.hint == "give the sizes: [3, 3, 2, 2]"


def test_the_order_is_that_of_the_data_of_a_seed_or_of_the_names() -> None:
    assert class_order(NAMES, 3, None) == [0, 1, 2, 3, 4, 5]
    drawn = class_order(NAMES, 3, 1)
    assert drawn == class_order(NAMES, 3, 1) != class_order(NAMES, 3, 2)
    assert sorted(drawn) == [0, 1, 2, 3, 4, 5]
    named = (("fox", "ant"), ("cat", "dog"), ("bee", "elk"))
    assert class_order(NAMES, named, 1) == [5, 0, 2, 3, 1, 4]


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ((("ant", "bae"), ("cat", "dog", "elk", "fox")), "no class 'bae'"),
        ((("ant", "bee"), ("cat", "dog", "elk")), "not so fox"),
        ((("ant", "bee"), ("cat", "dog", "elk", "fox", "ant")), "not so ant"),
    ],
)
def test_names_that_do_not_fit(named: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        class_order(NAMES, named, None)


@pytest.mark.parametrize("tasks", [3, (1, 5), (("fox", "ant"), ("cat", "dog"), ("bee", "elk"))])
@pytest.mark.parametrize("seed", [None, 3])
def test_labels_stay_with_their_images(tasks: Any, seed: int | None) -> None:
    found = split_classes(set_of(), set_of(2), tasks, seed)
    names = [name for task in found for name in task.classes]
    assert sorted(names) == list(NAMES)
    start = 0
    for number, task in enumerate(found):
        assert (task.number, task.first_class) == (number, start)
        for part, n_each in ((task.train, 4), (task.eval, 2)):
            assert len(part) == n_each * len(task.classes) and part.classes == task.classes
            for image, label in zip(part.images, part.labels.tolist(), strict=True):
                assert NAMES[int(image[0, 0, 0])] == task.classes[label - start] == names[label]
        start = task.end_class


def test_a_class_without_images_in_one_part_is_refused_by_its_name() -> None:
    whole, some = set_of(), set_of(2)
    with pytest.raises(UsageError, match="no training images of the classes ant"):
        split_classes(whole.rows(whole.labels != 0), some, 3, None)
    with pytest.raises(UsageError, match=r"fox \(no images to measure on\); gnu \(no images to learn"):
        split_classes(whole, set_of(2, (*NAMES[:5], "gnu")), 3, None)


def test_a_further_task_goes_on_counting() -> None:
    tasks = split_classes(set_of(), set_of(2), 3, None)
    new = further_task(tasks, set_of(3, ("gnu", "hen"), 50), set_of(1, ("gnu", "hen"), 50))
    assert (new.number, new.first_class, new.end_class, new.classes) == (3, 6, 8, ("gnu", "hen"))
    assert torch.equal(new.train.images[:, 0, 0, 0].long() - 50, new.train.labels - 6)
    assert new.answers == [6, 7] and new.n_before == ()


def test_more_images_of_known_classes_are_a_task_too() -> None:
    tasks = split_classes(set_of(), set_of(2), 3, None)
    names = ("fox", "cat", "gnu")
    new = further_task(tasks, set_of(3, names, 50), set_of(1, names, 50))
    assert (new.classes, new.first_class, new.end_class, new.answers) == (("gnu",), 6, 7, [2, 5, 6])
    assert new.names() == ("gnu", "more of cat", "more of fox")
    assert new.n_before == (4,) * 6  # the training images of each known class
    for image, label in zip(new.train.images, new.train.labels.tolist(), strict=True):
        assert names[int(image[0, 0, 0]) - 50] == (*NAMES, "gnu")[label]
    alone = further_task([*tasks, new], set_of(2, ("gnu",), 70), set_of(1, ("gnu",), 70))
    assert (alone.classes, alone.answers, alone.n_before) == ((), [6], (4, 4, 7, 4, 4, 7, 3))


def test_a_class_without_a_test_image_is_learned_and_not_measured(caplog: pytest.LogCaptureFixture) -> None:
    some = set_of(2)
    tasks = split_classes(set_of(), some.rows(some.labels != 4), 3, None)
    assert [len(task.eval) for task in tasks] == [4, 4, 2]
    assert "without a test image: elk" in caplog.text


@pytest.mark.parametrize(
    ("n", "sizes"), [(10, [2] * 5), (12, [3, 3, 2, 2, 2]), (5, [3, 2]), (3, [3]), (2, [2])]
)
def test_a_split_that_fits_is_up_to_five_tasks_of_two_classes_or_more(n: int, sizes: list[int]) -> None:
    assert parse_split("auto", n) == sizes


def test_the_first_images_of_each_class() -> None:
    torch.manual_seed(0)
    images = set_of(10).rows(torch.randperm(60))
    found = limit_per_class(images, 3)
    counts, wanted = dict.fromkeys(range(6), 0), []
    for row, label in enumerate(images.labels.tolist()):
        counts[label] += 1
        if counts[label] <= 3:
            wanted.append(row)
    assert torch.equal(found.labels, images.labels[wanted]) and len(found) == 18
    assert len(limit_per_class(images, 99)) == 60 and limit_per_class(images, None) is images


def test_a_part_of_each_class_is_held_out() -> None:
    whole = set_of(10)
    numbered = ImageSet(torch.arange(60)[:, None, None, None], whole.labels, whole.classes)
    train, held = hold_out(numbered, 0.2, seed=0)
    assert (
        torch.bincount(train.labels).tolist() == [8] * 6 and torch.bincount(held.labels).tolist() == [2] * 6
    )
    rows = torch.cat([train.images, held.images]).flatten()
    assert sorted(rows.tolist()) == list(range(60))
    again, other = hold_out(numbered, 0.2, seed=0)[1], hold_out(numbered, 0.2, seed=1)[1]
    assert torch.equal(again.images, held.images) and not torch.equal(other.images, held.images)


def test_of_few_images_one_is_held_out_and_one_is_left() -> None:
    train, held = hold_out(set_of(2), 0.01, seed=0)
    assert torch.bincount(held.labels).tolist() == torch.bincount(train.labels).tolist() == [1] * 6
    train, held = hold_out(set_of(2), 0.99, seed=0)
    assert torch.bincount(train.labels, minlength=6).tolist() == [1] * 6
    train, held = hold_out(set_of(1), 0.5, seed=0)
    assert len(train) == 6 and len(held) == 0


def test_all_tasks_together_are_the_set() -> None:
    tasks = split_classes(set_of(), set_of(2), 3, 1)
    whole = merged(tasks)
    assert len(whole) == 24 and whole.classes == tuple(name for task in tasks for name in task.classes)
    assert all(
        NAMES[int(image[0, 0, 0])] == whole.classes[label]
        for image, label in zip(whole.images, whole.labels.tolist(), strict=True)
    )


def test_the_order_may_follow_the_seed_of_the_recipe() -> None:
    def order(seed: int, setting: str) -> list[str]:
        recipe = tiny_recipe("sgd", f"seed={seed}", f"data.order_seed={setting}", "data.train_per_class=2")
        return [name for task in load_stream(recipe) for name in task.classes]

    assert order(0, "seed") == order(5, "0")
    assert order(5, "seed") == order(0, "5") != order(0, "0")
