"""What can be done with a run that is there: measure its classifier on other images, and teach it further classes."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import torch

from effcli.continual.accuracy_matrix import last_average
from effcli.continual.class_splits import Task
from effcli.continual.evaluation import Accuracies, matrix, measure, scores_of
from effcli.continual.image_classifier import ImageClassifier, load_classifier
from effcli.continual.recipe import ContinualRecipe, JointRecipe
from effcli.continual.stream import load_stream
from effcli.core.errors import InputError, UsageError
from effcli.core.evidence.result import Result, result_of_verb
from effcli.core.files import write_text
from effcli.core.recipe import dump_recipe
from effcli.core.registry import recipe_of_run
from effcli.core.runtime import Runtime
from effcli.data.image_sets import ImageSet, load_images

log = logging.getLogger(__name__)


def add_task(run: Path, folder: Path) -> None:
    """Let a run have one more task, which it has not learnt yet: what remains is to resume it.

    Args:
        run: a run directory; the data of its earlier tasks are read again.
        folder: with a sub-folder for each new class.

    Raises:
        InputError: the run or the images are not there.
        UsageError: a class is known already, or the run was joint training.
    """
    longer = longer_recipe(run, folder)
    if longer == recipe_of_run("continual", run):
        return  # the same command again, after an interruption
    load_stream(longer)
    for name in (
        "result.json",
        "report.html",
    ):  # these first: a finished run has the recipe that it was made with
        (run / name).unlink(missing_ok=True)
    write_text(run / "recipe.yaml", dump_recipe(longer))


def longer_recipe(run: Path, folder: Path) -> ContinualRecipe:
    """The recipe of a run with one more task, unless ``folder`` is its last one already."""
    recipe = recipe_of_run("continual", run)
    assert isinstance(recipe, ContinualRecipe)
    if isinstance(recipe, JointRecipe):
        raise UsageError("joint training takes no further tasks", place=str(run))
    source = str(folder.resolve())
    if recipe.data.more[-1:] == (source,):
        return recipe
    return recipe.model_copy(
        update={"data": recipe.data.model_copy(update={"more": (*recipe.data.more, source)})}
    )


def evaluate_saved(place: str | Path, data: str | None, runtime: Runtime) -> Result:
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
    row: Accuracies, classifier: ImageClassifier, tasks: list[Task], runtime: Runtime
) -> dict[str, Any]:
    right = torch.zeros(len(classifier.about.classes), dtype=torch.double)
    n_images = torch.zeros_like(right)
    started, n = time.perf_counter(), 0
    for task in tasks:
        answers = scores_of(classifier.scores, task.eval, runtime).argmax(1)
        right.index_add_(0, task.eval.labels, (answers == task.eval.labels).double())
        n_images.index_add_(0, task.eval.labels, torch.ones(len(answers), dtype=torch.double))
        n += len(answers)
    seconds = time.perf_counter() - started
    names = classifier.about.classes
    return {
        "class_il": last_average(matrix([row.class_il])),
        "task_il": last_average(matrix([row.task_il])),
        "pooled": row.pooled,
        "per_class": {
            names[k]: float(right[k] / n_images[k]) for k in range(len(names)) if bool(n_images[k])
        },
        "images": n,
        "images_per_s": round(n / seconds, 1),
        "parameters": sum(p.numel() for p in classifier.parameters()),
    }


def _own_tasks(place: str | Path) -> list[Task]:
    if not Path(place).is_dir():
        raise UsageError(
            "says nothing of its data", place=str(place), hint="--data names images to measure on"
        )
    recipe: Any = recipe_of_run("continual", place)
    return load_stream(recipe)


def _tasks_of(classifier: ImageClassifier, data: str) -> list[Task]:
    """The images with the classifier's classes, by the task that these were learnt in."""
    about = classifier.about
    images = load_images(data, "eval", side=about.side, channels=about.channels, with_classes=True)
    unknown = sorted(set(images.classes) - set(about.classes))
    if len(unknown) == len(images.classes):
        raise InputError(
            f"has no class that the classifier knows, only {', '.join(unknown[:5])}",
            place=data,
            hint=f"it knows {', '.join(about.classes[:10])}",
        )
    if unknown:
        log.warning("left out, as the classifier does not know them: %s", ", ".join(unknown))
    new = torch.tensor(
        [about.classes.index(name) if name in about.classes else -1 for name in images.classes]
    )
    labels = new[images.labels]
    tasks, first = [], 0
    for number, names in enumerate(about.tasks):
        chosen = (labels >= first) & (labels < first + len(names))
        if bool(chosen.any()):
            part = ImageSet(images.images[chosen], labels[chosen], names)
            tasks.append(Task(number, names, first, part, part))
        first += len(names)
    return tasks
