"""The checksum of a set sees what its images are, and remembers it."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from effcli.distill.clip_kd.captions import checksums
from effcli.distill.clip_kd.captions.checksums import checksum
from effcli.distill.clip_kd.captions.sources import load_captions
from tests.distill.clip_kd.captions.caption_files import encoded, save_grey, save_tar


def of(folder: Path, memory: Path | None = None) -> str:
    return checksum(load_captions(folder, "train"), memory)


def save_set(folder: Path) -> Path:
    for i in range(3):
        save_grey(folder / f"{i}.png", 10 + i).with_suffix(".txt").write_text(f"caption {i}")
    return folder


def test_pictures_that_are_rewritten_in_place_with_the_same_size(tmp_path: Path) -> None:
    first = of(save_set(tmp_path / "a"))
    assert of(tmp_path / "a") == first
    status = (tmp_path / "a" / "1.png").stat()
    save_grey(tmp_path / "a" / "1.png", 77)
    os.utime(tmp_path / "a" / "1.png", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (tmp_path / "a" / "1.png").stat().st_size == status.st_size
    second = of(tmp_path / "a")
    (tmp_path / "a" / "1.txt").write_text("another")
    assert len({first, second, of(tmp_path / "a")}) == 3


def test_the_same_set_elsewhere_and_in_a_tar(tmp_path: Path) -> None:
    first = of(save_set(tmp_path / "a"))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert of(tmp_path / "b") == first
    names = [file.name for file in sorted((tmp_path / "a").iterdir())]
    save_tar(tmp_path / "c" / "c.tar", [(name, (tmp_path / "a" / name).read_bytes()) for name in names])
    assert of(tmp_path / "c") == first
    (tmp_path / "b" / "0.png").rename(tmp_path / "b" / "9.png")
    (tmp_path / "b" / "0.txt").rename(tmp_path / "b" / "9.txt")
    assert of(tmp_path / "b") != first


def test_what_is_remembered_is_forgotten_when_a_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_set(tmp_path / "a")
    first = of(tmp_path / "a", tmp_path / "memory")
    assert not (tmp_path / "memory").exists()  # the files are too new
    monkeypatch.setattr(checksums, "_SETTLED_NS", -1)
    assert checksum(load_captions(tmp_path / "a", "train"), tmp_path / "memory", remember=False) == first
    assert not (tmp_path / "memory").exists()
    assert of(tmp_path / "a", tmp_path / "memory") == first
    (file,) = (tmp_path / "memory").iterdir()
    file.write_text("0" * 64)
    assert of(tmp_path / "a", tmp_path / "memory") == "0" * 64
    time.sleep(0.02)
    (tmp_path / "a" / "2.png").write_bytes(encoded(12))
    assert of(tmp_path / "a", tmp_path / "memory") == first
