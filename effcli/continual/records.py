"""What a run remembers of the images that it learned: no pixels, but a digest of each.

By these an image is known again wherever its file lies and whatever it is called now: what was learned is compared, not
paths. Old images are needed only to measure on them again.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from effcli.core.resuming.checkpoint import CheckpointStore
from effcli.data.image_sets import ImageSet

_DIGEST_BYTES = 8

Key: TypeAlias = tuple[str, int]
"""The name of a class, and the digest of an image of it."""


@dataclass(frozen=True)
class TaskRecord:
    """One task of a run, as its checkpoints remember it.

    Attributes:
        number: of the task, from 0.
        source: where it comes from: 0 is ``data.source``, n + 1 is ``data.more[n]``.
        n_siblings: how many tasks come from there.
        names: of all classes up to this task, by number.
        first_class: the number of its first new class.
        side, channels: of the images.
        statistics: mean and deviation of each channel, 0..1.
        train, train_labels: digest and class number of each training image, int64 ``[N]``.
        eval, eval_labels: of each test image.
        is_learned: nothing more will be computed from the training images.
    """

    number: int
    source: int
    n_siblings: int
    names: tuple[str, ...]
    first_class: int
    side: int
    channels: Literal[1, 3]
    statistics: tuple[tuple[float, ...], tuple[float, ...]]
    train: Tensor
    train_labels: Tensor
    eval: Tensor
    eval_labels: Tensor
    is_learned: bool = False

    def keys(self, part: Literal["train", "eval"]) -> list[Key]:
        """Class and digest of each image of a part."""
        digests, labels = (
            (self.train, self.train_labels) if part == "train" else (self.eval, self.eval_labels)
        )
        return [
            (self.names[label], digest)
            for label, digest in zip(labels.tolist(), digests.tolist(), strict=True)
        ]

    def state_dict(self) -> dict[str, Any]:
        """As a checkpoint keeps it."""
        state = {name: value for name, value in vars(self).items() if name != "is_learned"}
        return {**state, "names": list(self.names), "statistics": [list(one) for one in self.statistics]}


Known: TypeAlias = TaskRecord | str
"""What is known of a task that a run has begun: its record, or in runs of version 0.1 one digest of all images."""


def record_of(state: Mapping[str, Any], *, is_learned: bool) -> TaskRecord:
    """The record that :meth:`TaskRecord.state_dict` made a checkpoint of."""
    mean, std = state["statistics"]
    fields = {name: value for name, value in state.items() if name != "fingerprint"}
    found = TaskRecord(**{**fields, "names": tuple(state["names"]), "statistics": (tuple(mean), tuple(std))})
    return replace(found, is_learned=is_learned)


def known_tasks(run: Path) -> list[Known]:
    """What a run directory remembers of its tasks; nothing of a new or missing one.

    Raises:
        UsageError: a checkpoint is damaged.
    """
    store, found = CheckpointStore(run / "checkpoints", ""), list[Known]()
    while store.has(data_stage(len(found))):
        saved = store.load(data_stage(len(found)))
        assert saved is not None
        value, is_learned = saved["value"], store.has(learned_stage(len(found)))
        found.append(value if isinstance(value, str) else record_of(value, is_learned=is_learned))
    return found


def data_stage(number: int) -> str:
    """The name of the checkpoint with a task's record."""
    return f"data-{number}"


def learned_stage(number: int) -> str:
    """The name of the checkpoint that is written when a task's images are needed no more."""
    return f"learned-{number}"


def details_stage(number: int) -> str:
    """The name of the checkpoint with what is answered for each test image, where this task is the last."""
    return f"details-{number}"


def digests_of(images: Tensor) -> Tensor:
    """A digest of each of some uint8 images ``[N, C, S, S]``, int64 ``[N]``."""
    found = np.empty(len(images), np.int64)
    for row, image in enumerate(images.contiguous().numpy()):
        digest = hashlib.blake2b(image.tobytes(), digest_size=_DIGEST_BYTES).digest()
        found[row] = int.from_bytes(digest, "little", signed=True)
    return torch.from_numpy(found)


def keys_of(images: ImageSet) -> list[Key]:
    """Class and digest of each image of a set whose labels number its own classes."""
    names = [images.classes[label] for label in images.labels.tolist()]
    return list(zip(names, digests_of(images.images).tolist(), strict=True))


def rows_of(keys: Sequence[Key], wanted: Sequence[Key]) -> tuple[list[int], list[int]]:
    """Where wanted images are.

    Returns:
        The numbers of those that are there among ``wanted``, and their rows among ``keys``.
    """
    row_of = {key: row for row, key in enumerate(keys)}
    there = [number for number, key in enumerate(wanted) if key in row_of]
    return there, [row_of[wanted[number]] for number in there]


def renamed_classes(keys: Collection[Key], wanted: Collection[Key]) -> dict[str, tuple[str, int]]:
    """Classes of wanted images none of which is among ``keys``, but many as images of another class.

    Returns:
        By the name of such a class: the other one, and how many of its images that has, at least half of them.
    """
    name_of = {digest: name for name, digest in keys}
    there = {name for name, _ in keys}
    found: dict[str, tuple[str, int]] = {}
    n_wanted = Counter(name for name, _ in wanted)
    others = Counter((name, name_of[digest]) for name, digest in wanted if digest in name_of)
    for (name, other), n in others.items():
        if name not in there and 2 * n >= n_wanted[name]:
            found[name] = other, n
    return found
