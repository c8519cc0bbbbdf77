"""`effcli continual predict`: files, folders and a pipe, batch by batch."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from effcli.continual.prediction.predictor import Answer, Predictor
from effcli.core.errors import EffcliError, InputError
from effcli.data.images import read_image
from effcli.data.picture_folders import pictures_in

PIPE = "-"
"""Stands for a picture on standard input."""


def pictures_of(places: Sequence[str]) -> list[str]:
    """The files among places, and the pictures in folders among them and in their sub-folders, in order.

    Raises:
        InputError: a place is not there, or a folder holds no pictures.
    """
    files: list[str] = []
    for place in places:
        path = Path(place)
        if place == PIPE or path.is_file():
            files.append(place)
        elif path.is_dir():
            files += map(str, pictures_in(path))
        else:
            raise InputError("no such file or folder", place=place)
    return files


def predict_files(
    predictor: Predictor, files: Sequence[str], *, k: int, unknown_below: float | None, batch_size: int
) -> Iterator[list[dict[str, Any]]]:
    """Say what pictures show, a batch at a time.

    Args:
        predictor: the classifier.
        files: from :func:`pictures_of`.
        k: how many classes are named.
        unknown_below: as in :meth:`~effcli.continual.prediction.predictor.Predictor.predict`.
        batch_size: pictures at a time.

    Yields:
        For each picture of a batch ``file``, ``label`` (null: none of the known classes), ``score`` and ``top``; or
        ``file`` and ``error`` of one that cannot be read.
    """
    for first in range(0, len(files), batch_size):
        lines: list[dict[str, Any]] = []
        images, rows = [], []
        for file in files[first : first + batch_size]:
            lines.append({"file": file})
            try:
                pixels = read_image(sys.stdin.buffer.read() if file == PIPE else Path(file), place=file)
            except EffcliError as error:
                lines[-1]["error"] = error.message
                continue
            images.append(predictor.prepared(pixels))
            rows.append(len(lines) - 1)
        if images:
            answers = predictor.answers(torch.stack(images), k, unknown_below)
            for row, answer in zip(rows, answers, strict=True):
                lines[row] |= _plain(answer)
        yield lines


def _plain(answer: Answer) -> dict[str, Any]:
    top = [{"label": label, "score": round(score, 4)} for label, score in answer.top]
    return {"label": answer.label, "score": round(answer.score, 4), "top": top}
