"""What inspect says of a set."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from effcli.continual.egor.data.inspection import chosen, describe, save_sheet
from effcli.continual.egor.data.sources import load_all
from tests.continual.egor.data.labels.exports import published_coco


def test_numbers_of_each_part_and_a_sheet(tmp_path: Path) -> None:
    published_coco(tmp_path / "set")
    parts = load_all(str(tmp_path / "set"))
    assert list(parts) == ["train", "val"]
    described = describe(parts["train"])
    assert described["classes"] == {"cat": 2, "dog": 2}
    assert (described["images"], described["images_without_boxes"], described["boxes"]) == (4, 1, 4)
    assert (described["boxes_small"], described["boxes_medium"], described["boxes_large"]) == (3, 1, 0)
    assert described["width"] == {"smallest": 80, "median": 80, "largest": 80}
    assert any("hair drier" in note for note in described["notes"])
    save_sheet(parts, tmp_path / "sheet.png", 3)
    assert Image.open(tmp_path / "sheet.png").size == (3 * 324, 324)


def test_the_sheet_shows_all_classes_first(tmp_path: Path) -> None:
    published_coco(tmp_path / "set")
    found = load_all(str(tmp_path / "set"))["train"]
    assert chosen(found, 1) == [1]  # which shows both
    assert sorted(chosen(found, 4)) == [0, 1, 2, 3]
    assert 2 not in chosen(found, 3)  # nothing is in it
