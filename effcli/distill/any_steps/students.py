"""What consistency distillation and shortcut models share: the teacher they follow, the training, the students kept.

A teacher whose network does not give the clean image at the clean end by itself (it predicts noise or the image) is
converted first to predict velocity, as in progressive distillation: docs/methods/rdd.md, Conversion of noise-predicting
teachers.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from effcli.core.evidence.result import Result
from effcli.core.plan import Plan
from effcli.core.run import Run
from effcli.diffusion.conditioning import Guided
from effcli.diffusion.models import DiffusionModel
from effcli.diffusion.processes import process_of
from effcli.distill.any_steps.recipe import AnyStepsRecipe
from effcli.distill.feature_networks import FeatureNetwork
from effcli.distill.inputs.examples import Examples
from effcli.distill.inputs.teacher import DiffusionTeacher, load_teacher
from effcli.distill.losses import PixelLoss
from effcli.distill.progressive import TeacherInputs, facts_of, load_inputs, measure, student_config
from effcli.distill.rounds import FEW_STEPS, Round, prediction_type_of
from effcli.distill.time_grid import TimeGrid
from effcli.distill.trained.student import starting_network
from effcli.distill.training import fit_round
from effcli.distill.weights import save_student
from effcli.nn.ema import Ema
from effcli.nn.schedules import cosine, set_rate

log = logging.getLogger(__name__)

LossOfStep = Callable[[int, nn.Module, nn.Module], Tensor]
"""(step of the optimiser, the network, the same with averaged weights) to the loss."""


def plan(
    recipe: AnyStepsRecipe, load_features: Callable[[DiffusionTeacher], FeatureNetwork] | None = None
) -> Plan[TeacherInputs]:
    """Teacher and examples, and what would be done with them."""
    teacher = load_teacher(recipe)
    model = teacher.model
    inputs = load_inputs(recipe, teacher, load_features)
    converts = recipe.student is not None or prediction_of_students(model) != prediction_type_of(model)
    facts = {
        **facts_of(recipe, inputs),
        "students": measured_steps(recipe),
        "steps": recipe.train.steps + (recipe.train.conversion_steps if converts else 0),
        "eval_images": recipe.eval.n_images,
    }
    return Plan(facts, inputs)


def measured_steps(recipe: AnyStepsRecipe) -> list[int]:
    """The numbers of sampling steps whose students are kept and measured, the largest first."""
    most = max(recipe.student_steps, min(FEW_STEPS, recipe.teacher_steps // 2))
    powers = (1 << i for i in reversed(range(most.bit_length())))
    return [steps for steps in powers if steps >= recipe.student_steps]


def prediction_of_students(teacher: DiffusionModel) -> str:
    """Velocity, or what a teacher of another process predicts: with these x^ = z / alpha where sigma is 0, exactly."""
    is_table = process_of(teacher.scheduler_config) is None
    return "v_prediction" if is_table else prediction_type_of(teacher)


def teacher_to_follow(
    teacher: DiffusionTeacher, examples: Examples, grid: TimeGrid, recipe: AnyStepsRecipe, run: Run
) -> Guided:
    """The teacher, or the network that takes its place: one of the students' own, or one that predicts velocity."""
    model = teacher.model
    prediction = prediction_of_students(model)
    if recipe.student is None and prediction == prediction_type_of(model):
        return teacher.guided
    steps = recipe.teacher_steps
    config = student_config(model, prediction, grid.timesteps(steps))
    student = teacher.guided.student(starting_network(recipe.student, model, recipe.seed), config)
    one = Round(steps, steps, recipe.train.conversion_steps)
    fit_round(one, student, teacher.guided, PixelLoss(), grid, examples, recipe, run)
    student.unet.requires_grad_(False)
    return student


def fit(stage: str, unet: nn.Module, loss_of: LossOfStep, recipe: AnyStepsRecipe, run: Run) -> None:
    """Train ``unet`` in place; it ends with the averaged weights.

    Adam, a cosine to learning rate 0, no dropout. Targets may use the averaged weights of the steps before.
    """
    settings = recipe.train
    unet.requires_grad_(True)
    average = copy.deepcopy(unet).requires_grad_(False)
    ema = Ema(unet, settings.ema_decay)
    optimizer = torch.optim.Adam(unet.parameters(), lr=settings.learning_rate)
    parallel: nn.Module = run.runtime.wrap(unet)
    for step in run.steps(stage, settings.steps, {"student": unet, "optimizer": optimizer, "ema": ema}):
        ema.copy_to(average)
        rate = cosine(step, settings.steps, settings.learning_rate, 0.0)
        set_rate(optimizer, rate)
        loss = loss_of(step, parallel, average)
        run.log(stage, step, every=10, loss=loss.detach(), learning_rate=rate)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(unet.parameters(), settings.grad_clip)
        optimizer.step()
        ema.update(unet)
    ema.copy_to(unet)
    unet.requires_grad_(False)
    log.info("%s: done after %d optimiser steps", stage, settings.steps)


def keep_and_measure(
    teacher: DiffusionTeacher, students: Mapping[int, Guided], recipe: AnyStepsRecipe, run: Run
) -> Result:
    """Write the students as diffusers folders, that of the fewest steps as the product, and measure all."""
    for steps, student in students.items():
        save_student(student, steps, teacher.model, run)
    save_student(students[min(students)], None, teacher.model, run)
    return measure(teacher, students, recipe, run)
