"""What a student learns from: where two DDIM steps of its teacher end, as one clean image.

docs/methods/rdd.md, Progressive distillation round. z = alpha x + sigma eps throughout.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from effcli.diffusion.conditioning import Guided
from effcli.diffusion.denoisers.classes import Condition
from effcli.diffusion.processes import prediction_of, to_clean
from effcli.distill.time_grid import Point

Denoise = Callable[[Tensor, Point], Tensor]
"""x^ = f(z, t), ``[B, C, H, W]`` each."""


class Denoiser:
    """A diffusion network as a function x^ = f(z, t).

    Args:
        predict: what the network predicts, ``[B, C, H, W]``, at (z of that shape, the timesteps ``[B]``).
        prediction_type: what that is.
        clip: bring x^ to -1..1, as samplers do.
    """

    def __init__(
        self, predict: Callable[[Tensor, Any], Tensor], prediction_type: str, *, clip: bool = False
    ) -> None:
        self.predict, self.prediction_type, self.clip = predict, prediction_type, clip

    def __call__(self, z: Tensor, point: Point) -> Tensor:
        """``[B, C, H, W]`` to the same, float32."""
        x = to_x0(self.predict(z, point.t).float(), z, point, self.prediction_type)
        return x.clamp(-1, 1) if self.clip else x


def denoiser(guided: Guided, condition: Condition, *, clip: bool = False) -> Denoiser:
    """A network with its guidance, under a condition of one row per image, as such a function."""
    return Denoiser(guided.predictor(condition), prediction_of(guided.scheduler_config), clip=clip)


def to_x0(prediction: Tensor, z: Tensor, point: Point, prediction_type: str) -> Tensor:
    """The clean image x^ that follows from a prediction, ``[B, C, H, W]``.

    ``epsilon``: (z - sigma eps) / alpha; ``sample``: as it is; ``v_prediction``, v = alpha eps - sigma x: alpha z -
    sigma v; others as in `effcli/diffusion/processes.py`.

    Args:
        prediction: of the network.
        z: the input of the network.
        point: where z is.
        prediction_type: by its diffusers name, or one of `processes.py`.

    Raises:
        KeyError: another name.
    """
    alpha, sigma = point.alpha, point.sigma
    if prediction_type == "epsilon":
        return (z - sigma * prediction) / alpha.clamp(min=1e-8)
    if prediction_type == "sample":
        return prediction
    if prediction_type == "v_prediction":
        return alpha.clamp(min=1e-8) * z - sigma * prediction
    return to_clean(prediction, z, alpha, sigma, prediction_type, point.data_std)


def two_step_target(teacher: Denoise, z: Tensor, now: Point, middle: Point, end: Point) -> Tensor:
    """x~, for which one step from ``now`` to ``end`` lands where two steps of the teacher do.

    With x1 = f(z), z' = alpha' x1 + sigma' eps1 and z'' after the second step, r = sigma'' / sigma:
    x~ = (z'' - r z) / (alpha'' - r alpha) (docs/methods/rdd.md, Progressive distillation round).

    Args:
        teacher: the denoiser.
        z: noisy images at ``now``, ``[B, C, H, W]``.
        now, middle, end: the teacher's steps t, t - 1, t - 2.
    """
    z_middle = ddim_step(teacher(z, now), z, now, middle)
    z_end = ddim_step(teacher(z_middle, middle), z_middle, middle, end)
    r = end.sigma / now.sigma
    return (z_end - r * z) / (end.alpha - r * now.alpha)


def ddim_step(x: Tensor, z: Tensor, now: Point, end: Point) -> Tensor:
    """z at ``end`` from the clean image ``x`` that was predicted from ``z`` at ``now``; no fresh noise."""
    eps = (z - now.alpha * x) / now.sigma
    return end.alpha * x + end.sigma * eps
