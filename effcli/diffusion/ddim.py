"""DDIM with the library's scheduler, made from whatever scheduler a model comes with."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Union

import torch
from torch import Tensor

from effcli.core.errors import InputError
from effcli.diffusion.processes import ProcessScheduler, Stepped, process_of
from effcli.diffusion.schedulers import DISTILLED_TIMESTEPS, RENEWS_NOISE, ddim_config

if TYPE_CHECKING:
    from diffusers import DDIMScheduler

Scheduler = Union["DDIMScheduler", ProcessScheduler, "RenewingScheduler"]

Predict = Callable[[Tensor, float], Tensor]
"""What the network predicts at (x_t ``[B, C, H, W]``, t): noise, clean image or velocity, as the scheduler expects."""

_DEFAULT_STEPS = 16
_OF_DDIM = ("DDIMScheduler", "DDIMParallelScheduler", "PNDMScheduler")


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
        steps_of_process = ProcessScheduler(process, n_steps, distilled)
        if config.get(RENEWS_NOISE):
            return RenewingScheduler(steps_of_process, *steps_of_process.levels_after)
        return steps_of_process
    settings = ddim_config(config)
    try:
        scheduler: DDIMScheduler = DDIMScheduler.from_config(settings)
        scheduler.set_timesteps(n_steps)
    except (ValueError, NotImplementedError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"this scheduler does not convert to DDIM: {reason}", place="scheduler") from None
    _check_levels(scheduler)
    if not distilled and config["_class_name"] not in _OF_DDIM:
        _end_steps_at_the_next_timestep(scheduler)
    if distilled:
        scheduler.timesteps = torch.tensor(distilled)
        scheduler.step = functools.partial(scheduler.step, use_clipped_model_output=True)
        if config.get(RENEWS_NOISE):
            return RenewingScheduler(scheduler, *_levels_after(scheduler))
    return scheduler


def _end_steps_at_the_next_timestep(scheduler: DDIMScheduler) -> None:
    """Let each step end at the level of the next timestep, as in all classes but those of ``_OF_DDIM``.

    Those go (levels // steps) levels down, which is another level where the timesteps are not evenly spaced like that
    (``linspace``): there the network is told less noise than there is.
    """
    timesteps, step = scheduler.timesteps.tolist(), scheduler.step
    following = dict(pairwise([*timesteps, -1]))
    n_levels = scheduler.config["num_train_timesteps"]

    def stepped(prediction: Tensor, t: float, z: Tensor, **settings: Any) -> Any:
        down = int(t) - following[int(t)]
        scheduler.num_inference_steps = Fraction(2 * n_levels, 2 * down + 1)  # n_levels // this is down
        return step(prediction, t, z, **settings)

    scheduler.step = stepped


class RenewingScheduler:
    """Multistep sampling of a consistency model: each step ends at its image x^ with fresh noise, the last at x^.

    Song et al., "Consistency Models", ICML 2023, Algorithm 1.

    Args:
        inner: the scheduler whose x^ is taken.
        alphas, sigmas: of the levels after each step, ``[steps]``.

    Attributes:
        timesteps, init_noise_sigma: as of ``inner``.
    """

    def __init__(self, inner: DDIMScheduler | ProcessScheduler, alphas: Tensor, sigmas: Tensor) -> None:
        self._inner, self._alphas, self._sigmas = inner, alphas.tolist(), sigmas.tolist()
        self.timesteps, self.init_noise_sigma = inner.timesteps, inner.init_noise_sigma
        self._positions = {t: i for i, t in enumerate(self.timesteps.tolist())}

    def step(
        self,
        prediction: Tensor,
        t: float,
        z: Tensor,
        *,
        eta: float = 0.0,
        variance_noise: Tensor | None = None,
    ) -> Stepped:
        """x^ with ``variance_noise`` at the next level; all noise is fresh, whatever ``eta``."""
        x: Tensor = self._inner.step(prediction, t, z).pred_original_sample
        i = self._positions[float(t)]
        if i == len(self._alphas) - 1 or variance_noise is None:
            return Stepped(x, x)
        return Stepped(self._alphas[i] * x + self._sigmas[i] * variance_noise, x)


def _levels_after(scheduler: DDIMScheduler) -> tuple[Tensor, Tensor]:
    following = scheduler.timesteps[1:].long()
    levels = torch.cat([scheduler.alphas_cumprod[following], scheduler.final_alpha_cumprod.reshape(1)])
    return levels.sqrt(), (1 - levels).sqrt()


def needs_noise(scheduler: Scheduler, eta: float) -> bool:
    """Whether sampling takes fresh noise in its steps."""
    return eta > 0 or isinstance(scheduler, RenewingScheduler)


def _check_levels(scheduler: DDIMScheduler) -> None:
    betas = scheduler.betas
    if not bool(((betas >= 0) & (betas <= 1)).all()):
        raise InputError(
            f"its betas are {float(betas.min()):g} to {float(betas.max()):g}, not within 0 to 1",
            place="scheduler",
        )
    if scheduler.config["prediction_type"] == "epsilon" and float(scheduler.alphas_cumprod[-1]) == 0:
        raise InputError(
            "its last noise level is pure noise, from which a model that predicts epsilon cannot make an image",
            place="scheduler",
        )


def ends_of(config: Mapping[str, Any], steps: int | None) -> tuple[float, float]:
    """Share of the image's variance at the first of ``steps`` levels, and of the noise's after the last step."""
    scheduler = ddim_scheduler({key: value for key, value in config.items() if key != RENEWS_NOISE}, steps)
    if isinstance(scheduler, ProcessScheduler):
        return scheduler.ends
    assert not isinstance(scheduler, RenewingScheduler)
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
    is_random = needs_noise(scheduler, eta)
    for t in timesteps_of(scheduler):
        prediction = predict(x, t)
        yield t, x, prediction
        fresh = None
        if is_random:
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
