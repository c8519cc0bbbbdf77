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
from effcli.diffusion.conditioning import Guided
from effcli.diffusion.configs import plain_config
from effcli.diffusion.ddim import RenewingScheduler, ddim_scheduler
from effcli.diffusion.folders import is_latent
from effcli.diffusion.models import DiffusionModel, describe_model
from effcli.diffusion.notices import say_once
from effcli.diffusion.processes import ProcessScheduler, process_of
from effcli.diffusion.schedulers import DISTILLED_TIMESTEPS
from effcli.distill.evaluation import compare, save_pictures, with_real_images
from effcli.distill.feature_networks import FeatureNetwork
from effcli.distill.inputs.examples import Examples
from effcli.distill.inputs.teacher import DiffusionTeacher, load_examples, load_teacher, sample_examples
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
from effcli.distill.weights import keep_parts, save_student
from effcli.metrics.features import choose_features

log = logging.getLogger(__name__)

LoadFeatures = Callable[[DiffusionTeacher], FeatureNetwork]
"""The feature network for a teacher."""

MakeLoss = Callable[[], RoundLoss]
"""The loss of the feature rounds, new for every round."""


class TeacherInputs(NamedTuple):
    """What a run is given.

    Attributes:
        teacher: it.
        examples: to learn from; None where the teacher is to sample them.
        features: the network that compares features; None for a method without one.
    """

    teacher: DiffusionTeacher
    examples: Examples | None
    features: FeatureNetwork | None = None

    def to(self, device: torch.device) -> TeacherInputs:
        """The same, with the networks on ``device``."""
        self.teacher.to(device)
        if self.features is not None:
            self.features.to(device)
        return self

    def learned_from(self, recipe: StudentsRecipe, run: Run) -> Examples:
        """The examples; those that the teacher is to sample are sampled, once for a run."""
        return self.examples or sample_examples(recipe, self.teacher, run)


def plan(recipe: ProgressiveRecipe, load_features: LoadFeatures | None = None) -> Plan[TeacherInputs]:
    """Teacher, images and feature network, and what :func:`distill` would do with them."""
    teacher = load_teacher(recipe)
    inputs = load_inputs(recipe, teacher, load_features)
    rounds = rounds_of(recipe, teacher.model)
    facts = {
        **facts_of(recipe, inputs),
        "rounds": {
            one.name: f"{one.train_steps} steps, {recipe.method if one.has_features else 'pixel'} loss"
            for one in rounds
        },
        "steps": sum(one.train_steps for one in rounds),
        "eval_images": recipe.eval.n_images,
    }
    return Plan(facts, inputs)


def load_inputs(
    recipe: StudentsRecipe,
    teacher: DiffusionTeacher,
    load_features: Callable[[DiffusionTeacher], FeatureNetwork] | None,
) -> TeacherInputs:
    """What else a run is given, and lines on what was not tuned for this teacher."""
    examples = load_examples(recipe, teacher)
    say_whose_settings(recipe)
    choose_features(recipe.eval, teacher.picture_shape)
    return TeacherInputs(teacher, examples, None if load_features is None else load_features(teacher))


def facts_of(recipe: StudentsRecipe, inputs: TeacherInputs) -> dict[str, Any]:
    """What every plan says of a teacher and its examples."""
    model = inputs.teacher.model
    examples = inputs.examples
    return {
        "parameters": sum(p.numel() for p in model.unet.parameters()),
        **describe_model(model),
        "sample_shape": list(model.sample_shape),
        "train_images": recipe.data.sampled if examples is None else len(examples),
    }


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
    teacher = inputs.to(run.runtime.device).teacher
    model = teacher.model
    check_same_teacher(model, run)
    log.info("teacher: %s: %s", model.source, "; ".join(f"{k} {v}" for k, v in describe_model(model).items()))
    keep_parts(model, run)
    students: dict[int, Guided] = {}
    for student, one in students_of(teacher, inputs.learned_from(recipe, run), recipe, run, make_loss):
        if one.student_steps < one.teacher_steps:
            save_student(student, one.student_steps, model, run)
        students[one.student_steps] = student
    save_student(student, None, model, run)
    few = {steps: one for steps, one in students.items() if steps <= FEW_STEPS}
    return measure(teacher, few or students, recipe, run)


def measure(
    teacher: DiffusionTeacher, students: Mapping[int, Guided], recipe: StudentsRecipe, run: Run
) -> Result:
    """Compare the students, by their sampling steps, with their teacher, and finish the run."""
    metrics, pictures = compare(
        teacher,
        students,
        recipe.teacher_steps,
        with_real_images(recipe.eval, teacher, recipe.training_images),
        run.runtime,
        stage=run.stage,
        check_stop=run.check_stop,
        show_progress=run.show_progress,
    )
    parameters = {
        "parameters": sum(p.numel() for p in teacher.model.unet.parameters()),
        "parameters_student": sum(p.numel() for p in students[min(students)].unet.parameters()),
    }
    return run.finish({**parameters, **metrics}, lambda: save_pictures(pictures, run))


def students_of(
    teacher: DiffusionTeacher,
    examples: Examples,
    recipe: ProgressiveRecipe,
    run: Run,
    make_loss: MakeLoss | None,
) -> Iterator[tuple[Guided, Round]]:
    """The trained student of each round, with its scheduler, and the round."""
    model = teacher.model
    grid = TimeGrid(model.scheduler_config, run.runtime.device)
    above, of_above = teacher.guided, model
    prediction = prediction_of_students(recipe, model)
    for one in rounds_of(recipe, model):
        unet = starting_network(recipe.student if of_above is model else None, of_above, recipe.seed)
        config = student_config(model, prediction, grid.timesteps(one.student_steps))
        student = teacher.guided.student(unet, config)
        loss = make_loss() if one.has_features and make_loss is not None else PixelLoss()
        fit_round(one, student, above, loss, grid, examples, recipe, run)
        unet.requires_grad_(False)
        log.info(
            "%s: the student of %d steps is done after %d optimiser steps",
            one.name,
            one.student_steps,
            one.train_steps,
        )
        yield student, one
        above, of_above = student, DiffusionModel(unet, config, f"{model.source}, {one.student_steps} steps")


def student_config(teacher: DiffusionModel, prediction: str, timesteps: list[float]) -> dict[str, Any]:
    """The scheduler of a student: its teacher's noise levels, and the timesteps it was trained at.

    x^ is clipped where it is an image; latents have no range.
    """
    config = teacher.scheduler_config
    clip = teacher.folder is None or not is_latent(teacher.folder)
    if process_of(config) is not None:
        return {**plain_config(config), "clip_sample": clip, DISTILLED_TIMESTEPS: timesteps}
    scheduler = ddim_scheduler(config, 1)
    assert not isinstance(scheduler, ProcessScheduler | RenewingScheduler)
    full = plain_config(scheduler.config)
    changes = {
        "_class_name": "DDIMScheduler",
        "prediction_type": prediction,
        "clip_sample": clip,
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
