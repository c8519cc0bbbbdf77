"""What was found, written as labels and read as labels."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from PIL import Image

from effcli.continual.egor.data.sources import load_detection
from effcli.continual.egor.detecting.formats import CocoFile, objects_of, yolo_text
from effcli.continual.egor.detectors.detector import Detections

CLASSES = ("cat", "dog")
FOUND = Detections(
    torch.tensor([[4.0, 6, 30, 40], [10, 8, 50, 28]]), torch.tensor([0.9, 0.51234]), torch.tensor([1, 0])
)


def test_objects_name_their_class() -> None:
    assert objects_of(FOUND, CLASSES) == [
        {"class": "dog", "score": 0.9, "box": [4, 6, 30, 40]},
        {"class": "cat", "score": 0.5123, "box": [10, 8, 50, 28]},
    ]


def test_cocos_json_is_read_as_labels(tmp_path: Path) -> None:
    Image.new("RGB", (80, 60)).save(tmp_path / "a.png")
    labels = CocoFile(CLASSES)
    labels.add("a.png", FOUND, (60, 80))
    (tmp_path / "annotations.json").write_text(json.dumps(labels.content()))
    found = load_detection(str(tmp_path / "annotations.json"), "train")
    assert found.objects[0].boxes.tolist() == FOUND.boxes.tolist()
    assert found.objects[0].labels.tolist() == [1, 0] and found.classes == CLASSES


def test_yolos_text_is_read_as_labels(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    Image.new("RGB", (80, 60)).save(tmp_path / "images/a.png")
    (tmp_path / "labels/a.txt").write_text(yolo_text(FOUND, (60, 80)))
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    found = load_detection(str(tmp_path), "train")
    assert torch.allclose(found.objects[0].boxes, FOUND.boxes, atol=1e-3)
    assert found.objects[0].labels.tolist() == [1, 0]
