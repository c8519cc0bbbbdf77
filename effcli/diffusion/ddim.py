"""DDIM with the library's scheduler, made from whatever scheduler a model comes with."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Union

import torch
from torch import Tensor

from effcli.core.errors import InputError
from effcli.diffusion.processes import ProcessScheduler, process_of
from effcli.diffusion.schedulers import DISTILLED_TIMESTEPS, ddim_config

if TYPE_CHECKING:
    from diffusers import DDIMScheduler

Scheduler = Union["DDIMScheduler", ProcessScheduler]

Predict = Callable[[Tensor, float], Tensor]
"""What the network predicts at (x_t ``[B, C, H, W]``, t): noise, clean image or velocity, as the scheduler expects."""

_DEFAULT_STEPS = 16


def ddim_scheduler(config: Mapping[str, Any], steps: int | None = None) -> Scheduler:
    """A DDIM scheduler with the noise levels of another scheduler's configuration.

    Where those are not of a table of betas (flow matching, EDM, score SDEs) the steps are DDIM's in alpha and sigma,
    which are Euler's there.

    For a few-step student it visits the timesteps the student was trained at, and computes the noise of a step from the
    clipped image, as sampling does in progressive distillation: docs/methods/rdd.md, Sampler.

    Args:
        config: of a diffusers scheduler; see :mod:`effcli.diffusion.schedulers`.
        steps: number of steps; None: the number that a student was distilled for, else 16.

    Raises:
        InputError: the configuration is not understood, has fewer than ``steps`` noise levels, or is a student's of
            another number of steps.
    """
    from diffusers import DDIMScheduler

    process = process_of(config)
    distilled = config.get(DISTILLED_TIMESTEPS)
    n_steps = steps or (len(distilled) if distilled else _DEFAULT_STEPS)
    if distilled and n_steps != len(distilled):
        raise InputError(
            f"this model was distilled for {len(distilled)} steps, not for {n_steps}", place="sampler.steps"
        )
    if process is not None:
        return ProcessScheduler(process, n_steps, distilled)
    settings = ddim_config(config)
    try:
        scheduler: DDIMScheduler = DDIMScheduler.from_config(settings)
        scheduler.set_timesteps(n_steps)
    except (ValueError, NotImplementedError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"this scheduler does not convert to DDIM: {reason}", place="scheduler") from None
    _check_levels(scheduler)
    if distilled:
        scheduler.timesteps = torch.tensor(distilled)
        scheduler.step = functools.partial(scheduler.step, use_clipped_model_output=True)
    return scheduler


def _check_levels(scheduler: DDIMScheduler) -> None:
    betas = scheduler.betas
    if not bool(((betas >= 0) & (betas <= 1)).all()):
        raise InputError(
            f"its betas are {float(betas.min()):g} to {float(betas.max()):g}, not within 0 to 1",
            place="scheduler",
        )
    if scheduler.config["prediction_type"] == "epsilon" and float(scheduler.alphas_cumprod[-1]) == 0:
        raise InputError(
            "its last noise level is pure noise, of which a model that predicts epsilon can make no image",
            place="scheduler",
        )


def ends_of(config: Mapping[str, Any], steps: int | None) -> tuple[float, float]:
    """Share of the image's variance at the first of ``steps`` levels, and of the noise's after the last step."""
    scheduler = ddim_scheduler(config, steps)
    if isinstance(scheduler, ProcessScheduler):
        return scheduler.ends
    return float(scheduler.alphas_cumprod[-1]), 1 - float(scheduler.final_alpha_cumprod)


def timesteps_of(scheduler: Scheduler) -> list[float]:
    """The timesteps of a scheduler in the order of sampling, the noisiest first; whole numbers where it has those."""
    timesteps: list[float] = scheduler.timesteps.tolist()
    return timesteps


def trajectory(
    predict: Predict,
    scheduler: Scheduler,
    noise: Tensor,
    *,
    eta: float = 0.0,
    generator: torch.Generator | None = None,
) -> Iterator[tuple[float, Tensor, Tensor]]:
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
    scheduler: Scheduler,
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
