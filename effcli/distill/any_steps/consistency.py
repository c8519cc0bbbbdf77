"""CD, consistency distillation: one network whose image is the same all along a trajectory of its teacher.

Song, Dhariwal, Chen, Sutskever, "Consistency Models", ICML 2023, arXiv 2303.01469, Algorithm 2; docs/methods/cd.md. The
network predicts velocity, so that x^ = alpha z - sigma v: skip and output weights are alpha and -sigma, and at the
clean end, where sigma is 0, x^ is z whatever the weights.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effcli.core.evidence.result import Result
from effcli.core.plan import Plan
from effcli.core.run import Run
from effcli.diffusion.conditioning import Guided
from effcli.diffusion.schedulers import RENEWS_NOISE
from effcli.distill.any_steps.recipe import CdRecipe
from effcli.distill.any_steps.students import (
    LossOfStep,
    fit,
    keep_and_measure,
    measured_steps,
    prediction_of_students,
    teacher_to_follow,
)
from effcli.distill.any_steps.students import plan as plan_students
from effcli.distill.feature_networks import FeatureNetwork, load_feature_network
from effcli.distill.inputs.examples import Examples
from effcli.distill.inputs.teacher import DiffusionTeacher
from effcli.distill.losses import maps_distance
from effcli.distill.progressive import TeacherInputs, check_same_teacher, student_config
from effcli.distill.targets import Denoise, ddim_step, denoiser
from effcli.distill.time_grid import Point, TimeGrid
from effcli.distill.training import make_batch
from effcli.distill.weights import keep_parts

Distance = Callable[[Tensor, Tensor], Tensor]


def plan(recipe: CdRecipe) -> Plan[TeacherInputs]:
    """Teacher, images and, where there is one, feature network, and what :func:`distill` would do with them."""
    name = recipe.features
    if name is None:
        return plan_students(recipe)

    def load(teacher: DiffusionTeacher) -> FeatureNetwork:
        return load_feature_network(name, teacher, side=recipe.feature_side)

    return plan_students(recipe, load)


def distill(recipe: CdRecipe, inputs: TeacherInputs, run: Run) -> Result:
    """One student for all numbers of steps."""
    teacher, _, features = inputs.to(run.runtime.device)
    model = teacher.model
    check_same_teacher(model, run)
    keep_parts(model, run)
    examples = inputs.learned_from(recipe, run)
    grid = TimeGrid(model.scheduler_config, run.runtime.device)
    followed = teacher_to_follow(teacher, examples, grid, recipe, run)
    unet = copy.deepcopy(followed.unet).eval()
    prediction = prediction_of_students(model)
    student = followed.student(unet, student_config(model, prediction, grid.timesteps(recipe.teacher_steps)))
    loss_of = loss_of_steps(followed, student, examples, grid, distance_by(features), recipe, run)
    fit("consistency", unet, loss_of, recipe, run)
    students = {}
    for steps in measured_steps(recipe):
        config = student_config(model, prediction, grid.timesteps(steps))
        students[steps] = teacher.guided.student(unet, config | {RENEWS_NOISE: True})
    return keep_and_measure(teacher, students, recipe, run)


def distance_by(features: FeatureNetwork | None) -> Distance:
    """The distance of two batches of images ``[B, C, S, S]``: of all maps of the network, or of pixels without one."""
    if features is None:
        return F.mse_loss
    maps = features.feature_maps
    return lambda x, target: maps_distance(maps(x), maps(target))


def loss_of_steps(
    teacher: Guided,
    student: Guided,
    examples: Examples,
    grid: TimeGrid,
    distance: Distance,
    recipe: CdRecipe,
    run: Run,
) -> LossOfStep:
    """The loss of each optimiser step: d(f(z_t, t), f-(z_s, s)), f- with averaged weights.

    z_s is one DDIM step of the teacher from z_t; t is any of its sampling steps, s the next (Algorithm 2, weight 1).
    """
    n_steps = recipe.teacher_steps

    def loss_of(step: int, network: nn.Module, average: nn.Module) -> Tensor:
        batch = make_batch("consistency", n_steps, step, examples, recipe, run)
        now, end = grid.at(batch.k, n_steps), grid.at(batch.k - 1, n_steps)
        z = now.alpha * batch.x + now.sigma * batch.noise
        own, follow, target = (
            denoiser(one, batch.condition)
            for one in (student.with_unet(network), teacher, student.with_unet(average))
        )
        with run.runtime.autocast():
            with torch.no_grad():
                x_target = consistency_target(follow, target, z, now, end, batch.k == 1)
            return distance(own(z, now), x_target)

    return loss_of


def consistency_target(
    teacher: Denoise, average: Denoise, z: Tensor, now: Point, end: Point, is_last: Tensor
) -> Tensor:
    """f-(z_s, s) after one DDIM step of the teacher from z_t; at the clean end the image that z_s is.

    Args:
        teacher: the denoiser whose trajectories are followed.
        average: f-.
        z: z_t at ``now``, ``[B, C, H, W]``.
        now, end: t and s.
        is_last: whether s is the clean end, bool ``[B]``.
    """
    z_end = ddim_step(teacher(z, now), z, now, end)
    return torch.where(is_last[:, None, None, None], z_end / end.alpha, average(z_end, end))
