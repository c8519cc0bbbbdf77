"""Noise processes that are not a table of betas: flow matching, EDM and score SDEs (variance exploding).

All have the form z = alpha x + sigma eps with timesteps of their own, so that one step serves them all: the clean image
x^ that follows from the prediction and the noise (z - alpha x^) / sigma, put together again at the next level.

========  =========================  ====================  ============================================
process   alpha, sigma               timestep              x^ from the prediction p
========  =========================  ====================  ============================================
flow      1 - s, s                   N s                   z - s p
edm       cos f / d, sin f           (ln s) / 4            d^2 alpha z + d sigma p, or minus for "v_prediction"
score     1, s                       s                     z + s^2 p
========  =========================  ====================  ============================================

s is the scheduler's own sigma, d the standard deviation of the data and tan f = s / d: z of EDM is what its network
gets, of variance 1.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from effcli.core.errors import InputError
from effcli.diffusion.schedulers import (
    CLASSES,
    DISTILLED_TIMESTEPS,
    PROCESS_CLASSES,
    RENEWS_NOISE,
    check_keys,
    ddim_config,
    describe_levels,
)

EVEN_SIGMAS = "even_sigmas"
"""Our key in a scheduler's configuration: the network's pipelines ask for sigmas evenly between 1 and 1 / steps."""

IMAGE_TOKENS = "image_tokens"
"""Our key in a scheduler's configuration: the length of the image's sequence, for shifts that depend on it."""

FLOW_CLASSES = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
_EDM = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")
_KNOWN = {
    "num_train_timesteps", "shift", "use_dynamic_shifting", "base_shift", "max_shift", "base_image_seq_len",
    "max_image_seq_len", "shift_terminal", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas",
    "time_shift_type", "sigma_min", "sigma_max", "sigma_data", "sigma_schedule", "prediction_type", "rho",
    "final_sigmas_type", "clip_sample", IMAGE_TOKENS, DISTILLED_TIMESTEPS,
    EVEN_SIGMAS, RENEWS_NOISE,
    # of solvers, which the step here replaces
    "solver_order", "algorithm_type", "solver_type", "lower_order_final", "euler_at_final", "snr", "correct_steps",
    "sampling_eps",
}  # fmt: skip


@dataclass(frozen=True)
class Process:
    """A process with its settings.

    Attributes:
        kind: see the first lines of this file.
        config: of the scheduler, with the defaults of its class.
        prediction: what the network predicts, by the names of :func:`to_clean`.
    """

    kind: Literal["flow", "edm", "score"]
    config: Mapping[str, Any]
    prediction: str

    @property
    def data_std(self) -> float:
        """d."""
        return float(self.config["sigma_data"]) if self.kind == "edm" else 1.0


class Levels(NamedTuple):
    """Places on the time axis, ``[N]`` each: timesteps of the network, alpha and sigma; float64."""

    t: Tensor
    alpha: Tensor
    sigma: Tensor


def process_of(config: Mapping[str, Any]) -> Process | None:
    """The process of a scheduler's configuration; None for those with a table of betas.

    Raises:
        InputError: a key or a value is not understood.
    """
    name = str(config.get("_class_name"))
    is_solver_of_flow = _is_solver_of_flow(name, config)
    if name not in PROCESS_CLASSES and not is_solver_of_flow:
        return None
    full = _with_defaults(name, config)
    if is_solver_of_flow:
        _check_solver(name, config, full)
        return Process("flow", full, "flow_prediction")
    _check_keys(name, config, full)
    if name in FLOW_CLASSES:
        if full.get("use_dynamic_shifting") and IMAGE_TOKENS not in full:
            raise InputError(
                f"{name}'s use_dynamic_shifting needs the size of the image, which is not known here",
                place="scheduler",
            )
        return Process("flow", full, "flow_prediction")
    if name in _EDM:
        kinds = {"epsilon": "edm", "v_prediction": "edm_v"}
        if full["prediction_type"] not in kinds:
            raise InputError(
                f"{name}'s prediction_type is {full['prediction_type']!r}, which is not supported",
                place="scheduler", hint="supported: epsilon, v_prediction",
            )  # fmt: skip
        return Process("edm", full, kinds[full["prediction_type"]])
    return Process("score", full, "score")


def _is_solver_of_flow(name: str, config: Mapping[str, Any]) -> bool:
    if config.get("prediction_type") != "flow_prediction" or not config.get("use_flow_sigmas"):
        return False
    import diffusers

    return name in CLASSES and "use_flow_sigmas" in inspect.signature(getattr(diffusers, name)).parameters


def _check_solver(name: str, config: Mapping[str, Any], full: Mapping[str, Any]) -> None:
    """Refuse what changes the levels of a solver of flow matching, and is not done here."""
    own = ("prediction_type", "use_flow_sigmas")
    check_keys(name, {key: value for key, value in config.items() if key not in own})
    for key, only in (("thresholding", False), ("final_sigmas_type", "zero")):
        if full.get(key, only) != only:
            raise InputError(
                f"{name}'s {key} is {full[key]!r}, which is not supported with use_flow_sigmas",
                place="scheduler", hint=f"supported: {only!r}",
            )  # fmt: skip
    _check_above(name, full, "flow_shift", 0)


def _with_defaults(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    import diffusers

    parameters = inspect.signature(getattr(diffusers, name).__init__).parameters
    defaults = {key: one.default for key, one in parameters.items() if one.default is not one.empty}
    return {**defaults, **{key: value for key, value in config.items() if value is not None}}


def _check_keys(name: str, config: Mapping[str, Any], full: Mapping[str, Any]) -> None:
    import diffusers

    parameters = inspect.signature(getattr(diffusers, name).__init__).parameters
    for key, value in config.items():
        known = key in _KNOWN or key.startswith("_") or value is None
        if not known and not (key in parameters and parameters[key].default == value):
            raise InputError(f"{name}'s {key} ({value!r}) is not understood", place="scheduler")
    if full.get("thresholding"):
        raise InputError(f"{name}'s thresholding is true, which is not supported", place="scheduler")
    for key in ("shift", "sigma_min", "sigma_max", "sigma_data", "rho"):
        _check_above(name, full, key, 0)
    if "sigma_min" in full and full["sigma_min"] >= full["sigma_max"]:
        raise InputError(
            f"{name}'s sigma_min is {full['sigma_min']}, its sigma_max {full['sigma_max']}", place="scheduler"
        )


def _check_above(name: str, full: Mapping[str, Any], key: str, low: float) -> None:
    value = full.get(key)
    if value is not None and not (isinstance(value, (int, float)) and math.isfinite(value) and value > low):
        raise InputError(f"{name}'s {key} is {value!r}, not a number above {low}", place="scheduler")


def sampling_sigmas(process: Process, steps: int) -> Tensor:
    """s of ``steps`` sampling steps as the class of diffusers has them, the noisiest first, and of their end.

    With ``use_dynamic_shifting`` or ``even_sigmas`` they begin evenly between 1 and 1 / steps, as the pipelines of Flux
    and others ask.

    Returns:
        ``[steps + 1]``, float64.
    """
    config = process.config
    if process.kind == "flow":
        return _flow_sigmas(config, steps)
    low, high = float(config["sigma_min"]), float(config["sigma_max"])
    if process.kind == "score":
        ramp = torch.linspace(1, float(config["sampling_eps"]), steps, dtype=torch.float64)
        return torch.cat([low * (high / low) ** ramp, torch.zeros(1, dtype=torch.float64)])
    sigmas = sigmas_at(process, 1 - torch.linspace(0, 1, steps, dtype=torch.float64))
    end = sigmas[-1:] if config["final_sigmas_type"] == "sigma_min" else torch.zeros(1, dtype=torch.float64)
    return torch.cat([sigmas, end])


def _flow_sigmas(config: Mapping[str, Any], steps: int) -> Tensor:
    n = float(config["num_train_timesteps"])
    zero = torch.zeros(1, dtype=torch.float64)
    if config["_class_name"] not in FLOW_CLASSES:
        ramp = torch.arange(steps, 0, -1, dtype=torch.float64) / steps * (1 - 1 / n)
        return torch.cat([_shifted(ramp, float(config.get("flow_shift") or 1.0)), zero])
    from diffusers import FlowMatchEulerDiscreteScheduler as Flow

    names = set(inspect.signature(Flow.__init__).parameters)
    scheduler = Flow(**{key: value for key, value in config.items() if key in names})
    is_dynamic = bool(config.get("use_dynamic_shifting"))
    if is_dynamic or config.get(EVEN_SIGMAS):
        even = torch.linspace(1, 1 / steps, steps, dtype=torch.float64)
        scheduler.set_timesteps(sigmas=even.tolist(), mu=_shift_exponent(config) if is_dynamic else None)
    else:
        scheduler.set_timesteps(steps)
    sigmas: Tensor = scheduler.sigmas.double()
    return sigmas


def _shift_exponent(config: Mapping[str, Any]) -> float:
    """mu, linear in the length of the image's sequence."""
    low, high = float(config["base_image_seq_len"]), float(config["max_image_seq_len"])
    slope = (float(config["max_shift"]) - float(config["base_shift"])) / (high - low)
    return float(config["base_shift"]) + slope * (float(config[IMAGE_TOKENS]) - low)


