"""Images with captions or classes packed into one .npz."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np

from effcli.core.errors import InputError
from effcli.data.stored_files import Split
from effcli.distill.clip_kd.captions.caption_set import CLASS_CAPTION, CaptionSet
from effcli.distill.clip_kd.captions.folders import readable

_PREFIXES: dict[str, tuple[str, ...]] = {"train": ("train",), "eval": ("eval", "test")}


def has_split_in(file: Path, split: Split) -> bool:
    """Whether an .npz has images of a split."""
    with np.load(file, allow_pickle=False) as content:
        return any(f"{prefix}_offsets" in content.files for prefix in _PREFIXES[split])


def read_npz(file: Path, split: Split, place: str) -> CaptionSet:
    """The images of a split; ``place`` is the file as it was named.

    Raises:
        InputError: it cannot be read, or has none.
    """
    try:
        with np.load(file, allow_pickle=False) as content:
            prefix = next((p for p in _PREFIXES[split] if f"{p}_offsets" in content.files), None)
            kind = next((k for k in ("png", "jpeg", "webp") if f"{prefix}_{k}" in content.files), None)
            if prefix is None or kind is None:
                raise InputError(f"has no encoded {split} images", place=place)
            data, offsets = content[f"{prefix}_{kind}"].tobytes(), content[f"{prefix}_offsets"].tolist()
            images = tuple(data[start:end] for start, end in itertools.pairwise(offsets))
            template = "{}:" if f"{prefix}_category" in content.files else CLASS_CAPTION
            return CaptionSet(images, *_texts_of(content, prefix, place), class_templates=(template,))
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"cannot be read as .npz: {error}", place=place) from None


def _texts_of(
    content: Any, prefix: str, place: str
) -> tuple[tuple[tuple[str, ...], ...], tuple[int, ...], tuple[str, ...]]:
    """Captions, labels and classes; of emoji their name, their keywords and their name with its category."""
    names = set(content.files)
    labels: tuple[int, ...] = ()
    classes: tuple[str, ...] = ()
    if f"{prefix}_labels" in names and "classes" in names:
        classes = tuple(readable(str(name)) for name in content["classes"])
        labels = tuple(map(int, content[f"{prefix}_labels"]))
    elif f"{prefix}_category" in names:
        kinds = [content[name] for name in content.files if name.endswith("_category")]
        classes = tuple(sorted({str(name) for kind in kinds for name in kind}))
        labels = tuple(classes.index(str(name)) for name in content[f"{prefix}_category"])
    if f"{prefix}_captions" in names:
        columns = [content[f"{prefix}_captions"]]
        if f"{prefix}_keywords" in names:
            columns.append(content[f"{prefix}_keywords"])
        if f"{prefix}_category" in names:
            columns.append(
                [f"{classes[label]}: {name}" for label, name in zip(labels, columns[0], strict=True)]
            )
        rows = [
            tuple(dict.fromkeys(text for one in row if (text := str(one).strip())))
            for row in zip(*columns, strict=True)
        ]
        return tuple(rows), labels, classes
    if not labels:
        raise InputError("has neither captions nor labels", place=place)
    return tuple((CLASS_CAPTION.format(classes[label]),) for label in labels), labels, classes
