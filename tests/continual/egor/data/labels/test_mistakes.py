"""Labels that do not fit: what is wrong is named, a single mistake costs itself alone."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from effcli.continual.egor.data.sources import load_detection
from effcli.core.errors import InputError
from tests.continual.egor.data.labels.exports import (
    CLASSES,
    HEIGHT,
    WIDTH,
    coco,
    label_img_voc,
    pictures,
    published_coco,
    save_json,
    ultralytics_yolo,
    voc,
    yolo,
)

NAMES = [f"{letter}.png" for letter in "abcdefghijklmnopqrst"]
ENTRIES = {name: [(CLASSES[i % 2], 40, 20, 70, 50)] for i, name in enumerate(NAMES)}


def saved(folder: Path, change: Callable[[dict[str, Any]], object] | None = None) -> str:
    """Twenty pictures with a box each, as COCO."""
    pictures(folder, NAMES)
    content = copy.deepcopy(coco(ENTRIES))
    if change is not None:
        change(content)
    save_json(folder / "labels.json", content)
    return str(folder / "labels.json")


def every_box(change: Callable[[list[float]], list[Any]]) -> Callable[[dict[str, Any]], None]:
    def apply(content: dict[str, Any]) -> None:
        for one in content["annotations"]:
            one["bbox"] = change(one["bbox"])

    return apply


def every_image(**values: Any) -> Callable[[dict[str, Any]], None]:
    def apply(content: dict[str, Any]) -> None:
        for one in content["images"]:
            one.update(values)

    return apply


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            every_box(lambda b: [b[0] / WIDTH, b[1] / HEIGHT, b[2] / WIDTH, b[3] / HEIGHT]),
            "its 20 boxes seem to be shares of the sides of the image, 0..1, not left, top, width, height",
        ),
        (
            every_box(lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]]),
            "20 of 20 boxes extend beyond .* seem to be left, top, right, bottom in pixels, not left, top, width",
        ),
        (
            every_box(lambda b: [b[0] + 500, b[1], b[2], b[3]]),
            "20 of 20 boxes lie outside of their images or are empty",
        ),
        (
            every_image(width=2 * WIDTH, height=2 * HEIGHT),
            r"20 of 20 images have another size than their labels say, the first: a\.png is 80x60, its labels say "
            "160x120: labelled at another scale",
        ),
        (every_image(width=HEIGHT, height=WIDTH), "width and height are exchanged"),
        (every_image(width=70), "another picture, or a cropped one"),
        (every_box(lambda b: b[:3]), "20 of 20 annotations cannot be used"),
        (every_box(lambda b: [*b[:3], "x"]), "has a bbox that is not four numbers"),
    ],
)
def test_what_is_wrong_with_all_is_refused_by_its_cause(
    change: Callable[[dict[str, Any]], None], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        load_detection(saved(tmp_path, change), "train")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"bbox": [1, 2, 3]}, "annotation 5 has a bbox that is not four numbers"),
        ({"bbox": None}, "annotation 5 has neither a bbox nor a polygon"),
        ({"bbox": [1, 2, float("nan"), 3]}, "annotation 5 has a bbox that is not four numbers"),
        ({"category_id": 77}, "annotation 5 is of category 77, which is not listed"),
        ({"category_id": None}, "annotation 5 has no category_id"),
        ({"image_id": 99}, "annotation 5 is of image 99, which is not listed"),
        ({"bbox": [], "segmentation": {"counts": "abc", "size": [60, 80]}}, "a mask that is compressed"),
    ],
)
def test_a_single_mistake_costs_itself(wrong: dict[str, Any], message: str, tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["annotations"][5].update(wrong)

    found = load_detection(saved(tmp_path, change), "train")
    assert sum(found.counts().values()) == 19
    assert any(message in note for note in found.notes)


def test_a_picture_of_another_size_costs_itself(tmp_path: Path) -> None:
    place = saved(tmp_path)
    pictures(tmp_path, ["c.png"], size=(40, 30))
    found = load_detection(place, "train")
    assert len(found) == 19 and "c.png" not in found.names
    assert any("c.png is 40x30, its labels say 80x60: labelled at another scale" in n for n in found.notes)


def turned_photos(folder: Path, width: int, height: int) -> str:
    """Photos that are stored 80 x 60 and are to be turned by a quarter."""
    exif = Image.Exif()
    exif[274] = 6
    folder.mkdir(exist_ok=True)
    for name in NAMES:
        Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(folder / f"{name}.jpg", exif=exif)
    content = coco({f"{name}.jpg": [("cat", 5, 5, 20, 20)] for name in NAMES})
    every_image(width=width, height=height)(content)
    save_json(folder / "labels.json", content)
    return str(folder / "labels.json")


def test_photos_labelled_before_they_are_turned_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="labelled as the file stores it, before its EXIF data turn it upright"
    ) as e:
        load_detection(turned_photos(tmp_path, WIDTH, HEIGHT), "train")
    assert "auto-orient" in str(e.value.hint)


def test_photos_labelled_upright_are_read(tmp_path: Path) -> None:
    found = load_detection(turned_photos(tmp_path, HEIGHT, WIDTH), "train")
    assert set(found.sizes) == {(WIDTH, HEIGHT)} and found.read(0).shape == (3, WIDTH, HEIGHT)


def test_an_uncompressed_mask_gives_a_box(tmp_path: Path) -> None:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[10:21, 30:41] = 1
    runs = np.diff(np.flatnonzero(np.diff(mask.T.flatten(), prepend=2, append=2)))  # first of zeros

    def change(content: dict[str, Any]) -> None:
        one = content["annotations"][0]
        del one["bbox"]
        one["segmentation"] = {"counts": runs.tolist(), "size": [HEIGHT, WIDTH]}

    found = load_detection(saved(tmp_path, change), "train")
    assert found.objects[0].boxes.tolist() == [[30, 10, 41, 21]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"data": {"image": "a.png"}, "annotations": []}], "tasks of Label Studio in its own format"),
        ([{"image": "a.png", "annotations": []}], "labels in the format of CreateML"),
        ({"_via_img_metadata": {}}, "a project of the VGG Image Annotator"),
        ({"a.png1": {"filename": "a.png", "regions": []}}, "a project of the VGG Image Annotator"),
        ({"shapes": [], "imagePath": "a.png"}, "a file of LabelMe"),
        ({"images": [], "annotations": [{"caption": "a cat"}]}, "captions"),
        ({"images": []}, "it has no 'annotations'"),
    ],
)
def test_formats_of_others_are_named(content: object, message: str, tmp_path: Path) -> None:
    save_json(tmp_path / "x.json", content)
    with pytest.raises(InputError, match=f"not a COCO file.*{message}"):
        load_detection(str(tmp_path / "x.json"), "train")


def test_yolo_lines_that_cannot_be_used(tmp_path: Path) -> None:
    yolo(tmp_path / "images", tmp_path / "labels", ENTRIES)
    (tmp_path / "data.yaml").write_text("train: images\nnames: [cat, dog]\n")
    for text, message in (
        ("2 0.5 0.5 0.1 0.1", "a.txt:1 is of class 2, there are 2 names"),
        ("0 0.5 0.5 0.1", "has 4 numbers, not 5 or those of a polygon"),
        ("cat 0.5 0.5 0.1 0.1", "has words that are not numbers"),
        ("0 0.5 0.5 nan 0.1", "has numbers that are not finite"),
    ):
        (tmp_path / "labels/a.txt").write_text(f"{text}\n")
        found = load_detection(str(tmp_path / "data.yaml"), "train")
        assert sum(found.counts().values()) == 19
        assert any(message in note for note in found.notes)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ("50 30 20 20", "seem to be left, top, width, height in pixels"),
        ("70 50 20 20", "seem to be centre, width, height in pixels"),
        ("0.6 0.5 0.9 0.9", "seem to be left, top, right, bottom in pixels, divided by its sides"),
    ],
)
def test_yolo_numbers_of_another_form(numbers: str, message: str, tmp_path: Path) -> None:
    yolo(tmp_path / "images", tmp_path / "labels", ENTRIES)
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    for name in NAMES:
        (tmp_path / "labels" / name).with_suffix(".txt").write_text(f"0 {numbers}\n")
    with pytest.raises(InputError, match=message):
        load_detection(str(tmp_path), "train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: images\nnames: [cat]\nnc: 3\n", "nc is 3, but there are 1 names"),
        ("train: images\nnames: {0: cat, 2: dog}\n", "the numbers of 2 classes are not 0 to 1"),
        ("train: nowhere\nnames: [cat, dog]\n", "train: no images in nowhere"),
        ("names: [cat, dog]\n", "names no images"),
        ("train: images\n", "names no classes"),
        ("train: [\n", "not valid YAML in line"),
    ],
)
def test_a_data_yaml_that_cannot_be_understood(text: str, message: str, tmp_path: Path) -> None:
    yolo(tmp_path / "images", tmp_path / "labels", ENTRIES)
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        load_detection(str(tmp_path / "data.yaml"), "train")


def test_yolo_without_any_labels(tmp_path: Path) -> None:
    pictures(tmp_path / "images", NAMES)
    (tmp_path / "classes.txt").write_text("cat\n")
    with pytest.raises(InputError, match=r"none of 20 images has labels: no labels/a\.txt"):
        load_detection(str(tmp_path), "train")


def test_voc_files_that_cannot_be_used(tmp_path: Path) -> None:
    pictures(tmp_path, NAMES)
    voc(tmp_path, ENTRIES)
    (tmp_path / "a.xml").write_text("<annotation><object>")
    text = (tmp_path / "b.xml").read_text()
    (tmp_path / "b.xml").write_text(text.replace("<xmin>40</xmin>", "<xmin>left</xmin>"))
    found = load_detection(str(tmp_path), "train")
    assert sum(found.counts().values()) == 18
    assert any("a.xml is not valid XML" in note for note in found.notes)
    assert any("b.xml, object 1 has a coordinate that is not a number: left" in note for note in found.notes)


def test_difficult_objects_are_crowds_and_polygons_have_boxes(tmp_path: Path) -> None:
    pictures(tmp_path, NAMES)
    voc(tmp_path, ENTRIES)
    text = (tmp_path / "a.xml").read_text()
    (tmp_path / "a.xml").write_text(text.replace("<name>", "<difficult>1</difficult><name>"))
    box = "<bndbox><xmin>40</xmin><ymin>20</ymin><xmax>70</xmax><ymax>50</ymax></bndbox>"
    points = "<polygon><x1>3</x1><y1>4</y1><x2>13</x2><y2>4</y2><x3>8</x3><y3>20</y3></polygon>"
    assert box in text
    (tmp_path / "c.xml").write_text((tmp_path / "c.xml").read_text().replace(box, points))
    found = load_detection(str(tmp_path), "train")
    assert found.objects[0].crowd.tolist() == [True]
    assert found.objects[2].boxes.tolist() == [[3, 4, 13, 20]]


def test_cvats_own_xml_is_named(tmp_path: Path) -> None:
    pictures(tmp_path, NAMES)
    (tmp_path / "annotations.xml").write_text("<annotations><version>1.1</version></annotations>")
    with pytest.raises(InputError, match="not a Pascal VOC file but labels of CVAT in its own format"):
        load_detection(str(tmp_path), "train")


def test_what_holds_several_kinds_or_none_is_refused(tmp_path: Path) -> None:
    published_coco(tmp_path / "two")
    ultralytics_yolo(tmp_path / "two")
    with pytest.raises(InputError, match="holds labels of several kinds: COCO and YOLO"):
        load_detection(str(tmp_path / "two"), "train")
    pictures(tmp_path / "bare", NAMES)
    with pytest.raises(InputError, match="holds 20 images without labels"):
        load_detection(str(tmp_path / "bare"), "train")
    label_img_voc(tmp_path / "voc")
    (tmp_path / "voc.zip").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"is a compressed archive \(\.zip\)"):
        load_detection(str(tmp_path / "voc.zip"), "train")
    for name in ("x.json", "y.json"):
        save_json(tmp_path / "several" / name, json.loads("{}"))
    with pytest.raises(InputError, match=r"has several \.json for the whole set: x\.json and y\.json"):
        load_detection(str(tmp_path / "several"), "train")
