"""Shortcut models, learned from a teacher: one network that is told how far it is to step.

Frans, Hafner, Levine, Abbeel, "One Step Diffusion via Shortcut Models", ICLR 2025, arXiv 2410.12557;
docs/methods/shortcut.md. Where two steps of half the size end is the target of one step: for the smallest steps two of
the teacher, as in progressive distillation, for all others two of the network itself with averaged weights.

The size of the step enters as the class does, as an embedding added to that of time. So the student of each size is a
plain network of its teacher's configuration (:func:`of_size`).
"""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import Tensor, nn

from effcli.core.errors import InputError
from effcli.core.evidence.result import Result
from effcli.core.plan import Plan
from effcli.core.run import Run
from effcli.diffusion.conditioning import Guided
from effcli.diffusion.configs import config_of
from effcli.diffusion.models import DiffusionModel
from effcli.distill.any_steps.recipe import ShortcutRecipe
from effcli.distill.any_steps.students import (
    LossOfStep,
    fit,
    keep_and_measure,
    measured_steps,
    prediction_of_students,
    teacher_to_follow,
)
from effcli.distill.any_steps.students import plan as plan_students
from effcli.distill.inputs.examples import Examples
from effcli.distill.losses import truncated_snr_loss
from effcli.distill.progressive import TeacherInputs, check_same_teacher, student_config
from effcli.distill.targets import Denoise, denoiser, two_step_target
from effcli.distill.time_grid import TimeGrid
from effcli.distill.training import make_batch
from effcli.distill.weights import keep_parts


def plan(recipe: ShortcutRecipe) -> Plan[TeacherInputs]:
    """Teacher and examples, and what :func:`distill` would do with them.

    Raises:
        InputError: the teacher has no place for the size of a step.
    """
    made = plan_students(recipe)
    model = made.inputs.teacher.model
    if type(model.unet).__name__ != "UNet2DModel":
        raise InputError(
            f"is a {type(model.unet).__name__}; only a UNet2DModel can take the size of its steps as an input",
            place=model.source,
            hint="--method cd also gives any number of steps from one training",
        )
    return made


def distill(recipe: ShortcutRecipe, inputs: TeacherInputs, run: Run) -> Result:
    """One network for all sizes of steps, then a student of each."""
    teacher = inputs.to(run.runtime.device).teacher
    model = teacher.model
    check_same_teacher(model, run)
    keep_parts(model, run)
    examples = inputs.learned_from(recipe, run)
    grid = TimeGrid(model.scheduler_config, run.runtime.device)
    followed = teacher_to_follow(teacher, examples, grid, recipe, run)
    unet = with_sizes(followed.unet, n_sizes_of(recipe))
    fit("shortcut", unet, loss_of_steps(followed, model, examples, grid, recipe, run), recipe, run)
    students = {}
    for steps in measured_steps(recipe):
        config = student_config(model, prediction_of_students(model), grid.timesteps(steps))
        students[steps] = teacher.guided.student(of_size(unet, steps.bit_length() - 1), config)
    return keep_and_measure(teacher, students, recipe, run)


def n_sizes_of(recipe: ShortcutRecipe) -> int:
    """How many numbers of steps there are: 1, 2, 4, ..., half the teacher's."""
    return recipe.teacher_steps.bit_length() - 1


def with_sizes(unet: nn.Module, n_sizes: int) -> nn.Module:
    """A copy of a `UNet2DModel` whose table of classes has a block of rows for each size; equal ones at first.

    Row ``size * n_classes + class`` is that of 2^size steps; a network without classes has one, whose row is 0.
    """
    network: Any = copy.deepcopy(unet).eval()
    width = network.time_embedding.linear_2.out_features
    old = network.class_embedding
    rows = (
        torch.zeros(1, width, device=next(unet.parameters()).device) if old is None else old.weight.detach()
    )
    network.class_embedding = nn.Embedding.from_pretrained(rows.repeat(n_sizes, 1), freeze=False)
    return cast(nn.Module, network)


