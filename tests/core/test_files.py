from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from effcli.core.errors import InputError, RunError, UsageError
from effcli.core.files import (
    atomic_path,
    check_writable,
    decoded,
    is_vacant,
    lock_folder,
    remove_parts,
    sha256,
    write_text,
)


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "a b.txt"
    write_text(file, "old")
    with pytest.raises(KeyboardInterrupt), atomic_path(file) as temporary:
        temporary.write_text("half")
        assert (temporary.parent, temporary.suffix) == (tmp_path, ".txt")
        assert file.read_text() == "old"
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["a b.txt"]
    write_text(file, "new")
    assert file.read_text() == "new"


def test_permissions_are_the_user_s(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "x", "")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o640


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the disk is full"),
        (errno.EIO, "cannot be written: "),
    ],
)
def test_a_failed_write_is_a_run_error_that_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, message: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    write_text(tmp_path / "x", "old")
    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(RunError, match=message) as caught:
        write_text(tmp_path / "x", "new")
    assert caught.value.place == str(tmp_path / "x")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_a_missing_folder_and_a_folder_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for file in (tmp_path / "none" / "x", tmp_path / "folder"):
        with pytest.raises(RunError, match="cannot be written"):
            write_text(file, "x")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_text_with_a_file_name_that_is_not_utf8(tmp_path: Path) -> None:
    write_text(tmp_path / "x", "name: \udcff ☃\n")
    assert (tmp_path / "x").read_bytes() == b"name: \\udcff \xe2\x98\x83\n"


def test_check_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_writable(tmp_path / "new" / "folder")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UsageError, match="is a file, not a folder"):
            check_writable(place)

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(UsageError, match="cannot be written: Permission denied"):
        check_writable(tmp_path / "other")


def test_what_a_killed_process_leaves_is_removed_and_counts_for_nothing(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    for name in (".part-1.pt", "below/.part-2.png", "below/kept.png"):
        (tmp_path / name).touch()
    remove_parts(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["below", "kept.png"]
    assert not is_vacant(tmp_path)
    assert is_vacant(tmp_path / "nowhere")


def test_a_folder_is_locked_until_the_lock_is_closed(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    lock = lock_folder(tmp_path)
    with pytest.raises(UsageError, match="another process is working in this directory"):
        lock_folder(tmp_path)
    lock.close()
    lock_folder(tmp_path).close()
    assert is_vacant(tmp_path)


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize(
    ("encoding", "message", "hint"),
    [
        ("utf-8", "", ""),
        ("utf-8-sig", "", ""),
        ("utf-16", "", ""),
        ("cp1252", "is not UTF-8", "iconv -f cp1252"),
        ("utf-16-le", "is not UTF-8", "iconv -f utf-16le"),
        ("utf-16-be", "is not UTF-8", "iconv -f utf-16be"),
        ("utf-32", "is not UTF-8", "iconv -f utf-32"),
    ],
)
@pytest.mark.parametrize("text", ["a cat\na dog\n", "Käfer für 5 €\nein Hund\n"])
def test_text_is_read_whole_or_not_at_all(text: str, encoding: str, message: str, hint: str) -> None:
    data = text.encode(encoding)
    if not message or (encoding == "cp1252" and text.isascii()):
        assert decoded(data, "file") == text
        return
    with pytest.raises(InputError, match=message) as caught:
        decoded(data, "file")
    assert str(caught.value.place).startswith("file:1") and str(caught.value.hint).startswith(hint)