def _shifted(u: Tensor, shift: float) -> Tensor:
    return shift * u / (1 + (shift - 1) * u)


def sigmas_at(process: Process, u: Tensor) -> Tensor:
    """s at any place u of the time axis, 0 (the cleanest level of the scheduler) to 1 (the noisiest); float64."""
    config, u = process.config, u.double()
    if process.kind == "flow":
        shift = float(config.get("shift") or config.get("flow_shift") or 1.0)
        if config.get("use_dynamic_shifting"):
            mu = _shift_exponent(config)
            shift = mu if config.get("time_shift_type") == "linear" else math.exp(mu)
        return _shifted(u, shift)
    low, high = float(config["sigma_min"]), float(config["sigma_max"])
    if process.kind == "score" or config["sigma_schedule"] == "exponential":
        return low * torch.pow(high / low, u)
    rho = float(config["rho"])
    return torch.pow(low ** (1 / rho) + u * (high ** (1 / rho) - low ** (1 / rho)), rho)


def levels_at(process: Process, sigmas: Tensor) -> Levels:
    """Timesteps, alpha and sigma at the scheduler's sigmas, ``[N]`` float64."""
    if process.kind == "flow":
        return Levels(sigmas * float(process.config["num_train_timesteps"]), 1 - sigmas, sigmas)
    if process.kind == "score":
        return Levels(sigmas, torch.ones_like(sigmas), sigmas)
    d = process.data_std
    length = (sigmas.square() + d * d).sqrt()
    return Levels(0.25 * sigmas.clamp(min=1e-40).log(), 1 / length, sigmas / length)