def of_size(unet: nn.Module, size: int) -> nn.Module:
    """The plain network of one size, exactly: its rows of the table, or its row in the bias of the time embedding."""
    network: Any = copy.deepcopy(unet)
    n_classes = config_of(unet).get("num_class_embeds")
    table = network.class_embedding.weight.detach()
    if n_classes is not None:
        own = table[size * n_classes : (size + 1) * n_classes].clone()
        network.class_embedding = nn.Embedding.from_pretrained(own)
    else:
        network.class_embedding = None
        with torch.no_grad():
            network.time_embedding.linear_2.bias += table[size]
    return cast(nn.Module, network.requires_grad_(False))


def loss_of_steps(
    teacher: Guided,
    model: DiffusionModel,
    examples: Examples,
    grid: TimeGrid,
    recipe: ShortcutRecipe,
    run: Run,
) -> LossOfStep:
    """The loss of each optimiser step: max(1, SNR) times the squared error to where two half steps end."""
    n_sizes = n_sizes_of(recipe)
    timesteps = grid.timesteps(recipe.teacher_steps)
    sized = teacher.student(teacher.unet, student_config(model, prediction_of_students(model), timesteps))

    def loss_of(step: int, network: nn.Module, average: nn.Module) -> Tensor:
        batch = make_batch("shortcut", recipe.teacher_steps // 2, step, examples, recipe, run)
        sizes = sizes_of_batch(step, len(batch.x), n_sizes, recipe, run)
        n = 1 << sizes
        k = ((batch.k - 1) * n) // (recipe.teacher_steps // 2) + 1
        now = grid.at(k, n)
        z = now.alpha * batch.x + now.sigma * batch.noise
        labels = batch.condition.get("class_labels", torch.zeros_like(k))
        n_classes = config_of(teacher.unet).get("num_class_embeds") or 1

        def of_labels(network: nn.Module, at: Tensor) -> Denoise:
            return denoiser(sized.with_unet(network), {"class_labels": at})

        with run.runtime.autocast():
            with torch.no_grad():
                target = torch.empty_like(z)
                for rows, is_teacher in ((sizes == n_sizes - 1, True), (sizes < n_sizes - 1, False)):
                    if not bool(rows.any()):
                        continue
                    condition = {key: value[rows] for key, value in batch.condition.items()}
                    follow: Denoise = denoiser(teacher, condition)
                    if not is_teacher:
                        follow = of_labels(average, (sizes[rows] + 1) * n_classes + labels[rows])
                    target[rows] = target_of_sizes(follow, z[rows], k[rows], n[rows], grid)
            x = of_labels(network, sizes * n_classes + labels)(z, now)
            return truncated_snr_loss(x, target, now.alpha, now.sigma)

    return loss_of


def target_of_sizes(denoise: Denoise, z: Tensor, k: Tensor, n: Tensor, grid: TimeGrid) -> Tensor:
    """x~ ``[B, C, S, S]`` for step ``k`` of ``n``, int64 ``[B]`` each: where two of 2 n steps of ``denoise`` end."""
    now, middle, end = grid.at(k, n), grid.at(2 * k - 1, 2 * n), grid.at(k - 1, n)
    return two_step_target(denoise, z, now, middle, end)


def sizes_of_batch(step: int, n_own: int, n_sizes: int, recipe: ShortcutRecipe, run: Run) -> Tensor:
    """log2 of the number of steps of each of this rank's images, int64 ``[n_own]``.

    The share ``teacher_share`` of the batch has the largest, whose target is the teacher's; the others are random.
    """
    runtime, size = run.runtime, recipe.train.batch_size
    n_teacher = size if n_sizes == 1 else max(1, round(recipe.teacher_share * size))
    sizes = torch.full((size,), n_sizes - 1)
    if n_teacher < size:
        generator = runtime.generator("sizes", step)
        sizes[n_teacher:] = torch.randint(n_sizes - 1, (size - n_teacher,), generator=generator)
    return sizes[runtime.rank * n_own : (runtime.rank + 1) * n_own].to(runtime.device)
