"""The verbs of `effcli distill` for diffusion models: run, train, sample, eval. `run` and `train` are the method's own.

A run of CLIP-KD or LiT is evaluated by `clip_kd/pipeline.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from effcli.core.errors import InputError
from effcli.core.evidence.result import Result, result_of_verb
from effcli.core.plan import Plan
from effcli.core.registry import load_method, recipe_of_run
from effcli.core.run import Run
from effcli.core.runtime import Runtime
from effcli.data.image_sets import to_bytes
from effcli.diffusion.autoencoders import load_decoder
from effcli.diffusion.conditioning import Guided
from effcli.diffusion.sampler_settings import SamplerSettings
from effcli.diffusion.sampling import sample_images
from effcli.distill.evaluation import compare, with_real_images
from effcli.distill.inputs.teacher import load_teacher
from effcli.distill.recipe import DistillRecipe, StudentsRecipe
from effcli.distill.weights import load_student, steps_in
from effcli.metrics.distance_settings import DistanceSettings


class DistillMethod(Protocol):
    """What the module of a method of `effcli distill run` has.

    Attributes:
        plan: ``(recipe)``: teacher and data, loaded and checked, and what would be done with them.
        distill: ``(recipe, inputs, run)``: teach the students, write the last one to ``model/``, finish the run.
    """

    plan: Callable[[Any], Plan[Any]]
    distill: Callable[[Any, Any, Run], Result]


class TrainedMethod(Protocol):
    """What the module of a method of `effcli distill train` has.

    Attributes:
        plan: ``(recipe)``: the data, read and checked, and what would be trained on them.
        train: ``(recipe, inputs, run)``: learn from the data, write the model below ``model/``, finish the run.
    """

    plan: Callable[[Any], Plan[Any]]
    train: Callable[[Any, Any, Run], Result]


def plan_run(recipe: DistillRecipe) -> Plan[Any]:
    """What :func:`run` would do."""
    method: DistillMethod = load_method(recipe)
    return method.plan(recipe)


def run(recipe: DistillRecipe, inputs: Any, run: Run) -> Result:
    """Distill with the recipe's method."""
    method: DistillMethod = load_method(recipe)
    return method.distill(recipe, inputs, run)


def plan_train(recipe: DistillRecipe) -> Plan[Any]:
    """What :func:`train` would do."""
    method: TrainedMethod = load_method(recipe)
    return method.plan(recipe)


def train(recipe: DistillRecipe, inputs: Any, run: Run) -> Result:
    """Train what the recipe's method names."""
    method: TrainedMethod = load_method(recipe)
    return method.train(recipe, inputs, run)


def sample(
    place: str | Path,
    n_images: int,
    runtime: Runtime,
    *,
    steps: int | None = None,
    classes: Sequence[int] = (),
    prompts: str | None = None,
    batch_size: int = 64,
    show_progress: bool = False,
) -> Tensor:
    """Images of a student, uint8 ``[n_images, C, S, S]``.

    Args:
        place, steps: as of :func:`load_student`.
        n_images: how many.
        runtime: device, precision, seed.
        classes: numbers of the classes, in turn; none: random ones.
        prompts: file with one prompt per line, of which random ones are taken; None: eight general ones.
        batch_size: images at a time.
        show_progress: whether there is a progress bar.

    Raises:
        InputError: it is not a student, or does not have the classes.
    """
    model = load_student(place, steps)
    guided = Guided(model, model.unet.to(runtime.device), prompts=prompts)
    labels = torch.tensor(classes)[torch.arange(n_images) % len(classes)] if classes else None
    images = sample_images(
        guided, SamplerSettings(), n_images, batch_size, runtime, labels=labels, show_progress=show_progress
    )
    return to_bytes(load_decoder(model, runtime.device)(images))


def evaluate(
    run: str | Path,
    settings: DistanceSettings,
    runtime: Runtime,
    *,
    teacher_steps: int | None = None,
    show_progress: bool = False,
) -> Result:
    """All students of a run beside their teacher; see :func:`effcli.distill.evaluation.compare`.

    Raises:
        InputError: it is not a run of `effcli distill`, or its teacher is not there any more.
    """
    started = time.perf_counter()
    students = {steps: load_student(run, steps) for steps in steps_in(Path(run))}
    if not students:
        raise InputError("holds no students", place=str(run), hint="name a run directory of `effcli distill`")
    recipe: Any = recipe_of_run("distill", run)
    assert isinstance(recipe, StudentsRecipe)
    teacher = load_teacher(recipe).to(runtime.device)
    metrics, _ = compare(
        teacher,
        {
            steps: teacher.guided.student(one.unet.to(runtime.device), one.scheduler_config)
            for steps, one in students.items()
        },
        teacher_steps or recipe.teacher_steps,
        with_real_images(settings, teacher, recipe.training_images),
        runtime,
        show_progress=show_progress,
    )
    return result_of_verb(
        "distill",
        "eval",
        recipe.method,
        recipe=Path(run).resolve().name,
        output=str(run),
        metrics=metrics,
        runtime=runtime,
        total_s=time.perf_counter() - started,
    )
