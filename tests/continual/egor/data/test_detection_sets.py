"""Images with boxes, from every source."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from effcli.continual.egor.data.detection_sets import (
    ScaledImages,
    hold_out,
    resized,
    single_image,
)
from effcli.continual.egor.data.garment_scenes import GARMENT_SCENES, garment_scenes
from effcli.continual.egor.data.sources import has_parts, load_detection
from effcli.core.errors import InputError
from tests.cli.coco_squares import SIDE, annotation, categories, save_squares
from tests.data_root import data_file


def save_one(folder: Path, annotations: list[dict[str, Any]], **more: Any) -> Path:
    """One 40 x 30 image with annotations, as a single .json beside it."""
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (40, 30), "red").save(folder / "a.png")
    content = {
        "images": [{"id": 100, "file_name": "a.png", "width": 40, "height": 30}],
        "annotations": annotations,
        "categories": categories(["x", "y"]),
        **more,
    }
    file = folder / "coco.json"
    file.write_text(json.dumps(content))
    return file


def test_a_folder_a_tar_and_a_file_hold_the_same(tmp_path: Path) -> None:
    save_squares(tmp_path / "set")
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        archive.add(tmp_path / "set", ".")
    folder = load_detection(str(tmp_path / "set"), "train")
    packed = load_detection(str(tmp_path / "set.tar"), "train")
    single = load_detection(str(tmp_path / "set/annotations/instances_train.json"), "train")
    assert folder.classes == packed.classes == single.classes == ("red", "green", "blue", "white")
    for other in (packed, single):
        for i in range(len(folder)):
            assert torch.equal(folder.read(i), other.read(i))
            assert torch.equal(folder.objects[i].boxes, other.objects[i].boxes)
            assert torch.equal(folder.objects[i].labels, other.objects[i].labels)
    assert has_parts(str(tmp_path / "set"))
    assert has_parts(str(tmp_path / "set.tar"))
    assert not has_parts(str(tmp_path / "set/annotations/instances_train.json"))
    assert folder.counts() == {"red": 5, "green": 6, "blue": 4, "white": 3}
    evaluated = load_detection(str(tmp_path / "set"), "eval")  # whose images have the same names
    assert not torch.equal(evaluated.read(0), folder.read(0))
    assert torch.equal(evaluated.read(0), load_detection(str(tmp_path / "set.tar"), "eval").read(0))
    colours = folder.read(0)[:, int(folder.objects[0].boxes[0, 1]), int(folder.objects[0].boxes[0, 0])]
    assert colours.tolist() == [220, 30, 30]


def test_boxes_are_corners_clipped_to_the_image_and_crowds_are_kept(tmp_path: Path) -> None:
    file = save_one(
        tmp_path,
        [
            annotation(0, 0, 0, (2, 3, 10, 5)),
            annotation(1, 0, 1, (-5, -5, 20, 20), iscrowd=1),
            annotation(2, 0, 1, (30, 20, 90, 90)),
            annotation(3, 0, 0, (10, 10, 0, 4)),
            *(annotation(4 + i, 0, 0, (i, 0, 4, 4)) for i in range(20)),
        ],
    )
    found = load_detection(str(file), "train")
    assert found.objects[0].boxes[:3].tolist() == [[2, 3, 12, 8], [0, 0, 15, 15], [30, 20, 40, 30]]
    assert found.objects[0].labels[:3].tolist() == [0, 1, 1]
    assert found.objects[0].crowd[:3].tolist() == [False, True, False]
    assert found.mended == 3
    assert found.counts() == {"x": 21, "y": 1}


def test_images_without_boxes_are_there_and_without_sizes_are_looked_at(tmp_path: Path) -> None:
    file = save_one(tmp_path, [], images=[{"id": 7, "file_name": "a.png"}])
    found = load_detection(str(file), "train")
    assert (len(found), found.sizes) == (1, ((30, 40),))
    assert found.objects[0].boxes.shape == (0, 4)


def test_a_few_missing_images_are_left_out_and_many_are_refused(tmp_path: Path) -> None:
    save_squares(tmp_path / "set", n=12)
    (tmp_path / "set/train/3.png").unlink()
    found = load_detection(str(tmp_path / "set"), "train")
    assert (len(found), found.left_out) == (11, ("3.png",))
    (tmp_path / "set/train/4.png").unlink()
    with pytest.raises(InputError, match="2 of 12 images are missing, the first is 3"):
        load_detection(str(tmp_path / "set"), "train")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"annotations": [annotation(0, 0, 7, (0, 0, 4, 4))]}, "is of category 37, which is not listed"),
        ({"annotations": [{"id": 1, "image_id": 100}]}, "annotation 1 has no category_id"),
        (
            {"annotations": [annotation(0, 0, 0, (0, 0, 4))]},
            "annotation 0 has a bbox that is not four numbers",
        ),
        ({"images": []}, "lists no images"),
        ({"categories": 3}, "not a COCO file"),
    ],
)
def test_annotations_that_cannot_be_understood(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    file = save_one(tmp_path, [annotation(0, 0, 0, (2, 3, 10, 5))])
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    with pytest.raises(InputError, match=message):
        load_detection(str(file), "train")


def test_images_of_some_classes(tmp_path: Path) -> None:
    save_squares(tmp_path / "set")
    whole = load_detection(str(tmp_path / "set"), "train")
    some = whole.of_classes(("white", "blue"))
    assert some.classes == ("white", "blue")
    assert all(len(one) for one in some.objects)
    assert some.counts() == {"white": 3, "blue": 4}
    alone = whole.of_classes(("white", "blue"), without=("red", "green"))
    shown = set(alone.names)
    for name, objects in zip(whole.names, whole.objects, strict=True):
        names = {whole.classes[label] for label in objects.labels.tolist()}
        assert (name in shown) == (names <= {"white", "blue"})
    everything = whole.of_classes(("white", "unheard"), with_empty=True)
    assert len(everything) == len(whole)
    assert everything.counts() == {"white": 3, "unheard": 0}
    assert torch.equal(alone.read(0), whole.read(whole.names.index(alone.names[0])))


def test_held_out_images_are_others(tmp_path: Path) -> None:
    save_squares(tmp_path / "set", parts=("train",))
    whole = load_detection(str(tmp_path / "set"), "train")
    train, evaluated = hold_out(whole, 0.25, seed=0)
    assert (len(train), len(evaluated)) == (9, 3)
    assert set(train.names) | set(evaluated.names) == set(whole.names)


def test_images_are_scaled_with_their_boxes(tmp_path: Path) -> None:
    file = save_one(tmp_path, [annotation(0, 0, 0, (2, 3, 10, 5))])
    whole = load_detection(str(file), "train")
    image, objects, scale = ScaledImages(whole, 80, None)[0]
    assert (tuple(image.shape), scale) == ((3, 60, 80), 2.0)
    assert objects.boxes.tolist() == [[4, 6, 24, 16]]
    assert ScaledImages(whole, 80, 45).scale(0) == 1.5
    assert ScaledImages(whole, None, None).scale(0) == 1.0
    assert resized(torch.zeros(3, 5, 300, dtype=torch.uint8), 0.01).shape == (3, 1, 3)
    alone, objects, _ = single_image(torch.zeros(3, 30, 40, dtype=torch.uint8), 20, None)[0]
    assert (alone.shape, len(objects)) == ((3, 15, 20), 0)


@pytest.mark.slow
def test_the_scenes_in_the_package_are_always_the_same() -> None:
    found = load_detection(GARMENT_SCENES, "eval")
    assert (len(found), len(found.classes)) == (400, 10)
    garment_scenes.cache_clear()
    again = load_detection(GARMENT_SCENES, "eval")
    assert torch.equal(found.read(17), again.read(17))
    assert min(found.counts().values()) > 60
    for i in range(50):
        boxes = found.objects[i].boxes
        assert 1 <= len(boxes) <= 4
        assert float(boxes.min()) >= 0
        assert float(boxes.max()) <= 96
        assert float((boxes[:, 2:] - boxes[:, :2]).min()) >= 4


def test_the_stamp_scenes_are_read_in_place() -> None:
    found = load_detection(str(data_file("stamp-scenes/stamp_scenes.tar")), "train")
    assert (len(found), len(found.classes), found.mended) == (1000, 12, 0)
    assert sum(found.counts().values()) == 2480


def test_the_blood_cells_are_read_in_place() -> None:
    found = load_detection(str(data_file("bccd/bccd_coco.tar")), "eval")
    assert found.counts() == {"RBC": 643, "WBC": 63, "Platelets": 52}


def test_parts_by_other_names_and_hidden_files(tmp_path: Path) -> None:
    save_squares(tmp_path / "set", parts=("Train", "Valid"))
    (tmp_path / "set/annotations/._instances_Train.json").write_bytes(b"x")
    assert has_parts(str(tmp_path / "set"))
    train, held = (load_detection(str(tmp_path / "set"), split) for split in ("train", "eval"))
    assert len(train) == len(held) == 12 and not torch.equal(train.read(0), held.read(0))
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        for child in (tmp_path / "set").iterdir():
            archive.add(child, child.name)
    assert torch.equal(load_detection(str(tmp_path / "set.tar"), "eval").read(0), held.read(0))


def test_a_damaged_image_is_left_out_of_learning_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_squares(tmp_path / "set")
    for part in ("train", "eval"):
        file = tmp_path / "set" / part / "3.png"
        file.write_bytes(file.read_bytes()[:200])
    train = load_detection(str(tmp_path / "set"), "train")
    assert len(train) == 11 and "3.png" not in train.names and train.read(3).shape == (3, SIDE, SIDE)
    assert any("train/3.png" in message for message in caplog.messages)
    with pytest.raises(InputError, match=r"eval/3\.png"):
        load_detection(str(tmp_path / "set"), "eval")
