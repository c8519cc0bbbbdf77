"""DDIM with the library's scheduler, made from whatever scheduler a model comes with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from effcli.core.errors import InputError

if TYPE_CHECKING:
    from diffusers import DDIMScheduler

Predict = Callable[[Tensor, int], Tensor]
"""What the network says at (x_t ``[B, C, H, W]``, t): noise, clean image or velocity, as the scheduler expects."""


def ddim_scheduler(config: Mapping[str, Any], steps: int) -> DDIMScheduler:
    """A DDIM scheduler of ``steps`` steps with the noise levels of another scheduler's configuration.

    Raises:
        InputError: the configuration does not convert, or has fewer than ``steps`` noise levels.
    """
    from diffusers import DDIMScheduler

    if str(config.get("variance_type", "")).startswith("learned"):
        raise InputError("this model predicts variances too, which DDIM has no use for", place="scheduler")
    try:
        scheduler: DDIMScheduler = DDIMScheduler.from_config(dict(config))
        scheduler.set_timesteps(steps)
    except (ValueError, NotImplementedError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"this scheduler does not convert to DDIM: {reason}", place="scheduler") from None
    return scheduler


def timesteps_of(scheduler: DDIMScheduler) -> list[int]:
    """The timesteps of a scheduler in the order of sampling, the noisiest first."""
    return [int(t) for t in scheduler.timesteps]


def trajectory(
    predict: Predict,
    scheduler: DDIMScheduler,
    noise: Tensor,
    *,
    eta: float = 0.0,
    generator: torch.Generator | None = None,
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Walk from noise to images; yields (t, x_t, prediction) and last (-1, x_0, x_0).

    Args:
        predict: the network.
        scheduler: of :func:`ddim_scheduler`.
        noise: x_T ~ N(0, 1), ``[B, C, H, W]``.
        eta: see :class:`SamplerSettings`.
        generator: where the noise of eta > 0 comes from.
    """
    x = noise * scheduler.init_noise_sigma
    for t in timesteps_of(scheduler):
        prediction = predict(x, t)
        yield t, x, prediction
        fresh = None
        if eta > 0:
            fresh = torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)
        x = scheduler.step(prediction, t, x, eta=eta, variance_noise=fresh).prev_sample
    yield -1, x, x


def sample(
    predict: Predict,
    scheduler: DDIMScheduler,
    noise: Tensor,
    *,
    eta: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """x_0 ``[B, C, H, W]`` from x_T; see :func:`trajectory`."""
    last = noise
    for _, last, _ in trajectory(predict, scheduler, noise, eta=eta, generator=generator):  # noqa: B007
        pass
    return last


def alpha_sigma(alphas_cumprod: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """alpha_t and sigma_t of z_t = alpha_t x + sigma_t eps, ``[B, 1, 1, 1]`` each, for timesteps ``[B]``."""
    level = alphas_cumprod[t][:, None, None, None].float()
    return level.sqrt(), (1 - level).sqrt()
