"""What becomes of each class, from known answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from effcli.continual.evaluation.class_report import (
    class_metrics,
    confusion_of,
    draw_classes,
    unbalance,
    write_classes,
)

NAMES = ("ant", "bee", "cat")
DETAILS: dict[str, Any] = {
    "labels": torch.tensor([0, 0, 0, 0, 1, 1]),
    "answers": torch.tensor([0, 0, 0, 2, 0, 2]),
    "n_train": torch.tensor([40, 8, 9]),
    "calibration": None,
}


def test_the_confusion_matrix_counts_answers() -> None:
    assert confusion_of(DETAILS).tolist() == [[3, 0, 1], [1, 0, 1], [0, 0, 0]]


def test_all_measured_classes_count_alike() -> None:
    found = class_metrics(DETAILS, NAMES)
    assert found["per_class_mean"] == pytest.approx((0.75 + 0) / 2)  # cat has no test image
    assert found["per_class_worst"] == 0
    assert (found["smallest_class_images"], found["largest_class_images"]) == (8, 40)
    assert found["most_confused"] == [
        "ant taken for cat: 1 of 4",
        "bee taken for ant: 1 of 2",
        "bee taken for cat: 1 of 2",
    ]


def test_without_test_images_nothing_is_claimed() -> None:
    empty = {**DETAILS, "labels": torch.zeros(0).long(), "answers": torch.zeros(0).long()}
    assert class_metrics(empty, NAMES)["per_class_mean"] is None
    assert class_metrics(empty, NAMES)["most_confused"] == []


def test_unbalanced_data_are_said() -> None:
    text = unbalance(DETAILS, NAMES)
    assert text is not None and text.startswith("unbalanced: 40 training images of ant, 8 of bee")
    assert unbalance({**DETAILS, "n_train": torch.tensor([24, 8, 9])}, NAMES) is None


def test_a_line_per_class(tmp_path: Path) -> None:
    write_classes(DETAILS, ("ant", 'b,"e', "cat"), tmp_path / "classes.csv")
    assert (tmp_path / "classes.csv").read_text().splitlines() == [
        "class,train_images,test_images,right,accuracy,most_taken_for",
        "ant,40,4,3,0.75,cat",
        '"b,""e",8,2,0,0.0,ant',
        "cat,9,0,0,,",
    ]


@pytest.mark.slow
def test_a_figure_of_few_and_of_many_classes(tmp_path: Path) -> None:
    draw_classes(DETAILS, ("$x_$", "b", "c"), tmp_path / "few.png")
    labels = torch.arange(120)
    many = {"labels": labels, "answers": labels.flip(0), "n_train": torch.ones(120).long()}
    draw_classes(many, [str(one) for one in range(120)], tmp_path / "many.png")
    assert min((tmp_path / name).stat().st_size for name in ("few.png", "many.png")) > 5000
