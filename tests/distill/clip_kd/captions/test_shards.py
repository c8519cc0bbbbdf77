"""WebDataset shards as people have them, and damaged ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from effcli.core.errors import InputError
from effcli.data.stored_files import index_tar
from effcli.distill.clip_kd.captions.sources import has_split, load_captions
from tests.distill.clip_kd.captions.caption_files import encoded, greys, save_tar


def members(n: int = 8) -> list[tuple[str, bytes]]:
    return [pair for i in range(n) for pair in ((f"{i}.png", encoded(i)), (f"{i}.txt", b"caption"))]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("1.json", json.dumps({"caption": "a cat", "width": 3}).encode()),
        ("1.json", json.dumps({"text": ["a cat"]}).encode()),
        ("1.caption", b"a cat"),
        ("1.caption.txt", b"a cat"),
    ],
)
@pytest.mark.parametrize("image", ["1.png", "1.image.png"])
def test_where_captions_are(tmp_path: Path, name: str, data: bytes, image: str) -> None:
    shard = save_tar(tmp_path / "a.tar", [(image, encoded(7)), (name, data)])
    assert load_captions(shard, "train").captions == (("a cat",),)


def test_names_with_dots(tmp_path: Path) -> None:
    shard = save_tar(
        tmp_path / "a.tar",
        [
            ("v1.2/im.001.png", encoded(1)),
            ("v1.2/im.001.txt", b"one"),
            ("im.002.png", encoded(2)),
            ("im.002.txt", b"two"),
        ],
    )
    assert load_captions(shard, "train").captions == (("one",), ("two",))


def test_classes_by_number_and_by_name(tmp_path: Path) -> None:
    for part in ("train", "test"):
        pairs = [(f"{i}.png", encoded(i)) for i in range(3)]
        save_tar(tmp_path / part / "0.tar", [*pairs, ("0.cls", b"1"), ("1.cls", b"0\n"), ("2.cls", b"1")])
    with pytest.raises(InputError, match="its classes are numbers without names"):
        load_captions(tmp_path, "eval")
    (tmp_path / "classnames.txt").write_text("cat\ndog\n")
    held = load_captions(tmp_path, "eval")
    assert has_split(tmp_path, "eval") and held.classes == ("cat", "dog") and held.labels == (1, 0, 1)
    assert held.captions[0] == ("a photo of a dog",)
    (tmp_path / "classnames.txt").write_text("cat\n")
    with pytest.raises(InputError, match="has 1 names, but there is a class 1"):
        load_captions(tmp_path, "eval")
    words = save_tar(
        tmp_path / "w.tar",
        [("0.png", encoded(0)), ("0.cls", b"owl"), ("1.png", encoded(1)), ("1.cls", b"bee")],
    )
    assert load_captions(words, "train").classes == ("bee", "owl")


def test_several_images_with_one_key_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pairs = [
        ("a.png", encoded(1)),
        ("a.gif", encoded(2)),
        ("a.txt", b"one"),
        ("b.png", encoded(3)),
        ("b.txt", b"two"),
    ]
    shard = save_tar(tmp_path / "a.tar", pairs)
    assert len(load_captions(shard, "train")) == 3
    assert caplog.messages == [
        f"{shard}: 1 key with several images: each image counts, with the captions of its key"
    ]


def test_templates_of_clip_benchmark_beside_the_shards(tmp_path: Path) -> None:
    members = [("0.png", encoded(0)), ("0.cls", b"0"), ("1.png", encoded(1)), ("1.cls", b"1")]
    save_tar(tmp_path / "test" / "0.tar", members)
    (tmp_path / "classnames.txt").write_text("cat\ndog\n")
    assert load_captions(tmp_path, "eval").class_templates == ("a photo of a {}",)
    file = tmp_path / "zeroshot_classification_templates.txt"
    file.write_text("a sketch of a {c}.\n\n{c}, drawn\n")
    assert load_captions(tmp_path, "eval").class_templates == ("a sketch of a {}.", "{}, drawn")
    file.write_text("a sketch of a {c}.\na cat\n")
    with pytest.raises(InputError, match=r"\{c\} must occur once in each line: 'a cat'"):
        load_captions(tmp_path, "eval")
    file.write_text("\n")
    with pytest.raises(InputError, match="has no templates"):
        load_captions(tmp_path, "eval")


def test_a_name_that_is_there_twice(tmp_path: Path) -> None:
    shard = save_tar(tmp_path / "a.tar", [("1.png", encoded(1)), ("1.txt", b"one")] * 24)
    with pytest.raises(InputError, match=r"holds '1\.png' 24 times"):
        load_captions(shard, "train")


@pytest.mark.parametrize("n_bytes", [700, 3000, 5 * 512 + 100])
def test_a_truncated_shard(tmp_path: Path, n_bytes: int) -> None:
    shard = save_tar(tmp_path / "a.tar", members())
    whole = shard.read_bytes()
    assert len(load_captions(shard, "train")) == 8
    shard.write_bytes(whole[:n_bytes])
    with pytest.raises(InputError, match=r"truncated or damaged|cannot be read as a tar"):
        load_captions(shard, "train")


def test_a_shard_without_its_end_mark_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shard = save_tar(tmp_path / "a.tar", members(2))
    end = len(shard.read_bytes().rstrip(b"\0")) // 512 * 512 + 512
    shard.write_bytes(shard.read_bytes()[:end])
    assert greys(load_captions(shard, "train")) == [0, 1]
    assert caplog.messages == [f"{shard}: has no end mark behind its 4 members; it may be truncated"]


def test_damage_inside_and_joined_tars(tmp_path: Path) -> None:
    shard = save_tar(tmp_path / "a.tar", members(3))
    data = bytearray(shard.read_bytes())
    data[2 * 512 : 3 * 512] = b"x" * 512
    shard.write_bytes(data)
    with pytest.raises(InputError, match="truncated or damaged after its first 1 members, at byte 1,024"):
        index_tar(shard)
    other = save_tar(tmp_path / "b.tar", members(1))
    with other.open("ab") as stream, save_tar(tmp_path / "c.tar", members(2)).open("rb") as more:
        shutil.copyfileobj(more, stream)
    with pytest.raises(InputError, match="has data after its end mark"):
        index_tar(other)
