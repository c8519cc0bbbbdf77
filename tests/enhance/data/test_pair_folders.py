"""Pairs in folders as people have them: parts by other names, hidden files, damaged pictures, other depths."""

from __future__ import annotations

import logging
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effcli.core.errors import InputError
from effcli.enhance.data.pairs import load_pairs, splits_of


def write_pair(folder: Path, name: str, value: int = 0, sides: tuple[str, str] = ("low", "high")) -> None:
    for side, level in zip(sides, (value, value + 5), strict=True):
        (folder / side).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 10), (level, level, level)).save(folder / side / name)


def pack(folder: Path) -> Path:
    archive = folder.with_suffix(".tar")
    with tarfile.open(archive, "w") as tar:
        tar.add(folder, folder.name)
    return archive


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("train", "held"), [("Train", "Test"), ("training", "validation"), ("trn", "dev"), ("train", "eval")]
)
def test_parts_by_all_their_names(tmp_path: Path, train: str, held: str, packed: bool) -> None:
    root = tmp_path / "lol"
    write_pair(root / train, "a.png", 10, ("Low", "High"))
    write_pair(root / held, "b.png", 20)
    source = pack(root) if packed else root
    assert splits_of(source) == ("train", "eval")
    for split, level in (("train", 10), ("eval", 20)):
        pairs = load_pairs(source, split)  # type: ignore[arg-type]
        assert (len(pairs), int(pairs[0][0].max())) == (1, level)


@pytest.mark.parametrize("packed", [False, True])
def test_of_two_parts_to_measure_on_one_is_used_and_said(
    tmp_path: Path, packed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "lol"
    for part, level in (("train", 10), ("val", 20), ("test", 30)):
        write_pair(root / part, "a.png", level)
    source = pack(root) if packed else root
    assert int(load_pairs(source, "eval")[0][0].max()) == 20
    assert caplog.messages == [f"{source}: val/ is used to measure on, not test/"]


@pytest.mark.parametrize("packed", [False, True])
def test_hidden_files_are_no_pictures_and_others_are_said(
    tmp_path: Path, packed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "lol"
    write_pair(root, "a.png")
    (root / "__MACOSX" / "low").mkdir(parents=True)
    for name in ("low/._a.png", "high/.b.png", "__MACOSX/low/._a.png", "low/Thumbs.db", "low/notes.txt"):
        (root / name).write_bytes(b"x")
    pairs = load_pairs(pack(root) if packed else root, None)
    assert (pairs.names, pairs.unmatched) == (("a.png",), ())
    assert [message.endswith("left out: 1 .txt") for message in caplog.messages] == ([] if packed else [True])


def test_a_linked_side_is_followed(tmp_path: Path) -> None:
    write_pair(tmp_path / "there", "a.png")
    (tmp_path / "set" / "low").mkdir(parents=True)
    (tmp_path / "set" / "high").symlink_to(tmp_path / "there" / "high")
    (tmp_path / "set" / "low" / "deep").symlink_to(tmp_path / "there" / "low")
    Image.new("RGB", (12, 10)).save(tmp_path / "set" / "low" / "a.png")
    pairs = load_pairs(tmp_path / "set", None)
    assert pairs.names == ("a.png",) and pairs.unmatched == (str(tmp_path / "set/low/deep/a.png"),)


@pytest.mark.parametrize("limit", [0, 2**30])
def test_a_damaged_pair_to_learn_from_is_left_out_and_one_to_measure_on_is_not(
    tmp_path: Path, limit: int, caplog: pytest.LogCaptureFixture
) -> None:
    for part in ("train", "val"):
        for n in range(3):
            write_pair(tmp_path / part, f"{n}.png", 10 * n)
        whole = (tmp_path / part / "high" / "1.png").read_bytes()
        (tmp_path / part / "high" / "1.png").write_bytes(whole[:45])
    with caplog.at_level(logging.WARNING):
        pairs = load_pairs(tmp_path, "train", decoded_bytes_limit=limit)
    assert pairs.names == ("0.png", "2.png") and [int(low.max()) for low, _ in pairs] == [0, 20]
    assert len(caplog.messages) == 1 and "train/high/1.png" in caplog.messages[0]
    with pytest.raises(InputError, match=r"val/high/1\.png"):
        load_pairs(tmp_path, "eval", decoded_bytes_limit=limit)


def test_16_bit_pairs_are_scaled(tmp_path: Path) -> None:
    for side, level in (("low", 0x1234), ("high", 0xFFFF)):
        (tmp_path / side).mkdir()
        Image.fromarray(np.full((10, 12), level, np.uint16)).save(tmp_path / side / "a.png")
    low, high = load_pairs(tmp_path, None)[0]
    assert (low.unique().tolist(), high.unique().tolist()) == ([0x12], [255])
