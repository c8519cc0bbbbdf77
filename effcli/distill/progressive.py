"""The loop of progressive distillation: rounds that each halve the number of sampling steps, whatever the loss.

The student of a round begins as a copy of its teacher, learns from where two steps of the teacher end, and is the
teacher of the next round. A teacher that predicts something else than its students is converted first (RDD, section
6.12).
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from effcli.core.errors import UsageError
from effcli.core.evidence.result import Result
from effcli.core.plan import Plan
from effcli.core.run import Run
from effcli.core.runtime import derive_seed
from effcli.data.image_sets import ImageSet
from effcli.diffusion.configs import config_of, plain_config
from effcli.diffusion.ddim import ddim_scheduler
from effcli.diffusion.models import DiffusionModel, save_folder
from effcli.diffusion.schedulers import DISTILLED_TIMESTEPS, ddim_config
from effcli.distill.evaluation import evaluate, save_pictures, with_real_images
from effcli.distill.inputs import load_teacher
from effcli.distill.losses import PixelLoss, RoundLoss
from effcli.distill.recipe import ProgressiveRecipe
from effcli.distill.rounds import (
    FEW_STEPS,
    Round,
    prediction_of_students,
    prediction_type_of,
    rounds_of,
)
from effcli.distill.students import STUDENTS
from effcli.distill.targets import Denoiser, two_step_target
from effcli.distill.time_grid import TimeGrid
from effcli.metrics.features import choose_features
from effcli.nn.schedules import cosine

log = logging.getLogger(__name__)

MakeLoss = Callable[[DiffusionModel], RoundLoss]
"""The loss of the feature rounds, new for every round, for images like this model's."""

TeacherInputs = tuple[DiffusionModel, ImageSet]
"""A teacher, and images of its size."""


def plan(recipe: ProgressiveRecipe, make_loss: MakeLoss | None = None) -> Plan[TeacherInputs]:
    """Teacher and images, and what :func:`distill` would do; making the loss also proves that its network is there."""
    model, images = load_teacher(recipe)
    choose_features(recipe.eval, model.sample_shape)
    if make_loss is not None:
        make_loss(model)
    rounds = rounds_of(recipe, model)
    facts = {
        "parameters": sum(p.numel() for p in model.unet.parameters()),
        "sample_shape": list(model.sample_shape),
        "train_images": len(images),
        "rounds": {
            one.name: f"{one.updates} updates, {recipe.method if one.has_features else 'pixel'} loss"
            for one in rounds
        },
        "updates": sum(one.updates for one in rounds),
        "eval_images": recipe.eval.n_images,
    }
    return Plan(facts, (model, images))


def distill(
    recipe: ProgressiveRecipe, inputs: TeacherInputs, run: Run, make_loss: MakeLoss | None = None
) -> Result:
    """Teach the students, one after another, keep them as diffusers folders, and measure them.

    Args:
        recipe: the settings.
        inputs: teacher and images, of the plan.
        run: the open run.
        make_loss: of the method; None for one that has only the pixel loss.
    """
    model, images = inputs
    model.unet.to(run.runtime.device)
    _check_same_teacher(model, run)
    students: dict[int, DiffusionModel] = {}
    for student, one in students_of(model, images, recipe, run, make_loss):
        if one.steps < one.teacher_steps and run.runtime.is_main:
            save_folder(run.path / STUDENTS / str(one.steps), student.unet, student.scheduler_config)
        students[one.steps] = student
    if run.runtime.is_main:
        save_folder(run.path / "model", student.unet, student.scheduler_config)
    run.runtime.barrier()
    few = {steps: one for steps, one in students.items() if steps <= FEW_STEPS}
    metrics, pictures = evaluate(
        model,
        few or students,
        recipe.teacher_steps,
        with_real_images(recipe.eval, model, recipe.data.source),
        run.runtime,
        stage=run.stage,
        check_stop=run.check_stop,
        show_progress=run.show_progress,
    )
    parameters = sum(p.numel() for p in model.unet.parameters())
    return run.finish({"parameters": parameters, **metrics}, lambda: save_pictures(pictures, run))


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
        unet = copy.deepcopy(teacher.unet).requires_grad_(True)
        config = student_config(model.scheduler_config, prediction, grid.timesteps(one.steps))
        student = DiffusionModel(unet.eval(), config, f"{model.source}, {one.steps} steps")
        loss = make_loss(model) if one.has_features and make_loss is not None else PixelLoss()
        fit_round(one, student, teacher, loss, grid, images, recipe, run)
        unet.requires_grad_(False)
        log.info("%s: the student of %d steps is done after %d updates", one.name, one.steps, one.updates)
        yield student, one
        teacher = student


