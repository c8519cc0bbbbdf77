"""Lists in JSON as people have them: objects, lines, COCO, Karpathy's splits, the datasets library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from effcli.core.errors import InputError
from effcli.distill.clip_kd.captions.sources import has_split, load_captions
from tests.distill.clip_kd.captions.caption_files import save_grey

PAIRS = [("a.png", "one"), ("b.png", "two")]


def images(folder: Path) -> None:
    for number, (name, _) in enumerate(PAIRS):
        save_grey(folder / name, 10 * number)


@pytest.mark.parametrize(
    "content",
    [
        [{"image": name, "caption": text} for name, text in PAIRS],
        [{"file_name": name, "text": [text], "width": 3} for name, text in PAIRS],
        dict(PAIRS),
        {name: {"caption": text} for name, text in PAIRS},
    ],
)
def test_lists_of_objects(tmp_path: Path, content: Any) -> None:
    images(tmp_path)
    (tmp_path / "pairs.json").write_text(json.dumps(content))
    assert load_captions(tmp_path / "pairs.json", "train").captions == (("one",), ("two",))


def test_lines_of_objects(tmp_path: Path) -> None:
    images(tmp_path / "images")
    lines = [json.dumps({"image": name, "caption": text}) for name, text in PAIRS]
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join([*lines, json.dumps({"image": "a.png"})]))
    pairs = load_captions(file, "train")
    assert pairs.captions == (("one",), ("two",))
    assert pairs.left_out == (f"{file}:3: no image and caption in it",)
    file.write_text("\n".join([*lines, "{"]))
    with pytest.raises(InputError, match="not valid JSON") as caught:
        load_captions(file, "train")
    assert str(caught.value.place).endswith("pairs.jsonl:3")


def coco(folder: Path, part: str) -> Path:
    images(folder / part)
    file = folder / "annotations" / f"captions_{part}.json"
    file.parent.mkdir(exist_ok=True)
    content = {
        "images": [{"id": 7 + i, "file_name": name} for i, (name, _) in enumerate(PAIRS)],
        "annotations": [
            *({"image_id": 7 + i, "caption": f"{part} {text}"} for i, (_, text) in enumerate(PAIRS)),
            {"image_id": 7, "caption": "again"},
            {"image_id": 99, "caption": "of nothing"},
        ],
    }
    file.write_text(json.dumps(content))
    return file


def test_captions_of_coco(tmp_path: Path) -> None:
    files = [coco(tmp_path, part) for part in ("train2017", "val2017")]
    train, held = (load_captions(tmp_path, split) for split in ("train", "eval"))
    assert train.captions == (("train2017 one", "again"), ("train2017 two",))
    assert held.captions[1] == ("val2017 two",) and has_split(tmp_path, "eval")
    assert load_captions(files[1], "train") == held
    assert train.left_out == (f"{files[0]}: 1 captions of images that it does not list",)


def test_boxes_of_coco_are_not_captions(tmp_path: Path) -> None:
    content = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [{"image_id": 1, "bbox": []}]}
    (tmp_path / "instances.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="but not their 'caption'"):
        load_captions(tmp_path / "instances.json", "train")


def test_a_split_of_karpathy(tmp_path: Path) -> None:
    images(tmp_path / "images")
    parts = ("train", "test")
    content = {
        "dataset": "flickr8k",
        "images": [
            {"filename": name, "split": part, "sentences": [{"raw": text}, {"raw": "more"}]}
            for (name, text), part in zip(PAIRS, parts, strict=True)
        ],
    }
    file = tmp_path / "dataset_flickr8k.json"
    file.write_text(json.dumps(content))
    assert has_split(file, "eval")
    assert load_captions(file, "train").captions == (("one", "more"),)
    assert load_captions(file, "eval").captions == (("two", "more"),)


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_metadata_of_the_datasets_library(tmp_path: Path, kind: str) -> None:
    for part in ("train", "validation"):
        images(tmp_path / part)
        rows = [(name, f"{part} {text}") for name, text in PAIRS]
        lines = [json.dumps({"file_name": name, "text": text}) for name, text in rows]
        if kind == "csv":
            lines = ["file_name,text", *(",".join(row) for row in rows)]
        (tmp_path / part / f"metadata.{kind}").write_text("\n".join(lines))
    assert load_captions(tmp_path, "train").captions == (("train one",), ("train two",))
    assert load_captions(tmp_path, "eval").captions == (("validation one",), ("validation two",))


def test_metadata_above_the_parts(tmp_path: Path) -> None:
    for part in ("train", "test"):
        images(tmp_path / part)
    lines = [f"{part}/{name},{part} {text}" for part in ("train", "test") for name, text in PAIRS]
    (tmp_path / "metadata.csv").write_text("\n".join(["file_name,text", *lines]))
    assert load_captions(tmp_path, "eval").captions == (("test one",), ("test two",))


def test_caption_files_beside_images(tmp_path: Path) -> None:
    images(tmp_path)
    (tmp_path / "a.caption").write_text("one")
    (tmp_path / "b.txt").write_text("two")
    assert load_captions(tmp_path, "train").captions == (("one",), ("two",))


def test_what_is_not_a_list(tmp_path: Path) -> None:
    for text, message in (
        ("3", "not a list of images"),
        ('[{"a": 1}]', "no column of images: a"),
        ("[", "JSON"),
    ):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(InputError, match=message):
            load_captions(tmp_path / "x.json", "train")
