"""The same four pictures with boxes as each annotation tool exports them."""

from __future__ import annotations

import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from effcli.continual.egor.data.detection_sets import DetectionSet
from effcli.continual.egor.data.sources import has_parts, load_detection
from tests.continual.egor.data.labels.exports import CLASSES, HELD_OUT, PICTURES, WHOLE_SETS, WITH_PARTS, Box


def boxes_of(found: DetectionSet) -> dict[str, list[Box]]:
    """By the pictures' own names, which are their grey values."""
    shown: dict[str, list[Box]] = {}
    for i, objects in enumerate(found.objects):
        name = f"{chr(int(found.read(i)[0, 0, 0]))}.png"
        rounded = objects.boxes.round(decimals=3).tolist()
        labels = [found.classes[label] for label in objects.labels.tolist()]
        shown[name] = [(label, *map(int, box)) for label, box in zip(labels, rounded, strict=True)]
        assert all(float(value).is_integer() for box in rounded for value in box)
    return shown


def as_lists(entries: Mapping[str, Sequence[Box]]) -> dict[str, list[Box]]:
    return {name: list(boxes) for name, boxes in entries.items()}


@pytest.mark.parametrize("tool", [*WITH_PARTS, *WHOLE_SETS])
def test_an_export_is_read(tool: str, tmp_path: Path) -> None:
    (WITH_PARTS | WHOLE_SETS)[tool](tmp_path / "set")
    found = load_detection(str(tmp_path / "set"), "train")
    assert boxes_of(found) == as_lists(PICTURES)
    assert (found.classes, found.mended, found.kind) == (CLASSES, 0, tool.split(",")[0])
    assert has_parts(str(tmp_path / "set")) == (tool in WITH_PARTS)
    if tool in WITH_PARTS:
        assert boxes_of(load_detection(str(tmp_path / "set"), "eval")) == as_lists(HELD_OUT)


@pytest.mark.parametrize("tool", [*WITH_PARTS, *WHOLE_SETS])
def test_a_tar_of_it_too(tool: str, tmp_path: Path) -> None:
    (WITH_PARTS | WHOLE_SETS)[tool](tmp_path / "set")
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        archive.add(tmp_path / "set", ".")
    assert boxes_of(load_detection(str(tmp_path / "set.tar"), "train")) == as_lists(PICTURES)


def test_classes_without_boxes_are_dropped_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    WITH_PARTS["COCO, Roboflow"](tmp_path / "set")
    found = load_detection(str(tmp_path / "set"), "train")
    assert found.classes == CLASSES
    assert "1 class without any box is dropped: pets" in found.notes
    assert any("pets" in message for message in caplog.messages)