def sigmas_of(process: Process, timesteps: list[float]) -> Tensor:
    """s from what the network is told, the inverse of :func:`levels_at`."""
    t = torch.tensor(timesteps, dtype=torch.float64)
    if process.kind == "flow":
        return t / float(process.config["num_train_timesteps"])
    return t if process.kind == "score" else (4 * t).exp()


def to_clean(
    prediction: Tensor, z: Tensor, alpha: Tensor, sigma: Tensor, prediction_type: str, data_std: Tensor
) -> Tensor:
    """x^ from the prediction; see the first lines of this file.

    Args:
        prediction, z: ``[B, C, H, W]``.
        alpha, sigma: broadcastable to them.
        prediction_type: ``flow_prediction``, ``edm``, ``edm_v`` or ``score``.
        data_std: d.

    Raises:
        KeyError: another name.
    """
    if prediction_type == "flow_prediction":
        return z - sigma * prediction
    if prediction_type == "score":
        return z + sigma.square() * prediction
    sign = {"edm": 1, "edm_v": -1}[prediction_type]
    return data_std.square() * alpha * z + sign * data_std * sigma * prediction


class Stepped(NamedTuple):
    """What a step gives: z at the next level, and the clean image x^ that it was made with."""

    prev_sample: Tensor
    pred_original_sample: Tensor


