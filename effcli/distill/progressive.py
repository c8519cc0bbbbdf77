"""Progressive distillation: rounds that each halve the number of sampling steps, whatever the loss.

The student of a round begins as a copy of its teacher, learns where two steps of the teacher end, and is the teacher of
the next round. A teacher that predicts something else than its students is converted first: docs/methods/rdd.md,
Conversion of noise-predicting teachers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch

from effcli.core.errors import UsageError
from effcli.core.evidence.result import Result
from effcli.core.plan import Plan
from effcli.core.recipe import shipped_recipes
from effcli.core.registry import find_recipe
from effcli.core.run import Run
from effcli.data.image_sets import ImageSet
from effcli.diffusion.configs import plain_config
from effcli.diffusion.ddim import RenewingScheduler, ddim_scheduler
from effcli.diffusion.models import DiffusionModel, describe_model, save_folder
from effcli.diffusion.notices import say_once
from effcli.diffusion.processes import ProcessScheduler, process_of
from effcli.diffusion.schedulers import DISTILLED_TIMESTEPS
from effcli.distill.evaluation import compare, save_pictures, with_real_images
from effcli.distill.feature_networks import FeatureNetwork
from effcli.distill.inputs import load_teacher
from effcli.distill.losses import PixelLoss, RoundLoss
from effcli.distill.recipe import ProgressiveRecipe, StudentsRecipe
from effcli.distill.rounds import (
    FEW_STEPS,
    Round,
    prediction_of_students,
    rounds_of,
)
from effcli.distill.time_grid import TimeGrid
from effcli.distill.trained.student import starting_network
from effcli.distill.training import fit_round
from effcli.distill.weights import STUDENTS
from effcli.metrics.features import choose_features

log = logging.getLogger(__name__)

MakeLoss = Callable[[], RoundLoss]
"""The loss of the feature rounds, new for every round."""


class TeacherInputs(NamedTuple):
    """What a run is given.

    Attributes:
        model: the teacher.
        images: to learn from, of its size.
        features: the network that compares features; None for a method without one.
    """

    model: DiffusionModel
    images: ImageSet
    features: FeatureNetwork | None = None

    def to(self, device: torch.device) -> TeacherInputs:
        """The same, with the networks on ``device``."""
        self.model.unet.to(device)
        if self.features is not None:
            self.features.to(device)
        return self


def plan(
    recipe: ProgressiveRecipe, load_features: Callable[[DiffusionModel], FeatureNetwork] | None = None
) -> Plan[TeacherInputs]:
    """Teacher, images and feature network, and what :func:`distill` would do with them."""
    model, images = load_teacher(recipe)
    say_whose_settings(recipe)
    choose_features(recipe.eval, model.sample_shape)
    features = None if load_features is None else load_features(model)
    rounds = rounds_of(recipe, model)
    facts = {
        "parameters": sum(p.numel() for p in model.unet.parameters()),
        **describe_model(model),
        "sample_shape": list(model.sample_shape),
        "train_images": len(images),
        "rounds": {
            one.name: f"{one.train_steps} steps, {recipe.method if one.has_features else 'pixel'} loss"
            for one in rounds
        },
        "steps": sum(one.train_steps for one in rounds),
        "eval_images": recipe.eval.n_images,
    }
    return Plan(facts, TeacherInputs(model, images, features))


def say_whose_settings(recipe: StudentsRecipe) -> None:
    """Say so where the optimisation tuned on 16x16 clothes is used on another teacher."""
    shipped = recipe.method if recipe.method in shipped_recipes("distill") else "default"
    tuned = find_recipe("distill", shipped)
    assert isinstance(tuned, StudentsRecipe)
    if recipe.model == tuned.model or recipe.train != tuned.train:
        return
    say_once(
        recipe.model,
        f"steps and learning rate ({recipe.train.learning_rate:g}) were tuned on grey 16x16 clothes; papers have tens "
        "of thousands of optimiser steps at 5e-05: set train.steps and train.learning_rate (rounds: and "
        "train.last_rounds_steps)",
    )


def distill(
    recipe: ProgressiveRecipe, inputs: TeacherInputs, run: Run, make_loss: MakeLoss | None = None
) -> Result:
    """Teach the students, one after another, keep them as diffusers folders, and measure them.

    Args:
        recipe: the settings.
        inputs: of the plan.
        run: the open run.
        make_loss: of the method; None for one that has only the pixel loss.
    """
    model, images, _ = inputs.to(run.runtime.device)
    check_same_teacher(model, run)
    log.info("teacher: %s: %s", model.source, "; ".join(f"{k} {v}" for k, v in describe_model(model).items()))
    students: dict[int, DiffusionModel] = {}
    for student, one in students_of(model, images, recipe, run, make_loss):
        if one.student_steps < one.teacher_steps and run.runtime.is_main:
            save_folder(run.path / STUDENTS / str(one.student_steps), student.unet, student.scheduler_config)
        students[one.student_steps] = student
    if run.runtime.is_main:
        save_folder(run.path / "model", student.unet, student.scheduler_config)
    run.runtime.barrier()
    few = {steps: one for steps, one in students.items() if steps <= FEW_STEPS}
    return measure(model, few or students, recipe, run)


def measure(
    model: DiffusionModel, students: Mapping[int, DiffusionModel], recipe: StudentsRecipe, run: Run
) -> Result:
    """Compare the students, by their sampling steps, with their teacher, and finish the run."""
    metrics, pictures = compare(
        model,
        students,
        recipe.teacher_steps,
        with_real_images(recipe.eval, model, recipe.data.source),
        run.runtime,
        stage=run.stage,
        check_stop=run.check_stop,
        show_progress=run.show_progress,
    )
    parameters = {
        "parameters": sum(p.numel() for p in model.unet.parameters()),
        "parameters_student": sum(p.numel() for p in students[min(students)].unet.parameters()),
    }
    return run.finish({**parameters, **metrics}, lambda: save_pictures(pictures, run))


def students_of(
    model: DiffusionModel,
    images: ImageSet,
    recipe: ProgressiveRecipe,
    run: Run,
    make_loss: MakeLoss | None,
) -> Iterator[tuple[DiffusionModel, Round]]:
    """The trained student of each round, with its scheduler, and the round."""
    grid = TimeGrid(model.scheduler_config, run.runtime.device)
    teacher = model
    prediction = prediction_of_students(recipe, model)
    for one in rounds_of(recipe, model):
        unet = starting_network(recipe.student if teacher is model else None, teacher, recipe.seed)
        config = student_config(model.scheduler_config, prediction, grid.timesteps(one.student_steps))
        student = DiffusionModel(unet, config, f"{model.source}, {one.student_steps} steps")
        loss = make_loss() if one.has_features and make_loss is not None else PixelLoss()
        fit_round(one, student, teacher, loss, grid, images, recipe, run)
        unet.requires_grad_(False)
        log.info(
            "%s: the student of %d steps is done after %d optimiser steps",
            one.name,
            one.student_steps,
            one.train_steps,
        )
        yield student, one
        teacher = student


def student_config(config: Mapping[str, Any], prediction: str, timesteps: list[float]) -> dict[str, Any]:
    """The scheduler of a student: its teacher's noise levels, x^ clipped, and the timesteps it was trained at."""
    if process_of(config) is not None:
        return {**plain_config(config), "clip_sample": True, DISTILLED_TIMESTEPS: timesteps}
    scheduler = ddim_scheduler(config, 1)
    assert not isinstance(scheduler, ProcessScheduler | RenewingScheduler)
    full = plain_config(scheduler.config)
    changes = {
        "_class_name": "DDIMScheduler",
        "prediction_type": prediction,
        "clip_sample": True,
        "clip_sample_range": 1.0,
        "timestep_spacing": "trailing",
    }
    return {**full, **changes, DISTILLED_TIMESTEPS: timesteps}


def check_same_teacher(model: DiffusionModel, run: Run) -> None:
    """Refuse to resume a run with another teacher.

    Raises:
        UsageError: it is another one.
    """
    now = {"sha256": model.sha256 or "", "parameters": sum(p.numel() for p in model.unet.parameters())}
    before = run.stage("teacher", lambda: now)
    if before != now:
        raise UsageError(
            "is not the model that this run was started with",
            place=model.source,
            hint="start a new run, or put the old weights back",
        )
