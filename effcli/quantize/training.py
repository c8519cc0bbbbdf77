"""Fine-tuning of a quantized UNet on the full-precision model's own trajectories.

docs/methods/mpq-dm.md, Low-rank fine-tuning and Relation distillation. Both models see the same x_t. The student learns
the teacher's prediction and, over a window of consecutive steps, the similarities between the pixels of the last
decoder block's features (TRD). x_{t-1} follows from the teacher's prediction only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from effcli.core.run import Run, Stateful
from effcli.core.runtime import share_of
from effcli.diffusion.conditioning import Guided
from effcli.diffusion.ddim import ddim_scheduler, timesteps_of
from effcli.diffusion.denoisers.classes import Condition, feature_map, last_block
from effcli.quantize.fake_quantization.layers import quantized_layers
from effcli.quantize.fake_quantization.quantizer import SMALLEST_SCALE
from effcli.quantize.losses import FeatureWindow, task_loss, time_smoothed_relations
from effcli.quantize.recipe import MpqDmRecipe, QuantizeTrainSection


class Trajectory:
    """Where a sampling run is: x_t, its condition, and the earlier features in the window of TRD."""

    def __init__(self) -> None:
        self.x = torch.zeros(0)
        self.condition: Condition = {}
        self.window = FeatureWindow()

    def begin(self, noise: Tensor, condition: Condition) -> None:
        """Start anew from noise."""
        self.x, self.condition = noise, condition
        self.window.clear()

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint."""
        window = self.window
        features = {"student_features": window.student, "teacher_features": window.teacher}
        return {"x": self.x, "condition": self.condition, **features}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a checkpoint's state."""
        self.x, self.condition = state["x"], state["condition"]
        self.window.student, self.window.teacher = state["student_features"], state["teacher_features"]


def fine_tune(guided: Guided, student: nn.Module, recipe: MpqDmRecipe, run: Run) -> None:
    """Train ``student`` in place: the low-rank updates, scales and zero-points of its layers.

    Args:
        guided: the full-precision model.
        student: of :func:`effcli.quantize.calibration.initialise`.
        recipe: the settings.
        run: keeps checkpoints.
    """
    settings, runtime = recipe.train, run.runtime
    scheduler = ddim_scheduler(guided.scheduler_config, recipe.sampler.steps)
    timesteps = timesteps_of(scheduler)
    total_steps = settings.trajectories * len(timesteps)
    optimizer = torch.optim.AdamW(parameter_groups(student, settings))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / max(1, total_steps))
    trajectory = Trajectory()
    share = share_of(settings.batch_size, runtime.world)
    learner = guided.with_unet(runtime.wrap(student))
    state: dict[str, Stateful] = {
        "student": student, "optimizer": optimizer, "schedule": schedule, "walk": trajectory,
    }  # fmt: skip
    shape = guided.sample_shape
    with features_of(guided.unet, shape) as theirs, features_of(student, shape) as ours:
        for step in run.steps("fine-tune", total_steps, state):
            position = step % len(timesteps)
            if position == 0:
                noise = torch.randn(share, *shape)
                trajectory.begin(
                    noise.to(guided.device), guided.random_condition(share, torch.default_generator)
                )
            t = timesteps[position]
            with torch.no_grad(), runtime.autocast():
                target = guided.predictor(trajectory.condition)(trajectory.x, t)
            with runtime.autocast():
                prediction = learner.predictor(trajectory.condition)(trajectory.x, t)
            task = task_loss(prediction, target)
            trd = time_smoothed_relations(trajectory.window, ours.pop(), theirs.pop(), settings)
            run.log("fine-tune", step, every=10, task_loss=task.detach(), trd_loss=trd.detach())
            optimizer.zero_grad(set_to_none=True)
            (task + settings.trd_weight * trd).backward()
            optimizer.step()
            schedule.step()
            keep_scales_positive(student)
            fresh = torch.randn(trajectory.x.shape).to(guided.device) if recipe.sampler.eta > 0 else None
            trajectory.x = scheduler.step(
                target, t, trajectory.x, eta=recipe.sampler.eta, variance_noise=fresh
            ).prev_sample


def parameter_groups(student: nn.Module, settings: QuantizeTrainSection) -> list[dict[str, Any]]:
    """What is trained, with learning rates; a low-rank update's is its layer's mean weight scale over the divisor."""
    groups: list[dict[str, Any]] = []
    weight_ranges: list[Tensor] = []
    activation_ranges: list[Tensor] = []
    for _, layer in quantized_layers(student):
        if layer.update_a is None or layer.update_b is None:
            continue  # one of the 8-bit layers at the edges, which stay as calibrated
        step = layer.mean_step()
        groups.append({"params": [layer.update_a, layer.update_b], "lr": step / settings.lora_rate_divisor})
        if layer.has_codebooks:  # whose scales are smaller than a step, and move in proportion
            share = float(layer.scale.detach().mean()) / step
            groups.append({"params": [layer.scale], "lr": settings.weight_scale_rate * share})
        else:
            weight_ranges += [layer.scale, layer.zero]
        activation_ranges += [layer.act_scale, layer.act_zero]
    groups.append({"params": weight_ranges, "lr": settings.weight_scale_rate})
    groups.append({"params": activation_ranges, "lr": settings.activation_scale_rate})
    for group in groups:
        for parameter in group["params"]:
            parameter.requires_grad_(True)
    for _, layer in quantized_layers(student):
        if layer.update_a is None:
            layer.requires_grad_(False)
    return groups


@torch.no_grad()
def keep_scales_positive(student: nn.Module) -> None:
    """A scale that a step took to zero or below would divide by zero: keep it at a millionth, codebooks' at 1e-8."""
    for _, layer in quantized_layers(student):
        layer.scale.clamp_(min=SMALLEST_SCALE if layer.has_codebooks else 1e-6)
        layer.act_scale.clamp_(min=1e-6)


@contextmanager
def features_of(unet: nn.Module, sample_shape: tuple[int, int, int]) -> Iterator[list[Tensor]]:
    """A list that every forward pass appends the features ``[B, C, h, w]`` of the last block to."""
    caught: list[Tensor] = []
    hook = last_block(unet).register_forward_hook(
        lambda module, inputs, output: caught.append(feature_map(unet, output, sample_shape))
    )
    try:
        yield caught
    finally:
        hook.remove()
