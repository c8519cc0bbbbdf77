"""How well the classes learned so far are told apart: Class-IL and Task-IL, from one network."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from effcli.continual.class_names import spelled_as
from effcli.continual.class_splits import ClassTask
from effcli.continual.evaluation.accuracy_matrix import (
    average_incremental,
    backward_transfer,
    forgetting,
    last_average,
    stability_plasticity,
)
from effcli.continual.learner import EVAL_BATCH
from effcli.continual.network import ImageClassifier
from effcli.continual.records import known_tasks
from effcli.continual.stream import load_stream
from effcli.continual.weights import load_classifier
from effcli.core.errors import InputError, UsageError
from effcli.core.evidence.figures import save_figure
from effcli.core.evidence.result import Result, result_of_verb
from effcli.core.registry import recipe_of_run
from effcli.core.runtime import Runtime
from effcli.core.tensor_file import require_finite_output
from effcli.data.image_sets import ImageSet, load_images

log = logging.getLogger(__name__)

Scores = Callable[[Tensor], Tensor]
"""Of uint8 images ``[B, C, S, S]``: the likelihood of each class, ``[B, n_classes]``."""


@dataclass(frozen=True)
class Accuracies:
    """After one task, on each task so far; 0..1, and NaN of a task without test images.

    Attributes:
        class_il: any class seen so far may be answered.
        task_il: one of the task's own classes has to be.
        pooled: of all images together, any class seen so far.
    """

    class_il: list[float]
    task_il: list[float]
    pooled: float

    def line(self, task: ClassTask, n_tasks: int) -> str:
        """One line for the terminal."""
        names = ", ".join(task.names()[:5]) + (", ..." if len(task.names()) > 5 else "")
        return f"task {task.number + 1}/{n_tasks} ({names}): " + ", ".join(
            f"{name} {100 * mean_of(values):.1f} %"
            for name, values in (("Class-IL", self.class_il), ("Task-IL", self.task_il))
        )


@torch.no_grad()
def measure(
    scores: Scores, network: nn.Module, tasks: Sequence[ClassTask], n_classes: int, runtime: Runtime
) -> Accuracies:
    """Measure on the test images of tasks.

    Args:
        scores: of images.
        network: put into evaluation mode.
        tasks: all that were learned.
        n_classes: seen so far: others are never answered.
        runtime: where.
    """
    network.eval()
    class_il, task_il, every = [], [], []
    for task in tasks:
        found, labels = scores_of(scores, task.eval, runtime, n_classes)[:, :n_classes], task.eval.labels
        right = found.argmax(1) == labels
        own = torch.tensor(task.answers)
        class_il.append(float(right.double().mean()))
        task_il.append(float((own[found[:, own].argmax(1)] == labels).double().mean()))
        every.append(right)
    return Accuracies(class_il, task_il, float(torch.cat(every).double().mean()))


@torch.no_grad()
def scores_of(scores: Scores, images: ImageSet, runtime: Runtime, n_classes: int) -> Tensor:
    """Scores of all images, on the CPU, ``[N, n_classes]`` or wider; of no images none."""
    if not len(images):
        return torch.zeros(0, n_classes)
    found = []
    for part in images.images.split(EVAL_BATCH):
        with runtime.tuner("evaluate").step(len(part)), runtime.autocast():
            found.append(scores(part.to(runtime.device)).float().cpu())
    return require_finite_output(torch.cat(found), "the scores of images")


def metrics_of(rows: Sequence[Accuracies], tasks: Sequence[ClassTask]) -> dict[str, Any]:
    """The numbers of a whole stream, from the accuracies after each of its steps."""
    class_il, task_il = (matrix(getattr(row, name) for row in rows) for name in ("class_il", "task_il"))
    of_class, of_task = stability_plasticity(class_il), forgetting(task_il)
    n_images = np.array([len(task.eval) for task in tasks])
    found: dict[str, Any] = {
        "class_il": last_average(class_il),
        "task_il": last_average(task_il),
        "forgetting": forgetting(class_il),
        "task_il_forgetting": of_task,
        "average_incremental": average_incremental(class_il, n_images),
        "backward_transfer": backward_transfer(class_il),
        "pooled": rows[-1].pooled,
    }
    if of_class is not None:
        found |= dict(zip(("stability", "plasticity", "trade_off"), of_class, strict=True))
    return {**found, "accuracy_matrix": class_il, "task_il_matrix": task_il}


def mean_of(values: Sequence[float]) -> float:
    """The mean of what is known; NaN where nothing is."""
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def matrix(rows: Any) -> np.ndarray:
    """Rows of growing length as one matrix; what is not there is NaN."""
    lists = list(rows)
    found = np.full((len(lists), max(map(len, lists))), np.nan)
    for number, row in enumerate(lists):
        found[number, : len(row)] = row
    return found


def draw_matrix(metrics: dict[str, Any], tasks: Sequence[ClassTask], file: Path) -> None:
    """The accuracy matrix as a heat map, and beside it each task's accuracy as later ones are learned."""
    from matplotlib.figure import Figure

    accuracy = 100 * np.asarray(metrics["accuracy_matrix"], dtype=float)
    n_rows, n_columns = accuracy.shape
    figure = Figure(figsize=(10, 4), layout="constrained")
    heat, curves = figure.subplots(1, 2)
    heat.imshow(np.ma.masked_invalid(accuracy), vmin=0, vmax=100, cmap="viridis", aspect="auto")
    if accuracy.size <= 150:
        for (row, column), value in np.ndenumerate(accuracy):
            if not np.isnan(value):
                color = "white" if value < 60 else "black"
                heat.text(column, row, f"{value:.0f}", ha="center", va="center", color=color)
    heat.set_xticks(range(n_columns), [str(one + 1) for one in range(n_columns)])
    heat.set_yticks(range(n_rows), [str(one + 1) for one in range(n_rows)])
    heat.set_xlabel("accuracy on task, %")
    heat.set_ylabel("after learning task")
    for column in range(n_columns):
        names = tasks[column].names()
        name = ", ".join(names[:2]) + (", ..." if len(names) > 2 else "")
        curves.plot(range(1, n_rows + 1), accuracy[:, column], marker="o", label=f"{column + 1}: {name}")
    curves.plot(range(1, n_rows + 1), [mean_of(row) for row in accuracy], "k--", label="mean")
    curves.set_xlabel("tasks learned")
    curves.set_ylabel("Class-IL accuracy, %")
    curves.set_ylim(-2, 102)
    curves.set_xticks(range(1, n_rows + 1))
    if n_columns <= 12:
        curves.legend(fontsize=8, loc="best")
    save_figure(figure, file, dpi=110)


