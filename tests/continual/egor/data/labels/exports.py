"""Four pictures with boxes, written as annotation tools export them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from PIL import Image

Box = tuple[str, int, int, int, int]
"""Class, left, top, right, bottom."""

WIDTH, HEIGHT = 80, 60
CLASSES = ("cat", "dog")
PICTURES: Mapping[str, Sequence[Box]] = {
    "a.png": [("cat", 4, 6, 30, 40)],
    "b.png": [("dog", 10, 8, 50, 28), ("cat", 40, 30, 78, 58)],
    "c.png": [],
    "d.png": [("dog", 1, 2, 21, 22)],
}
HELD_OUT: Mapping[str, Sequence[Box]] = {"e.png": [("dog", 2, 2, 42, 32)], "f.png": [("cat", 8, 9, 28, 29)]}


def pictures(folder: Path, names: Sequence[str], size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        pixels = np.full((size[1], size[0], 3), ord(name[0]), np.uint8)
        Image.fromarray(pixels).save(folder / name)


def coco(
    entries: Mapping[str, Sequence[Box]],
    *,
    prefix: str = "",
    first: int = 1,
    extra: Sequence[str] = (),
    text_ids: bool = False,
    boxes: bool = True,
    polygons: bool = False,
    size: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """COCO's content; ``extra`` classes come first and have no boxes."""
    names = [*extra, *CLASSES]
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for i, (name, found) in enumerate(entries.items()):
        sides = {"width": WIDTH, "height": HEIGHT} if size is None else size
        images.append({"id": i, "file_name": prefix + name, **sides})
        for label, left, top, right, bottom in found:
            one: dict[str, Any] = {
                "id": len(annotations),
                "image_id": str(i) if text_ids else i,
                "category_id": names.index(label) + first,
                "bbox": [left, top, right - left, bottom - top] if boxes else [],
                "area": (right - left) * (bottom - top),
                "iscrowd": 0,
            }
            if polygons:
                one["segmentation"] = [left, top, right, top, right, bottom, left, bottom]
            annotations.append(one)
    categories = [{"id": i + first, "name": name, "supercategory": "x"} for i, name in enumerate(names)]
    return {"images": images, "annotations": annotations, "categories": categories}


