"""Label files of other people: what their tools and hands make of the same pictures."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from effcli.continual.egor.data.detection_sets import DetectionSet
from effcli.continual.egor.data.sources import load_detection
from effcli.core.errors import InputError
from tests.continual.egor.data.labels.exports import (
    HEIGHT,
    HELD_OUT,
    PICTURES,
    WIDTH,
    coco,
    pictures,
    save_json,
    voc,
    yolo,
)
from tests.continual.egor.data.labels.test_exports import as_lists, boxes_of


def names_in_every_part(name: str) -> Callable[[Path], None]:
    def save(folder: Path) -> None:
        for part, entries in (("train", PICTURES), ("valid", HELD_OUT)):
            yolo(folder / part, folder / part, entries)
            (folder / part / name).write_text("cat\ndog\n")

    return save


def in_capitals(folder: Path) -> None:
    yolo(folder / "Images", folder / "Labels", PICTURES)
    (folder / "classes.txt").write_text("cat\ndog\n")


def of_windows(folder: Path) -> None:
    yolo(folder / "images/train", folder / "labels/train", PICTURES)
    text = "path: C:\\Users\\me\ntrain: C:\\Users\\me\\images\\train\nval:\ntest: null\nnc: 2\nnames: [cat, dog]\n"
    (folder / "data.yaml").write_text(text)


def of_label_studio(folder: Path) -> None:
    pictures(folder / "images", [f"1a2b-my {name}" for name in PICTURES])
    for name in PICTURES:  # the grey value tells the pictures apart
        pictures(folder / "images", [name])
        (folder / "images" / name).replace(folder / "images" / f"1a2b-my {name}")
    save_json(folder / "result.json", coco(PICTURES, prefix="../../data/media/upload/1/1a2b-my%20"))


def in_other_letters(folder: Path) -> None:
    pictures(folder / "images", list(PICTURES))
    for name in PICTURES:
        (folder / "images" / name).replace(folder / "images" / name.upper())
    save_json(folder / "labels.json", coco(PICTURES))


def with_trainval(folder: Path) -> None:
    pictures(folder / "JPEGImages", [*PICTURES, *HELD_OUT])
    voc(folder / "Annotations", {**PICTURES, **HELD_OUT})
    lists = folder / "ImageSets/Main"
    lists.mkdir(parents=True)
    for part, entries in (("trainval", PICTURES), ("test", HELD_OUT)):
        (lists / f"{part}.txt").write_text("".join(f"{Path(name).stem}\n" for name in entries))


def with_images_twice(folder: Path) -> None:
    pictures(folder, list(PICTURES))
    content = coco(PICTURES)
    content["images"] += [{**one, "id": one["id"] + 100} for one in content["images"]]
    content["annotations"][1]["image_id"] += 100
    save_json(folder / "labels.json", content)


def with_a_space(folder: Path) -> None:
    pictures(folder, list(PICTURES))
    content = coco(PICTURES)
    content["categories"].append({"id": 3, "name": "cat "})
    content["annotations"][0]["category_id"] = 3
    save_json(folder / "labels.json", content)


READ: dict[str, Callable[[Path], None]] = {
    "Roboflow, darknet": names_in_every_part("_darknet.labels"),
    "the same classes.txt in every part": names_in_every_part("classes.txt"),
    "Images and Labels": in_capitals,
    "data.yaml of Windows": of_windows,
    "Label Studio, names as in addresses": of_label_studio,
    "endings in capitals": in_other_letters,
    "VOC with trainval": with_trainval,
    "images listed twice": with_images_twice,
    "a class and the same with a space": with_a_space,
}


@pytest.mark.parametrize("save", READ.values(), ids=READ.keys())
def test_they_are_read_whole(save: Callable[[Path], None], tmp_path: Path) -> None:
    save(tmp_path)
    found = load_detection(str(tmp_path), "train")
    assert boxes_of(found) == as_lists(PICTURES)


@pytest.mark.parametrize("save", [of_label_studio, in_other_letters])
def test_also_from_the_json_itself(save: Callable[[Path], None], tmp_path: Path) -> None:
    save(tmp_path)
    (file,) = tmp_path.glob("*.json")
    assert boxes_of(load_detection(str(file), "train")) == as_lists(PICTURES)


def test_images_that_are_listed_twice_are_said(tmp_path: Path) -> None:
    with_images_twice(tmp_path)
    found = load_detection(str(tmp_path), "train")
    assert len(found) == len(PICTURES)
    assert "4 images are listed again under another id: their boxes are taken together" in found.notes


def test_words_that_yaml_takes_for_something_else_are_names(tmp_path: Path) -> None:
    yolo(tmp_path / "images", tmp_path / "labels", PICTURES)
    for names, expected in (("[no, yes]", ("no", "yes")), ("{0: 007, 1: 1.50}", ("007", "1.50"))):
        (tmp_path / "data.yaml").write_text(f"train: images\nnc: 2\nnames: {names}\n")
        assert load_detection(str(tmp_path), "train").classes == expected


def of_crowds(folder: Path) -> None:
    pictures(folder, list(PICTURES))
    content = coco(PICTURES)
    for one in content["annotations"]:
        one["iscrowd"] = int(one["category_id"] == 2)
    save_json(folder / "labels.json", content)


def test_a_class_of_crowds_alone_is_dropped_and_said(tmp_path: Path) -> None:
    of_crowds(tmp_path)
    found = load_detection(str(tmp_path), "train")
    assert found.counts() == {"cat": 2} and len(found) == len(PICTURES)
    assert "1 class with crowds or difficult objects alone is dropped: dog" in found.notes


def test_numbers_of_any_size_cost_themselves(tmp_path: Path) -> None:
    entries = {f"{letter}.png": [("cat", 4, 6, 30, 40)] for letter in "abcdefghijkl"}
    pictures(tmp_path, list(entries))
    content = coco(entries)
    content["annotations"][0]["bbox"] = [1e308, 0, 1e308, 5]
    save_json(tmp_path / "labels.json", content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found: DetectionSet = load_detection(str(tmp_path), "train")
    assert sum(found.counts().values()) == 11 and found.mended == 1


def of_labelme(folder: Path) -> None:
    pictures(folder, list(PICTURES))
    for name in PICTURES:
        save_json((folder / name).with_suffix(".json"), {"shapes": [], "imagePath": name})


def of_supervisely(folder: Path) -> None:
    pictures(folder / "ds/img", list(PICTURES))
    for name in PICTURES:
        content = {"objects": [], "size": {"height": HEIGHT, "width": WIDTH}}
        save_json(folder / f"ds/ann/{name}.json", content)


def counted_from_one(folder: Path) -> None:
    yolo(folder / "images", folder / "labels", PICTURES)
    (folder / "classes.txt").write_text("cat\ndog\n")
    for file in (folder / "labels").glob("*.txt"):
        lines = [line.split() for line in file.read_text().splitlines()]
        file.write_text("".join(f"{int(number) + 1} {' '.join(rest)}\n" for number, *rest in lines))


def names_that_differ(folder: Path) -> None:
    names_in_every_part("classes.txt")(folder)
    (folder / "valid/classes.txt").write_text("dog\ncat\n")


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "LabelMe": (of_labelme, "not COCO files but 4 .json, the first a file of LabelMe"),
    "Supervisely": (of_supervisely, "not COCO files but 4 .json, the first labels of Supervisely"),
    "classes from 1": (counted_from_one, "its class numbers are 1 to 2; YOLO's are 0 to 1"),
    "other names in every part": (names_that_differ, "has several files that name classes"),
}


@pytest.mark.parametrize(("save", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_not_understood_is_refused(
    save: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    save(tmp_path)
    with pytest.raises(InputError, match=message):
        load_detection(str(tmp_path), "train")


def test_a_file_of_another_kind_is_named_by_its_extension(tmp_path: Path) -> None:
    (tmp_path / "via.csv").write_text("filename,region\n")
    with pytest.raises(InputError, match=r"unknown file extension '\.csv'"):
        load_detection(str(tmp_path / "via.csv"), "train")


def test_boxes_that_are_there_twice_are_taken_once_and_said(tmp_path: Path) -> None:
    pictures(tmp_path, list(PICTURES))
    content = coco(PICTURES)
    n_boxes = len(content["annotations"])
    content["annotations"] += [one | {"id": 1000 + one["id"]} for one in content["annotations"]]
    save_json(tmp_path / "labels.json", content)
    found = load_detection(str(tmp_path), "train")
    assert sum(found.counts().values()) == n_boxes
    assert f"{n_boxes} boxes are there more than once and taken once" in found.notes


def test_a_number_that_no_computer_holds_is_not_a_bbox(tmp_path: Path) -> None:
    pictures(tmp_path, list(PICTURES))
    content = coco(PICTURES)
    content["annotations"][0]["bbox"][2] = 10**400
    save_json(tmp_path / "labels.json", content)
    assert any(
        "a bbox that is not four numbers" in note for note in load_detection(str(tmp_path), "train").notes
    )