def evaluate_run(place: str | Path, data: str | None, runtime: Runtime) -> Result:
    """Measure a classifier.

    Args:
        place: run directory or classifier file.
        data: images whose classes have the names that the classifier knows; None for the test images of its own stream.
        runtime: where.

    Raises:
        InputError: there is no classifier, or the images have no class that it knows.
    """
    started = time.perf_counter()
    classifier = load_classifier(place)
    tasks = _own_tasks(place) if data is None else _tasks_of(classifier, data)
    classifier.to(runtime.device)
    n_classes = len(classifier.about.classes)
    row = measure(classifier.scores, classifier, tasks, n_classes, runtime)
    return result_of_verb(
        "continual",
        "eval",
        classifier.about.method,
        recipe=Path(place).stem,
        output=str(place),
        metrics=_metrics(row, classifier, tasks, runtime),
        runtime=runtime,
        total_s=time.perf_counter() - started,
    )


def _metrics(
    row: Accuracies, classifier: ImageClassifier, tasks: list[ClassTask], runtime: Runtime
) -> dict[str, Any]:
    right = torch.zeros(len(classifier.about.classes), dtype=torch.double)
    n_images = torch.zeros_like(right)
    started, n = time.perf_counter(), 0
    for task in tasks:
        answers = scores_of(classifier.scores, task.eval, runtime, len(right)).argmax(1)
        right.index_add_(0, task.eval.labels, (answers == task.eval.labels).double())
        n_images.index_add_(0, task.eval.labels, torch.ones(len(answers), dtype=torch.double))
        n += len(answers)
    seconds = time.perf_counter() - started
    names = classifier.about.classes
    per_class = {names[k]: float(right[k] / n_images[k]) for k in range(len(names)) if bool(n_images[k])}
    return {
        "class_il": last_average(matrix([row.class_il])),
        "task_il": last_average(matrix([row.task_il])),
        "pooled": row.pooled,
        "per_class_mean": mean_of(list(per_class.values())),
        "per_class": per_class,
        "images": n,
        "images_per_s": round(n / seconds, 1),
        "parameters": sum(p.numel() for p in classifier.parameters()),
    }


def _own_tasks(place: str | Path) -> list[ClassTask]:
    if not Path(place).is_dir():
        raise UsageError(
            "a single file does not say which data it was measured on",
            place=str(place),
            hint="name images with --data",
        )
    recipe: Any = recipe_of_run("continual", place)
    tasks = load_stream(recipe, known_tasks(Path(place)))
    if not any(len(task.eval) for task in tasks):
        raise InputError(
            "its test images are no longer there", place=str(place), hint="name images with --data"
        )
    return tasks


def _tasks_of(classifier: ImageClassifier, data: str) -> list[ClassTask]:
    """The images with the classifier's classes, by the task that these were learned in."""
    about = classifier.about
    read = load_images(data, "eval", side=about.side, channels=about.channels, with_classes=True)
    images = spelled_as(read, about.classes)
    unknown = sorted(set(images.classes) - set(about.classes))
    if len(unknown) == len(images.classes):
        raise InputError(
            f"none of its classes is known to the classifier: {', '.join(unknown[:5])}",
            place=data,
            hint=f"known: {', '.join(about.classes[:10])}",
        )
    if unknown:
        log.warning("left out, not known to the classifier: %s", ", ".join(unknown))
    new = torch.tensor(
        [about.classes.index(name) if name in about.classes else -1 for name in images.classes]
    )
    labels = new[images.labels]
    tasks, first = [], 0
    for number, names in enumerate(about.tasks):
        chosen = (labels >= first) & (labels < first + len(names))
        if bool(chosen.any()):
            part = ImageSet(images.images[chosen], labels[chosen], names)
            tasks.append(ClassTask(number, names, first, part, part))
        first += len(names)
    return tasks
