"""Every form of pairs, and what is wrong with them."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from effcli.core.errors import InputError
from effcli.distill.clip_kd.captions.caption_set import CaptionSet, hold_out, part_of_set
from effcli.distill.clip_kd.captions.sources import has_split, load_captions
from effcli.distill.clip_kd.recipe import ClipPairsSection


def picture(path: Path, grey: int, size: tuple[int, int] = (6, 4)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (grey, grey, grey)).save(path)
    return path


def encoded(grey: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (6, 4), (grey, grey, grey)).save(stream, "PNG")
    return stream.getvalue()


def tar_of(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def greys(pairs: CaptionSet) -> list[int]:
    return [pairs.image(i).getpixel((0, 0))[0] for i in range(len(pairs))]


@pytest.mark.parametrize("separator", [",", "\t", ";"])
@pytest.mark.parametrize("columns", [("filepath", "title"), ("image", "caption"), ("Path", "Text")])
def test_csv(tmp_path: Path, separator: str, columns: tuple[str, str]) -> None:
    picture(tmp_path / "a b.png", 10)
    picture(tmp_path / "sub" / "ü.png", 20)
    rows = [columns, ("a b.png", "one  thing"), ("sub/ü.png", "other"), ("a b.png", "the same again")]
    (tmp_path / "pairs.csv").write_text("\n".join(separator.join(row) for row in rows), encoding="utf-8")
    pairs = load_captions(tmp_path / "pairs.csv", "train")
    assert pairs.captions == (("one thing", "the same again"), ("other",))
    assert greys(pairs) == [10, 20]


def test_csv_with_columns_of_other_names(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 10)
    file = tmp_path / "pairs.csv"
    file.write_text("where,what\na.png,thing\n")
    with pytest.raises(InputError, match="no column of images: where, what"):
        load_captions(file, "train")
    with pytest.raises(InputError, match="no column 'x'"):
        load_captions(file, "train", image_column="x")
    assert len(load_captions(file, "train", image_column="where", caption_column="what")) == 1


def test_csv_leaves_out_what_cannot_be_used(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 10)
    (tmp_path / "pairs.csv").write_text(
        'filepath,title\na.png,"a, quoted ""thing"""\ngone.png,x\na.png,  \n\n'
    )
    pairs = load_captions(tmp_path / "pairs.csv", "train")
    assert pairs.captions == (('a, quoted "thing"',),)
    assert [line.split(": ")[1] for line in pairs.left_out] == ["no such image", "empty caption"]


def test_csv_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_bytes(b"filepath,title\na.png,caf\xe9\n")
    with pytest.raises(InputError, match="not UTF-8") as caught:
        load_captions(tmp_path / "pairs.csv", "train")
    assert str(caught.value.place).endswith("pairs.csv:2")


def test_folder_with_texts_beside(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 10).with_suffix(".txt").write_text("one\n\ntwo\n")
    picture(tmp_path / "deep" / "b.png", 20).with_suffix(".txt").write_text("three")
    picture(tmp_path / "c.png", 30)
    pairs = load_captions(tmp_path, "train")
    assert pairs.captions == (("one", "two"), ("three",))
    assert [Path(line.split(": ")[0]).name for line in pairs.left_out] == ["c.png"]


def test_folder_with_a_list_and_parts(tmp_path: Path) -> None:
    for split, grey in (("train", 10), ("eval", 20)):
        picture(tmp_path / split / "a.png", grey)
        content = [{"file_name": "a.png", "caption": f"for {split}"}]
        (tmp_path / f"captions_{split}.json").write_text(json.dumps(content))
    assert greys(load_captions(tmp_path, "eval")) == [20]
    assert load_captions(tmp_path, "train").captions == (("for train",),)
    assert has_split(tmp_path, "eval")


def test_folder_of_classes(tmp_path: Path) -> None:
    picture(tmp_path / "big_cat" / "1.png", 10)
    picture(tmp_path / "dog" / "1.png", 20)
    pairs = load_captions(tmp_path, "train")
    assert pairs.classes == ("big cat", "dog") and pairs.labels == (0, 1)
    assert pairs.captions[0] == ("a photo of a big cat",)


