"""The training of one round's student; docs/methods/rdd.md, Progressive distillation round and Rounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from effcli.core.run import Run
from effcli.core.runtime import derive_seed
from effcli.diffusion.conditioning import Guided
from effcli.diffusion.denoisers.classes import Condition
from effcli.diffusion.processes import clips_images
from effcli.distill.inputs.examples import Examples
from effcli.distill.losses import RoundLoss
from effcli.distill.recipe import StudentsRecipe
from effcli.distill.rounds import Round
from effcli.distill.targets import denoiser, two_step_target
from effcli.distill.time_grid import TimeGrid
from effcli.nn.schedules import cosine


def fit_round(
    one: Round,
    student: Guided,
    teacher: Guided,
    loss: RoundLoss,
    grid: TimeGrid,
    examples: Examples,
    recipe: StudentsRecipe,
    run: Run,
) -> None:
    """Train the student in place: Adam, a cosine to learning rate 0, no dropout, no averaged weights."""
    settings, runtime = recipe.train, run.runtime
    learned = loss.learned()
    optimizer = torch.optim.Adam([{"params": student.unet.parameters()}], lr=settings.learning_rate)
    state: dict[str, Any] = {"student": student.unet, "optimizer": optimizer}
    if learned is not None:
        state["loss"] = learned
        if own := list(learned.parameters()):
            optimizer.add_param_group({"params": own, "lr": settings.learning_rate})
    parallel = student.with_unet(runtime.wrap(student.unet))
    for step in run.steps(one.name, one.train_steps, state):
        batch = make_batch(one.name, one.student_steps, step, examples, recipe, run)
        now = grid.at(batch.k, one.student_steps)
        z = now.alpha * batch.x + now.sigma * batch.noise
        rate = cosine(step, one.train_steps, settings.learning_rate, 0.0)
        optimizer.param_groups[0]["lr"] = rate
        with runtime.autocast():
            with torch.no_grad():
                target = target_of(one, teacher, z, batch, grid)
            x_student = denoiser(parallel, batch.condition)(z, now)
            terms = loss(x_student, target, now)
        total = sum((loss.weights[name] * term for name, term in terms.items()), x_student.new_zeros(()))
        run.log(one.name, step, every=10, loss=total.detach(), **terms, learning_rate=rate)
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(student.unet.parameters(), settings.grad_clip)
        optimizer.step()


@dataclass(frozen=True)
class RoundBatch:
    """A rank's share of the examples of a step.

    Attributes:
        x: clean images or latents ``[B, C, S, S]``.
        noise: eps, of that shape.
        k: the student's sampling step of each, int64 ``[B]`` in 1..student_steps.
        condition: keyword arguments of the network.
    """

    x: Tensor
    noise: Tensor
    k: Tensor
    condition: Condition


def make_batch(
    stage: str,
    n_steps: int,
    step: int,
    examples: Examples,
    recipe: StudentsRecipe,
    run: Run,
) -> RoundBatch:
    """Examples, noise and sampling steps of optimiser step ``step``; all ranks together have those of one process.

    Args:
        stage: whose randomness it is.
        n_steps: the largest sampling step.
        step: of the optimiser.
        examples, recipe, run: as of the run.
    """
    runtime, size = run.runtime, recipe.train.batch_size
    seed = derive_seed(recipe.seed, stage)
    x, condition = examples.batch(step, size, runtime, seed=seed, flip=recipe.augment.flip)
    generator = runtime.generator(stage, step)
    k = torch.randint(1, n_steps + 1, (size,), generator=generator)
    noise = torch.randn(size, *x.shape[1:], generator=generator)
    own = slice(runtime.rank * len(x), (runtime.rank + 1) * len(x))
    device = runtime.device
    return RoundBatch(x, noise[own].to(device), k[own].to(device), condition)


def target_of(one: Round, teacher: Guided, z: Tensor, batch: RoundBatch, grid: TimeGrid) -> Tensor:
    """x~ ``[B, C, S, S]``: of two teacher steps, or the teacher's own x^ in a round that converts the prediction."""
    now = grid.at(batch.k, one.student_steps)
    if one.student_steps == one.teacher_steps:
        clip = clips_images(teacher.scheduler_config)
        return denoiser(teacher, batch.condition, clip=clip)(z, now)
    middle, end = grid.at(2 * batch.k - 1, one.teacher_steps), grid.at(batch.k - 1, one.student_steps)
    return two_step_target(denoiser(teacher, batch.condition), z, now, middle, end)