class ProcessScheduler:
    """Steps through a process, as a scheduler of diffusers does through its levels.

    Args:
        process: which.
        steps: how many.
        distilled: the timesteps of a student, whose x^ is clipped to -1..1; None: those of the class.

    Attributes:
        timesteps: what the network is told, float32 ``[steps]``.
        init_noise_sigma: standard deviation of the first z, for noise of 1.
    """

    def __init__(self, process: Process, steps: int, distilled: list[float] | None = None) -> None:
        self.process = process
        self._clips = bool(process.config.get("clip_sample"))
        zero = torch.zeros(1, dtype=torch.float64)
        sigmas = sampling_sigmas(process, steps)
        if distilled is not None:
            sigmas = torch.cat([sigmas_of(process, distilled), zero])
        levels = levels_at(process, sigmas)
        self.timesteps = levels.t[:-1].float()
        self._alpha, self._sigma = levels.alpha.float(), levels.sigma.float()
        self._data_std = torch.tensor(process.data_std)
        self._positions = {t: i for i, t in enumerate(self.timesteps.tolist())}
        high = float(sigmas[0])
        self.init_noise_sigma = {
            "flow": 1.0,
            "score": high,
            "edm": math.sqrt((high**2 + 1) / (high**2 + process.data_std**2)),
        }[process.kind]

    @property
    def levels_after(self) -> tuple[Tensor, Tensor]:
        """alpha and sigma after each step, ``[steps]``."""
        return self._alpha[1:], self._sigma[1:]

    @property
    def ends(self) -> tuple[float, float]:
        """Share of the image's variance at the first level, and of the noise's at the last."""
        alpha, sigma = self._alpha.double() * self.process.data_std, self._sigma.double()
        share = alpha.square() / (alpha.square() + sigma.square())
        return float(share[0]), float(1 - share[-1])

    def step(
        self,
        prediction: Tensor,
        t: float,
        z: Tensor,
        *,
        eta: float = 0.0,
        variance_noise: Tensor | None = None,
    ) -> Stepped:
        """z at the next level from the prediction at z, after the last step the image itself; ``eta`` as of DDIM."""
        i = self._positions[float(t)]
        alpha, sigma, to_alpha, to_sigma = (
            value.to(z.device) for value in (self._alpha[i], self._sigma[i], self._alpha[i + 1], self._sigma[i + 1])
        )  # fmt: skip
        data_std = self._data_std.to(z.device)
        x = to_clean(prediction, z, alpha, sigma, self.process.prediction, data_std)
        if self._clips:
            x = x.clamp(-1, 1)
        eps = (z - alpha * x) / sigma
        if eta == 0 or variance_noise is None:
            return Stepped((to_alpha * x + to_sigma * eps) / self._end_scale(i), x)
        kept = (alpha * to_sigma / (to_alpha * sigma)).square()
        fresh = eta * to_sigma * (1 - kept).clamp(min=0).sqrt()
        rest = (to_sigma.square() - fresh.square()).clamp(min=0).sqrt()
        return Stepped((to_alpha * x + rest * eps + fresh * variance_noise) / self._end_scale(i), x)

    def _end_scale(self, i: int) -> float:
        """What the z after step i is divided by: alpha where it is the image, which no network gets any more."""
        is_last = i + 2 == len(self._alpha)
        return float(self._alpha[-1]) if is_last and self.process.kind == "edm" else 1.0


def prediction_of(config: Mapping[str, Any]) -> str:
    """What a network predicts, by its scheduler's configuration."""
    process = process_of(config)
    return str(ddim_config(config)["prediction_type"]) if process is None else process.prediction


def clips_images(config: Mapping[str, Any]) -> bool:
    """Whether a scheduler brings x^ to its range."""
    process = process_of(config)
    settings = ddim_config(config) if process is None else process.config
    return bool(settings.get("clip_sample"))


def describe(config: Mapping[str, Any]) -> str:
    """A scheduler in a few words, for plans."""
    process = process_of(config)
    if process is None:
        return describe_levels(config)
    names = {"flow": "flow matching", "edm": "EDM", "score": "a score SDE (variance exploding)"}
    return f"{config['_class_name']}, {names[process.kind]}, predicts {process.prediction}, Euler steps"
