"""What a student learns from: where two DDIM steps of its teacher end, as one clean image.

docs/methods/rdd.md, Progressive distillation round. z = alpha x + sigma eps throughout.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from effcli.diffusion.processes import to_clean
from effcli.distill.time_grid import Point

Denoise = Callable[[Tensor, Point], Tensor]
"""x^ = f(z, t), ``[B, C, H, W]`` each."""


class Denoiser:
    """A diffusion network as a function x^ = f(z, t).

    Args:
        network: `UNet2DModel`, or a wrapper that is called like one.
        prediction_type: what it predicts.
        condition: keyword arguments of the network, one row per image.
        clip: bring x^ to -1..1, as samplers do.
    """

    def __init__(
        self, network: nn.Module, prediction_type: str, condition: dict[str, Tensor], *, clip: bool = False
    ) -> None:
        self.network, self.prediction_type, self.condition, self.clip = (
            network,
            prediction_type,
            condition,
            clip,
        )

    def __call__(self, z: Tensor, point: Point) -> Tensor:
        """``[B, C, H, W]`` to the same, float32."""
        prediction = self.network(z, point.t, **self.condition, return_dict=False)[0].float()
        x = to_x0(prediction, z, point, self.prediction_type)
        return x.clamp(-1, 1) if self.clip else x


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
