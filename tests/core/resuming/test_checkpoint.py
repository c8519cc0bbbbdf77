from __future__ import annotations

import errno
import os
import random
import resource
import signal
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toy_task

from effcli.core.errors import RunError, UsageError
from effcli.core.resuming.checkpoint import VERSION, CheckpointStore
from tests.forkserver import spawner


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints", "recipe")


def files_in(store: CheckpointStore) -> list[str]:
    return sorted(path.name for path in store.folder.iterdir())


def step_of(store: CheckpointStore) -> int:
    content = CheckpointStore(store.folder, store.recipe).load("train")
    assert content is not None
    return int(content["step"])


def flip_a_bit(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def test_save_and_load(store: CheckpointStore) -> None:
    assert store.load("train") is None
    value: dict[str, Any] = {"w": torch.randn(3), "t": (1, 2.5, "x", None, True), "o": OrderedDict(a=[1])}
    store.save("train", {"step": 1, "value": value})
    content = store.load("train")
    assert content is not None
    assert (content["version"], content["recipe"], content["step"]) == (VERSION, "recipe", 1)
    assert torch.equal(content["value"].pop("w"), value.pop("w"))
    assert content["value"] == value
    assert files_in(store) == ["train.pt"]
    store.save("train", {"step": 2})
    store.save("train", {"step": 3})
    assert step_of(store) == 3
    assert files_in(store) == ["train.previous.pt", "train.pt"]


@pytest.mark.parametrize("damage", ["truncated", "empty", "garbage", "last byte", "another file"])
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(
    store: CheckpointStore, damage: str, warnings_logged: list[str]
) -> None:
    for step in (1, 2):
        store.save("train", {"step": step, "w": torch.randn(500)})
    newest = store.folder / "train.pt"
    content = newest.read_bytes()
    damaged = {
        "truncated": content[: len(content) // 2],
        "empty": b"",
        "garbage": b"garbage" * 100,
        "last byte": content[:-1],
    }
    if damage == "another file":
        torch.save([1, 2], newest)
    else:
        newest.write_bytes(damaged[damage])
    assert step_of(store) == 1
    assert warnings_logged == [f"{newest} is damaged"]
    (store.folder / "train.previous.pt").write_bytes(b"")
    with pytest.raises(UsageError, match="damaged, and no other one is left") as caught:
        step_of(store)
    assert caught.value.place == str(newest)


def test_no_flipped_bit_goes_unnoticed(store: CheckpointStore) -> None:
    value = torch.arange(500.0)
    store.save("train", {"w": value})
    newest = store.folder / "train.pt"
    intact = newest.read_bytes()
    n_damaged = 0
    for position in random.Random(0).sample(range(len(intact)), 150):
        flip_a_bit(newest, position)
        try:
            content = CheckpointStore(store.folder, "").load("train")
        except UsageError:
            n_damaged += 1
        else:  # padding between the parts of the file
            assert content is not None
            assert torch.equal(content["w"], value)
        newest.write_bytes(intact)
    assert n_damaged > 100


def test_a_damaged_checkpoint_never_replaces_the_spare(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (1, 2):
        store.save("train", {"step": step})
    (store.folder / "train.pt").write_bytes(b"damaged")
    assert step_of(store) == 1
    store.load("train")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", lambda *_: raise_(OSError(errno.EIO, "Input/output error")))
        with pytest.raises(RunError):
            store.save("train", {"step": 3})
    assert step_of(store) == 1
    store.save("train", {"step": 3})
    store.save("train", {"step": 4})
    assert step_of(store) == 4
    assert files_in(store) == ["train.previous.pt", "train.pt"]


def test_a_newer_version_is_refused_not_passed_over(store: CheckpointStore) -> None:
    for step in (1, 2):
        store.save("train", {"step": step})
    torch.save({"version": VERSION + 1}, store.folder / "train.pt")
    with pytest.raises(UsageError, match="newer effcli") as caught:
        store.load("train")
    assert caught.value.hint == "upgrade effcli"


def test_an_unreadable_checkpoint_is_not_called_damaged(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (1, 2):
        store.save("train", {"step": step})
    monkeypatch.setattr(Path, "open", lambda *_: raise_(PermissionError(errno.EACCES, "Permission denied")))
    with pytest.raises(RunError, match="cannot be read: Permission denied"):
        store.load("train")


def test_code_in_a_checkpoint_is_not_run(store: CheckpointStore, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "owned"),)

    store.save("train", {"step": 1})
    torch.save({"version": VERSION, "x": Evil()}, store.folder / "train.pt")
    with pytest.raises(UsageError, match="damaged"):
        store.load("train")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("value", [np.float64(1), {1: Path("x")}, object])
def test_what_could_not_be_read_back_is_refused_when_it_is_saved(store: CheckpointStore, value: Any) -> None:
    store.save("train", {"step": 1})
    with pytest.raises(RunError, match="cannot be read back"):
        store.save("train", {"step": 2, "value": value})
    assert step_of(store) == 1
    assert files_in(store) == ["train.pt"]


def raise_(error: BaseException) -> Any:
    raise error


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        ("save", OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        ("save", RuntimeError("PytorchStreamWriter failed writing file"), "cannot be written: Pytorch"),
        ("save", OSError(errno.EROFS, "Read-only file system"), "cannot be written: Read-only file system"),
        ("replace", OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        ("mkdir", OSError(errno.EROFS, "Read-only file system"), "cannot be written: Read-only file system"),
    ],
)
def test_a_failed_write_keeps_earlier_checkpoints(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, function: str, error: BaseException, message: str
) -> None:
    for step in (1, 2):
        store.save("train", {"step": step})
    with monkeypatch.context() as patch:
        owner = torch if function == "save" else Path
        patch.setattr(owner, function, lambda *_, **__: raise_(error))
        with pytest.raises(RunError, match=message):
            store.save("train", {"step": 3})
    assert step_of(store) == 2
    assert not [name for name in files_in(store) if name.startswith(".part-")]
    store.save("train", {"step": 3})
    assert step_of(store) == 3


def test_a_file_that_may_not_grow_is_a_run_error(store: CheckpointStore) -> None:
    """The kernel's own refusal, as a full disk gives it."""
    store.save("train", {"step": 1})
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(RunError, match="cannot be written"):
            store.save("train", {"step": 2, "w": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert step_of(store) == 1
    assert files_in(store) == ["train.pt"]


@pytest.mark.parametrize("is_newest_damaged", [False, True])
@pytest.mark.parametrize("n_renames", [0, 1])
def test_a_process_that_dies_while_it_saves_leaves_a_readable_checkpoint(
    store: CheckpointStore, n_renames: int, is_newest_damaged: bool
) -> None:
    for step in (1, 2):
        store.save("train", {"step": step})
    if is_newest_damaged:
        (store.folder / "train.pt").write_bytes(b"damaged")
    process = spawner.Process(target=toy_task.save_and_die, args=(str(store.folder), n_renames))
    process.start()
    process.join(60)
    died = not (
        is_newest_damaged and n_renames == 1
    )  # a damaged one is not renamed, so there is one rename less
    assert process.exitcode == (9 if died else 0)
    assert step_of(store) == (3 if not died else 1 if is_newest_damaged else 2)