def test_shards(tmp_path: Path) -> None:
    for n in (0, 1):
        members = {f"{n}.png": encoded(10 + n), f"{n}.txt": b"caption %d" % n, "x.json": b"{}"}
        tar_of(tmp_path / f"pairs-{n:03d}.tar", members | {"lonely.png": encoded(5)})
    for source in (tmp_path / "pairs-{000..001}.tar", tmp_path):
        pairs = load_captions(source, "train")
        assert greys(pairs) == [10, 11]
        assert pairs.captions == (("caption 0",), ("caption 1",))
        assert len(pairs.left_out) == 2
    with pytest.raises(InputError, match="1 of 3 shards are missing"):
        load_captions(tmp_path / "pairs-{000..002}.tar", "train")


def test_npz_of_emoji_and_of_classes(tmp_path: Path) -> None:
    images = [encoded(10), encoded(20)]
    common: dict[str, Any] = {
        "train_png": np.frombuffer(b"".join(images), np.uint8),
        "train_offsets": np.cumsum([0, *map(len, images)]),
    }
    np.savez(
        tmp_path / "emoji.npz",
        **common,
        train_captions=["red heart", "cat"],
        train_keywords=["heart", "cat"],
        train_category=["Symbols", "Animals"],
    )
    pairs = load_captions(tmp_path / "emoji.npz", "train")
    assert pairs.captions == (("red heart", "heart", "Symbols: red heart"), ("cat", "Animals: cat"))
    assert pairs.classes == ("Animals", "Symbols") and pairs.labels == (1, 0)
    texts, first = pairs.texts()
    assert texts[first[1]] == "cat" and first.tolist() == [0, 3, 5]
    np.savez(tmp_path / "classes.npz", **common, train_labels=[1, 0], classes=["a_b", "c"])
    assert load_captions(tmp_path / "classes.npz", "train").captions == (
        ("a photo of a c",),
        ("a photo of a a b",),
    )
    with pytest.raises(InputError, match="no encoded eval images"):
        load_captions(tmp_path / "classes.npz", "eval")


def test_the_set_in_the_package() -> None:
    train, held = (load_captions("builtin:twemoji-captions", split) for split in ("train", "eval"))
    assert (len(train), len(held)) == (1337, 287)
    assert train.classes == held.classes and len(train.classes) == 10
    assert train.image(0).size == (64, 64)


def test_transparent_images_are_on_white(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("nothing")
    assert load_captions(tmp_path, "train").image(0).getpixel((0, 0)) == (255, 255, 255)


def test_broken_image(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(InputError, match=r"a\.png: not an image"):
        load_captions(tmp_path, "train").image(0)


def test_nothing_there(tmp_path: Path) -> None:
    for source, message in ((tmp_path / "no.csv", "no such"), (tmp_path, "no images in it")):
        with pytest.raises(InputError, match=message):
            load_captions(source, "train")
    (tmp_path / "x.bin").write_bytes(b"")
    with pytest.raises(InputError, match="not a set of captions"):
        load_captions(tmp_path / "x.bin", "train")


def test_hold_out_is_the_same_each_time_and_leaves_something(tmp_path: Path) -> None:
    for n in range(40):
        picture(tmp_path / f"{n}.png", n).with_suffix(".txt").write_text(f"caption {n}")
    pairs = load_captions(tmp_path, "train")
    kept, held = hold_out(pairs, 0.25)
    again, _ = hold_out(pairs, 0.25)
    assert kept == again and len(kept) + len(held) == 40 and 3 < len(held) < 20
    assert not set(kept.captions) & set(held.captions)
    assert len(hold_out(pairs.select([0, 1]), 0.0001)[1]) == 1


def test_parts_share_no_image_and_are_the_whole(tmp_path: Path) -> None:
    pairs = load_captions("builtin:twemoji-captions", "train")
    parts = [part_of_set(pairs, f"{k}/3") for k in (1, 2, 3)]
    assert sum(map(len, parts)) == len(pairs) and all(380 < len(part) < 510 for part in parts)
    assert len({image for part in parts for image in part.images}) == len(set(pairs.images))
    assert part_of_set(pairs, "2/3") == parts[1] and part_of_set(pairs, "1/1") == pairs
    for wrong in ("3/2", "0/2", "a"):
        with pytest.raises(ValueError, match="part"):
            ClipPairsSection(part=wrong)
