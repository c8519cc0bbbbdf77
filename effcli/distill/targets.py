"""What a student learns from: where two DDIM steps of its teacher end, as one clean image (RDD, section 3.4)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from effcli.distill.predictions import to_x0
from effcli.distill.time_grid import Point

Denoise = Callable[[Tensor, Point], Tensor]
"""x^ = f(z, t), ``[B, C, H, W]`` each."""


class Denoiser:
    """A diffusion network as a function x^ = f(z, t).

    Args:
        network: `UNet2DModel`, or a wrapper that is called like one.
        prediction_type: what it predicts.
        condition: keyword arguments of the network, a row an image.
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
        x = to_x0(prediction, z, point.alpha.clamp(min=1e-8), point.sigma, self.prediction_type)
        return x.clamp(-1, 1) if self.clip else x


def two_step_target(teacher: Denoise, z: Tensor, now: Point, middle: Point, end: Point) -> Tensor:
    """x~, for which one step from ``now`` to ``end`` lands where two steps of the teacher do.

    With x1 = f(z), z' = alpha' x1 + sigma' eps1 and z'' after the second step, r = sigma'' / sigma:
    x~ = (z'' - r z) / (alpha'' - r alpha). (RDD, section 3.4.)

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
