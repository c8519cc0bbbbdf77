"""Sets of labels with something odd in them: read right, said, or refused by name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effcli.continual.egor.data.detection_sets import DetectionSet
from effcli.continual.egor.data.sources import load_all, load_detection, refuse_without_boxes
from effcli.core.errors import InputError

BOX = "0 0.5 0.5 0.2 0.2\n1 0.25 0.25 0.1 0.1\n"
NAMES = "train: images/train\nnames: [a, b]\n"
OBJECT = "<object><name>{}</name>{}<bndbox><xmin>4</xmin><ymin>4</ymin><xmax>20</xmax><ymax>30</ymax></bndbox></object>"


def _picture(file: Path, width: int = 100, height: int = 80) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)


def _text(file: Path, text: str | bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text.encode() if isinstance(text, str) else text)


def _yolo(root: Path, lines: str = BOX, yaml: str = NAMES, n: int = 4) -> Path:
    for i in range(n):
        _picture(root / f"images/train/{i}.png")
        _text(root / f"labels/train/{i}.txt", lines)
    _text(root / "data.yaml", yaml)
    return root


def _voc(root: Path, objects: str, n: int = 4, filename: str = "{}.png") -> Path:
    for i in range(n):
        _picture(root / f"JPEGImages/{i}.png")
        name = filename.format(i)
        _text(
            root / f"Annotations/{i}.xml",
            f"<annotation><filename>{name}</filename>{objects}</annotation>",
        )
    return root


def _coco(root: Path, boxes: Sequence[Sequence[float]], size: tuple[int, int]) -> Path:
    n = 5
    for i in range(n):
        _picture(root / f"{i}.png", *size)
    images = [{"id": i, "file_name": f"{i}.png", "width": size[0], "height": size[1]} for i in range(n)]
    annotations = [
        {"id": 100 * i + k, "image_id": i, "category_id": 1 + k % 2, "bbox": list(box)}
        for i in range(n)
        for k, box in enumerate(boxes)
    ]
    names = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    _text(root / "ann.json", json.dumps({"images": images, "annotations": annotations, "categories": names}))
    return root


def _corners(found: DetectionSet, image: int = 0) -> list[list[float]]:
    return [[round(value) for value in box] for box in found.objects[image].boxes.tolist()]


@pytest.mark.parametrize("shape", [2, 3])
def test_keypoints_after_a_box_are_left_out(shape: int, tmp_path: Path) -> None:
    point = {2: "0.5 0.5 ", 3: "0.5 0.5 2 "}[shape]
    lines = f"0 0.5 0.5 0.2 0.2 {4 * point}\n1 0.25 0.25 0.1 0.1 {4 * (shape * '0 ')}\n"
    found = load_all(str(_yolo(tmp_path, lines, f"{NAMES}kpt_shape: [4, {shape}]\n")))["train"]
    assert _corners(found) == [[40, 32, 60, 48], [20, 16, 30, 24]]


@pytest.mark.parametrize("numbers", ["0.5 0.5 0.55 0.45 0.42 0.55 0 0", 4 * "0.5 0.5 2 "])
def test_keypoints_that_nothing_announces_are_refused(numbers: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="seem to be boxes with keypoints"):
        load_all(str(_yolo(tmp_path, f"0 0.5 0.5 0.2 0.2 {numbers}\n")))


def test_polygons_of_equally_many_points_are_no_keypoints(tmp_path: Path) -> None:
    found = load_all(str(_yolo(tmp_path, "0 0.2 0.25 0.5 0.25 0.5 0.5 0.4 0.75 0.2 0.5\n")))["train"]
    assert _corners(found) == [[20, 20, 50, 60]]


@pytest.mark.parametrize(
    ("shape", "message"), [("4", "kpt_shape is 4"), ("[4, 3]", "not 17 as kpt_shape says")]
)
def test_a_kpt_shape_that_does_not_fit(shape: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        load_all(str(_yolo(tmp_path, "0 0.5 0.5 0.2 0.2 0.5 0.5\n", f"{NAMES}kpt_shape: {shape}\n")))


def test_scores_at_the_end_of_lines_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"6 numbers.*score \(save_conf\)"):
        load_all(str(_yolo(tmp_path, "0 0.5 0.5 0.2 0.2 0.93\n")))


def test_labels_without_an_image_and_images_that_share_labels_are_said(tmp_path: Path) -> None:
    root = _yolo(tmp_path)
    _text(root / "labels/train/gone.txt", BOX)
    _picture(root / "images/train/0.jpg")
    assert load_all(str(root))["train"].notes == (
        "1 file of labels of several images, taken for each: labels/train/0.txt",
        "1 file of labels without an image, left out: labels/train/gone.txt",
    )


@pytest.mark.parametrize(
    ("val", "message"),
    [("images/train", "4 of 4 images in train, too"), ("images/val", None), ("valid/train", "no images in")],
)
def test_images_that_are_measured_on_and_learned_from_are_said(
    val: str, message: str | None, tmp_path: Path
) -> None:
    root = _yolo(tmp_path, yaml=f"{NAMES}val: {val}\n")
    _picture(root / "images/val/9.png")
    _text(root / "labels/val/9.txt", BOX)
    if message == "no images in":
        _text(root / "data.yaml", "train: images\nval: valid/images\nnames: [a, b]\n")
        with pytest.raises(InputError, match="val: no images in valid/images"):
            load_all(str(root))
    else:
        notes = load_all(str(root))["val"].notes
        assert [note.partition(":")[0] for note in notes] == ([message] if message else [])


def test_names_that_are_empty_or_there_twice(tmp_path: Path) -> None:
    root = _yolo(tmp_path, yaml="train: images/train\nnames: [a, a]\n")
    assert load_all(str(root))["train"].notes == ("2 classes called 'a' are taken as one",)
    (root / "data.yaml").unlink()
    _text(root / "classes.txt", "a\n\nb\n")
    with pytest.raises(InputError, match="line 2 is empty"):
        load_all(str(root))


def test_several_xml_files_of_an_image_are_taken_together(tmp_path: Path) -> None:
    root = _voc(tmp_path, OBJECT.format("cat", ""))
    other = OBJECT.format("dog", "").replace("30", "60")
    _text(root / "Annotations/more.xml", f"<annotation><filename>0.png</filename>{other}</annotation>")
    found = load_all(str(root))["all"]
    assert len(found) == 4
    assert _corners(found) == [[4, 4, 20, 30], [4, 4, 20, 60]]
    assert found.notes == ("1 image with several XML files, all of them taken: 0.png",)


def test_images_without_an_xml_file_and_other_filenames_are_said(tmp_path: Path) -> None:
    root = _voc(tmp_path, OBJECT.format("cat", ""), filename="{}.png")
    text = (root / "Annotations/0.xml").read_text().replace("0.png", "1.png")
    _text(root / "Annotations/0.xml", text)
    _picture(root / "JPEGImages/more.png")
    assert load_all(str(root))["all"].notes == (
        "1 image without an XML file, left out: JPEGImages/more.png",
        "1 XML file with the filename of another image, taken for the image that is called as they are: "
        "Annotations/0.xml (1.png)",
    )


def test_true_is_difficult_and_other_words_are_refused(tmp_path: Path) -> None:
    one, other = (OBJECT.format("cat", f"<difficult>{word}</difficult>") for word in ("True", "0"))
    found = load_all(str(_voc(tmp_path, one + other.replace("30", "40"))))["all"]
    assert found.objects[0].crowd.tolist() == [True, False]
    with pytest.raises(InputError, match="is difficult: 7, neither 0 nor 1"):
        load_all(str(_voc(tmp_path, OBJECT.format("cat", "<difficult>7</difficult>"))))


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        (OBJECT.format("cat", "<bndbox/>"), "has 2 boxes"),
        ("<object><name>a</name><robndbox><cx>5</cx></robndbox></object>", "turned box of roLabelImg"),
    ],
)
def test_objects_of_other_kinds_are_named(objects: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        load_all(str(_voc(tmp_path, objects)))


def test_xml_in_an_encoding_of_its_own(tmp_path: Path) -> None:
    root = _voc(tmp_path, OBJECT.format("cat", ""))
    for file in root.glob("Annotations/*.xml"):
        text = '<?xml version="1.0" encoding="gb2312"?>' + file.read_text().replace("cat", "猫")
        _text(file, text.encode("gb2312"))
    assert load_all(str(root))["all"].classes == ("猫",)


def test_xml_files_that_are_all_damaged_are_named(tmp_path: Path) -> None:
    root = _voc(tmp_path, "<object>")
    with pytest.raises(InputError, match="none of 4 XML files can be read"):
        load_all(str(root))


def test_classes_with_nearly_the_same_name_are_said(tmp_path: Path) -> None:
    found = load_all(str(_voc(tmp_path, OBJECT.format("cat", "") + OBJECT.format("Cat", ""))))["all"]
    assert found.notes == ("classes whose names are nearly the same are kept apart: 'Cat', 'cat'",)


PERCENT: list[list[float]] = [[10, 10, 40, 50], [50, 20, 48, 75.5], [2, 40, 96, 60], [1, 2, 3, 4]]


@pytest.mark.parametrize(
    ("factor", "size", "message"),
    [
        (1, (90, 60), "left, top, width, height, in percent of the image's sides"),
        (1, (320, 240), "20 boxes are within 0..100 of larger images.*in percent of the image's sides"),
        (10, (320, 240), "left, top, width, height, in thousandths of the image's sides"),
    ],
)
def test_boxes_in_percent_are_named(factor: int, size: tuple[int, int], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        load_all(str(_coco(tmp_path, [[factor * v for v in box] for box in PERCENT], size)))


def test_boxes_that_may_be_in_percent_are_said(tmp_path: Path) -> None:
    found = load_all(str(_coco(tmp_path, PERCENT, (150, 110))))["all"]
    assert found.notes == (
        "all 20 boxes are within 0..100 of larger images: they seem to be in percent of the image's sides; "
        "they are taken as left, top, width, height in pixels",
    )


def test_boxes_in_the_upper_left_alone_are_pixels(tmp_path: Path) -> None:
    found = load_all(str(_coco(tmp_path, [[5, 5, 40, 50], [50, 20, 20, 50]], (320, 240))))["all"]
    assert found.notes == ()
    assert _corners(found) == [[5, 5, 45, 55], [50, 20, 70, 70]]


def test_a_set_without_a_box_is_refused_where_boxes_are_needed(tmp_path: Path) -> None:
    root = str(_voc(tmp_path, ""))
    assert len(load_all(root)["all"]) == 4
    with pytest.raises(InputError, match="no box that can be learned from or measured on in 4 images"):
        refuse_without_boxes(load_detection(root, "train"), root)
    refuse_without_boxes(load_detection(str(_voc(tmp_path, OBJECT.format("cat", ""))), "train"), root)
