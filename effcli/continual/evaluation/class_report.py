"""What becomes of each class: its images, its accuracy, and what it is taken for."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from effcli.continual.class_splits import ClassTask
from effcli.continual.evaluation.measuring import Scores, scores_of
from effcli.continual.network import Calibration
from effcli.continual.prediction.calibration import calibrate
from effcli.core.evidence.figures import save_figure
from effcli.core.files import write_text
from effcli.core.runtime import Runtime

_MOST_NAMED = 40
"""Classes whose names and counts are written on the axes of the confusion matrix."""

_MOST_CONFUSED = 5


def details_of(
    scores: Scores, network: nn.Module, tasks: Sequence[ClassTask], n_classes: int, runtime: Runtime
) -> dict[str, Any]:
    """What is answered for each test image, as a checkpoint keeps it.

    Args:
        scores: of images.
        network: put into evaluation mode.
        tasks: all that were learned.
        n_classes: K.
        runtime: where.

    Returns:
        ``labels`` and ``answers`` of all test images, int64 ``[N]``; ``n_train``, the training images of each class,
        int64 ``[K]``; and the fields of its ``calibration``, None without test images.
    """
    network.eval()
    with torch.no_grad():
        found_scores = [scores_of(scores, task.eval, runtime, n_classes)[:, :n_classes] for task in tasks]
    logits = torch.cat(found_scores)
    labels = torch.cat([task.eval.labels for task in tasks])
    n_train = torch.bincount(torch.cat([task.train_labels for task in tasks]), minlength=n_classes)
    found = vars(calibrate(logits, labels)) if len(labels) else None
    return {"labels": labels, "answers": logits.argmax(1), "n_train": n_train, "calibration": found}


def calibration_in(details: Mapping[str, Any]) -> Calibration | None:
    """The calibration that :func:`details_of` found."""
    fields = details["calibration"]
    return None if fields is None else Calibration(**fields)


def confusion_of(details: Mapping[str, Any]) -> Tensor:
    """How many test images of each class (rows) are taken for each class (columns), int64 ``[K, K]``."""
    n = len(details["n_train"])
    return torch.bincount(details["labels"] * n + details["answers"], minlength=n * n).reshape(n, n)


def class_metrics(details: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The mean over classes, how unequal they are, and which are taken for which."""
    confusion, n_train = confusion_of(details), details["n_train"]
    measured = confusion.sum(1) > 0
    shares = confusion.diagonal()[measured].double() / confusion.sum(1)[measured]
    wrong = confusion.clone().fill_diagonal_(0)
    worst = wrong.flatten().argsort(descending=True, stable=True)[:_MOST_CONFUSED].tolist()
    return {
        "per_class_mean": float(shares.mean()) if len(shares) else None,
        "per_class_worst": float(shares.amin()) if len(shares) else None,
        "smallest_class_images": int(n_train.amin()),
        "largest_class_images": int(n_train.amax()),
        "most_confused": [
            f"{names[row]} taken for {names[column]}: {int(wrong[row, column])} of {int(confusion[row].sum())}"
            for row, column in (divmod(cell, len(names)) for cell in worst)
            if int(wrong[row, column])
        ],
    }


def unbalance(details: Mapping[str, Any], names: Sequence[str], most: float = 3.0) -> str | None:
    """One line where the largest class has over ``most`` times the training images of the smallest."""
    n_train = details["n_train"]
    least, largest = int(n_train.argmin()), int(n_train.argmax())
    if int(n_train[largest]) <= most * int(n_train[least]):
        return None
    return (
        f"unbalanced: {int(n_train[largest])} training images of {names[largest]}, {int(n_train[least])} of "
        f"{names[least]}; per_class_mean counts all classes alike, pooled does not"
    )


def write_classes(details: Mapping[str, Any], names: Sequence[str], file: Path) -> None:
    """A CSV file with a line per class: its images, accuracy, and what it is most often taken for."""
    confusion, text = confusion_of(details), io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["class", "train_images", "test_images", "right", "accuracy", "most_taken_for"])
    for number, name in enumerate(names):
        row = confusion[number].clone()
        n, right = int(row.sum()), int(row[number])
        row[number] = 0
        other = names[int(row.argmax())] if int(row.amax()) else ""
        rows.writerow(
            [name, int(details["n_train"][number]), n, right, round(right / n, 4) if n else "", other]
        )
    write_text(file, text.getvalue())


def draw_classes(details: Mapping[str, Any], names: Sequence[str], file: Path) -> None:
    """The confusion matrix in shares of each row, and beside it the accuracy and the images of each class."""
    from matplotlib.figure import Figure

    confusion = confusion_of(details).double().numpy()
    shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    n, is_small = len(names), len(names) <= _MOST_NAMED
    side = min(14.0, max(5.0, 0.32 * n + 2))
    figure = Figure(figsize=(1.7 * side, side), layout="constrained")
    heat, bars = figure.subplots(1, 2, width_ratios=(3, 2))
    heat.imshow(100 * shares, vmin=0, vmax=100, cmap="viridis")
    heat.set_xlabel("answered")
    heat.set_ylabel("true class")
    accuracy = np.where(confusion.sum(1) > 0, 100 * shares.diagonal(), np.nan)
    bars.barh(range(n), accuracy)
    bars.set_ylim(n - 0.5, -0.5)
    bars.set_xlim(0, 100)
    bars.set_xlabel("accuracy, % (training images at the right)")
    if is_small:
        heat.set_xticks(range(n), names, rotation=90, fontsize=8)
        heat.set_yticks(range(n), names, fontsize=8)
        bars.set_yticks(range(n), names, fontsize=8)
        for number, images in enumerate(details["n_train"].tolist()):
            bars.text(99, number, str(images), ha="right", va="center", fontsize=7)
    save_figure(figure, file, dpi=110)