def save_json(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def yolo_lines(boxes: Sequence[Box], polygons: bool = False) -> str:
    lines = []
    for label, left, top, right, bottom in boxes:
        x, y, w, h = (left + right) / 2, (top + bottom) / 2, right - left, bottom - top
        numbers = [x / WIDTH, y / HEIGHT, w / WIDTH, h / HEIGHT]
        if polygons:
            corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
            numbers = [value for x, y in corners for value in (x / WIDTH, y / HEIGHT)]
        lines.append(" ".join([str(CLASSES.index(label)), *(f"{value:.8f}" for value in numbers)]))
    return "".join(f"{line}\n" for line in lines)


def yolo(images: Path, labels: Path, entries: Mapping[str, Sequence[Box]], polygons: bool = False) -> None:
    pictures(images, list(entries))
    labels.mkdir(parents=True, exist_ok=True)
    for name, boxes in entries.items():
        if boxes:
            (labels / name).with_suffix(".txt").write_text(yolo_lines(boxes, polygons))


def voc(
    folder: Path, entries: Mapping[str, Sequence[Box]], database: str = "Unknown", first: int = 0
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, boxes in entries.items():
        root = ElementTree.Element("annotation")
        ElementTree.SubElement(root, "filename").text = name
        source = ElementTree.SubElement(root, "source")
        ElementTree.SubElement(source, "database").text = database
        size = ElementTree.SubElement(root, "size")
        for key, value in (("width", WIDTH), ("height", HEIGHT), ("depth", 3)):
            ElementTree.SubElement(size, key).text = str(value)
        for label, left, top, right, bottom in boxes:
            one = ElementTree.SubElement(root, "object")
            ElementTree.SubElement(one, "name").text = label
            box = ElementTree.SubElement(one, "bndbox")
            edges = {"xmin": left + first, "ymin": top + first, "xmax": right, "ymax": bottom}
            for key, value in edges.items():
                ElementTree.SubElement(box, key).text = str(value)
        ElementTree.ElementTree(root).write((folder / name).with_suffix(".xml"))


def published_coco(folder: Path) -> None:
    for part, entries in (("train2017", PICTURES), ("val2017", HELD_OUT)):
        pictures(folder / part, list(entries))
        save_json(folder / f"annotations/instances_{part}.json", coco(entries, extra=["hair drier"]))
        save_json(folder / f"annotations/captions_{part}.json", {"images": [], "annotations": []})
        save_json(folder / f"annotations/person_keypoints_{part}.json", coco({}))


def roboflow_coco(folder: Path) -> None:
    for part, entries in (("train", PICTURES), ("valid", HELD_OUT)):
        pictures(folder / part, list(entries))
        save_json(folder / part / "_annotations.coco.json", coco(entries, first=0, extra=["pets"]))
    (folder / "README.roboflow.txt").write_text("x")


def cvat_coco(folder: Path) -> None:
    pictures(folder / "images/default", list(PICTURES))
    save_json(folder / "annotations/instances_default.json", coco(PICTURES))


def fiftyone_coco(folder: Path) -> None:
    pictures(folder / "data", list(PICTURES))
    save_json(folder / "labels.json", coco(PICTURES, first=0))


def label_studio_coco(folder: Path) -> None:
    pictures(folder / "images", list(PICTURES))
    save_json(folder / "result.json", coco(PICTURES, first=0, prefix="images\\"))


def via_coco(folder: Path) -> None:
    pictures(folder, list(PICTURES))
    content = coco(PICTURES, text_ids=True, boxes=False, polygons=True, size={"width": 0, "height": 0})
    save_json(folder / "via_project_coco.json", content)


def roboflow_yolo(folder: Path) -> None:
    for part, entries in (("train", PICTURES), ("valid", HELD_OUT)):
        yolo(folder / part / "images", folder / part / "labels", entries)
    text = (
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnc: 2\nnames: ['cat', 'dog']\n"
    )
    (folder / "data.yaml").write_text(text.replace("test: ../test/images\n", ""))


def ultralytics_yolo(folder: Path) -> None:
    for part, entries in (("train", PICTURES), ("val", HELD_OUT)):
        yolo(folder / "images" / part, folder / "labels" / part, entries, polygons=True)
    lines = [
        "path: /somewhere/else",
        "train: images/train",
        "val: images/val",
        "names:",
        "  0: cat",
        "  1: dog",
    ]
    (folder / "dataset.yaml").write_text("\n".join(lines))


def cvat_yolo(folder: Path) -> None:
    """YOLO 1.1: labels beside the pictures."""
    yolo(folder / "obj_train_data", folder / "obj_train_data", PICTURES)
    (folder / "obj.names").write_text("cat\ndog\n")
    (folder / "obj.data").write_text("classes = 2\ntrain = data/train.txt\nnames = data/obj.names\n")
    (folder / "train.txt").write_text("".join(f"data/obj_train_data/{name}\n" for name in PICTURES))


def cvat_ultralytics(folder: Path) -> None:
    yolo(folder / "images/train", folder / "labels/train", PICTURES)
    (folder / "data.yaml").write_text("names:\n  0: cat\n  1: dog\npath: .\ntrain: train.txt\n")
    (folder / "train.txt").write_text("".join(f"data/images/train/{name}\n" for name in PICTURES))


def label_studio_yolo(folder: Path) -> None:
    yolo(folder / "images", folder / "labels", PICTURES)
    (folder / "classes.txt").write_text("cat\ndog\n")
    save_json(folder / "notes.json", {"categories": [{"id": 0, "name": "cat"}], "info": {}})


def pascal_voc(folder: Path) -> None:
    pictures(folder / "JPEGImages", [*PICTURES, *HELD_OUT])
    voc(folder / "Annotations", {**PICTURES, **HELD_OUT}, "The VOC2012 Database", first=1)
    lists = folder / "ImageSets/Main"
    lists.mkdir(parents=True)
    for part, entries in (("train", PICTURES), ("val", HELD_OUT)):
        (lists / f"{part}.txt").write_text("".join(f"{Path(name).stem}\n" for name in entries))
        (lists / f"cat_{part}.txt").write_text("".join(f"{Path(name).stem} -1\n" for name in entries))


def roboflow_voc(folder: Path) -> None:
    for part, entries in (("train", PICTURES), ("valid", HELD_OUT)):
        pictures(folder / part, list(entries))
        voc(folder / part, entries)


def label_img_voc(folder: Path) -> None:
    pictures(folder / "images", list(PICTURES))
    voc(folder / "xml", PICTURES)


WITH_PARTS: Mapping[str, Callable[[Path], None]] = {
    "COCO, published": published_coco,
    "COCO, Roboflow": roboflow_coco,
    "YOLO, Roboflow": roboflow_yolo,
    "YOLO, Ultralytics": ultralytics_yolo,
    "Pascal VOC, published": pascal_voc,
    "Pascal VOC, Roboflow": roboflow_voc,
}
WHOLE_SETS: Mapping[str, Callable[[Path], None]] = {
    "COCO, CVAT": cvat_coco,
    "COCO, FiftyOne": fiftyone_coco,
    "COCO, Label Studio": label_studio_coco,
    "COCO, VIA": via_coco,
    "YOLO, CVAT 1.1": cvat_yolo,
    "YOLO, CVAT": cvat_ultralytics,
    "YOLO, Label Studio": label_studio_yolo,
    "Pascal VOC, LabelImg": label_img_voc,
}