def fit_round(
    one: Round,
    student: DiffusionModel,
    teacher: DiffusionModel,
    loss: RoundLoss,
    grid: TimeGrid,
    images: ImageSet,
    recipe: ProgressiveRecipe,
    run: Run,
) -> None:
    """Train the student in place: Adam, the rate a cosine to 0, no dropout, no averaged weights."""
    settings, runtime = recipe.train, run.runtime
    learnt = loss.learnt()
    optimizer = torch.optim.Adam([{"params": student.unet.parameters()}], lr=settings.learning_rate)
    state: dict[str, Any] = {"student": student.unet, "optimizer": optimizer}
    if learnt is not None:
        state["loss"] = learnt
        if own := list(learnt.parameters()):
            optimizer.add_param_group({"params": own, "lr": settings.learning_rate})
    parallel: nn.Module = runtime.wrap(student.unet)
    for step in run.steps(one.name, one.updates, state, unit="updates"):
        batch = draw_batch(one, step, images, teacher, recipe, run)
        now = grid.at(batch.k, one.steps)
        z = now.alpha * batch.x + now.sigma * batch.noise
        rate = cosine(step, one.updates, settings.learning_rate, 0.0)
        optimizer.param_groups[0]["lr"] = rate
        with runtime.autocast():
            with torch.no_grad():
                target = target_of(one, teacher, z, batch, grid)
            x_student = Denoiser(parallel, prediction_type_of(student), batch.condition)(z, now)
            terms = loss(x_student, target, now)
        total = sum((loss.weights[name] * term for name, term in terms.items()), x_student.new_zeros(()))
        run.log(one.name, step, every=10, loss=total.detach(), **terms, learning_rate=rate)
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(student.unet.parameters(), settings.grad_clip)
        optimizer.step()


@dataclass(frozen=True)
class Batch:
    """A rank's share of the images of an update.

    Attributes:
        x: clean images ``[B, C, S, S]`` in -1..1.
        noise: eps, of that shape.
        k: the student's step of each, int64 ``[B]`` in 1..steps.
        condition: keyword arguments of the network.
    """

    x: Tensor
    noise: Tensor
    k: Tensor
    condition: dict[str, Tensor]


def draw_batch(
    one: Round, step: int, images: ImageSet, teacher: DiffusionModel, recipe: ProgressiveRecipe, run: Run
) -> Batch:
    """Images, noise and steps of update ``step``: all ranks together have those of a single process."""
    runtime, size = run.runtime, recipe.train.batch_size
    seed = derive_seed(recipe.seed, one.name)
    x, labels = images.batch(step, size, runtime, seed=seed, flip=recipe.data.flip)
    generator = runtime.generator(one.name, step)
    k = torch.randint(1, one.steps + 1, (size,), generator=generator)
    noise = torch.randn(size, *x.shape[1:], generator=generator)
    own = slice(runtime.rank * len(x), (runtime.rank + 1) * len(x))
    device = runtime.device
    conditional = config_of(teacher.unet).get("num_class_embeds") is not None
    condition = {"class_labels": labels.to(device)} if conditional else {}
    return Batch(x.to(device), noise[own].to(device), k[own].to(device), condition)


def target_of(one: Round, teacher: DiffusionModel, z: Tensor, batch: Batch, grid: TimeGrid) -> Tensor:
    """x~ ``[B, C, S, S]``: of two teacher steps, or in a round that converts the prediction what the teacher sees."""
    prediction_type = prediction_type_of(teacher)
    now = grid.at(batch.k, one.steps)
    if one.steps == one.teacher_steps:
        clip = bool(ddim_config(teacher.scheduler_config)["clip_sample"])
        return Denoiser(teacher.unet, prediction_type, batch.condition, clip=clip)(z, now)
    denoise = Denoiser(teacher.unet, prediction_type, batch.condition)
    middle, end = grid.at(2 * batch.k - 1, one.teacher_steps), grid.at(batch.k - 1, one.steps)
    return two_step_target(denoise, z, now, middle, end)


def student_config(config: Mapping[str, Any], prediction: str, timesteps: list[int]) -> dict[str, Any]:
    """The scheduler of a student: its teacher's noise levels, x^ clipped, and the timesteps it was trained at."""
    full = plain_config(ddim_scheduler(config, 1).config)
    changes = {
        "_class_name": "DDIMScheduler",
        "prediction_type": prediction,
        "clip_sample": True,
        "clip_sample_range": 1.0,
        "timestep_spacing": "trailing",
    }
    return {**full, **changes, DISTILLED_TIMESTEPS: timesteps}


def _check_same_teacher(model: DiffusionModel, run: Run) -> None:
    now = {"sha256": model.sha256 or "", "parameters": sum(p.numel() for p in model.unet.parameters())}
    before = run.stage("teacher", lambda: now)
    if before != now:
        raise UsageError(
            "is not the model that this run was started with",
            place=model.source,
            hint="start a new run, or put the old weights back",
        )
