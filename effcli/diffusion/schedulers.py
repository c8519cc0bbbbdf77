"""Which schedulers of diffusers are understood: those whose noise levels this package's own DDIM steps reproduce.

All classes here share one process, x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) eps with a table of betas (variance
preserving); they differ in how they step through it and in their default settings. Flow matching, EDM and score SDEs
are other processes (`processes.py`); consistency models and all others are refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from effcli.core.errors import InputError

DISTILLED_TIMESTEPS = "distilled_timesteps"
"""Our key in a scheduler's configuration: the timesteps that a few-step student was trained at, the noisiest first."""

RENEWS_NOISE = "renews_noise"
"""Our key beside it: after each step but the last the student's image gets fresh noise (consistency models)."""

NULL_CLASS = "null_class"
"""Our key: the label that means no class in a class-conditional network that was trained to be guided."""

_DDIM: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "prediction_type": "epsilon",
    "clip_sample": True,
    "clip_sample_range": 1.0,
    "thresholding": False,
    "dynamic_thresholding_ratio": 0.995,
    "sample_max_value": 1.0,
    "set_alpha_to_one": True,
    "steps_offset": 0,
    "timestep_spacing": "leading",
    "rescale_betas_zero_snr": False,
}
_UNCLIPPED = {"clip_sample": False}
_SIGMAS = {"clip_sample": False, "timestep_spacing": "linspace"}
_SIGMAS_TO_LEVEL_0 = {**_SIGMAS, "set_alpha_to_one": False}
_STABLE_DIFFUSION = {"beta_start": 0.00085, "beta_end": 0.012}
_CONSISTENCY = {**_UNCLIPPED, **_STABLE_DIFFUSION, "beta_schedule": "scaled_linear"}

CLASSES: dict[str, dict[str, Any]] = {
    "DDIMScheduler": {},
    "DDIMParallelScheduler": {},
    "DDPMScheduler": {},
    "DDPMParallelScheduler": {},
    "PNDMScheduler": {**_UNCLIPPED, "set_alpha_to_one": False},
    "LCMScheduler": _CONSISTENCY,
    "TCDScheduler": _CONSISTENCY,
    "EulerDiscreteScheduler": _SIGMAS,
    "EulerAncestralDiscreteScheduler": _SIGMAS,
    "LMSDiscreteScheduler": _SIGMAS,
    "DPMSolverMultistepScheduler": _SIGMAS,
    "DPMSolverSinglestepScheduler": _SIGMAS,
    "UniPCMultistepScheduler": _SIGMAS,
    "DEISMultistepScheduler": _SIGMAS_TO_LEVEL_0,
    "SASolverScheduler": _SIGMAS_TO_LEVEL_0,
    "HeunDiscreteScheduler": {**_SIGMAS, **_STABLE_DIFFUSION},
    "KDPM2DiscreteScheduler": {**_SIGMAS, **_STABLE_DIFFUSION},
    "KDPM2AncestralDiscreteScheduler": {**_SIGMAS, **_STABLE_DIFFUSION},
    "DPMSolverSDEScheduler": {**_SIGMAS, **_STABLE_DIFFUSION},
}
"""Class -> in what its defaults differ from those of `DDIMScheduler`; what a class does without an option counts."""

_CONSISTENCY_CLASSES = ("CMStochasticIterativeScheduler", "ConsistencyDecoderScheduler", "SCMScheduler")

PROCESS_CLASSES = (
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "EDMEulerScheduler",
    "EDMDPMSolverMultistepScheduler",
    "ScoreSdeVeScheduler",
)
"""Classes of other processes that are understood: `processes.py`."""

LEARNED_VARIANCES = ("learned", "learned_range")
"""Values of ``variance_type`` of networks that predict variances beside the noise, which DDIM has no use for."""

_VALUES: dict[str, tuple[Any, ...]] = {
    "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
    "prediction_type": ("epsilon", "sample", "v_prediction"),
    "timestep_spacing": ("leading", "trailing", "linspace"),
    "final_sigmas_type": ("zero", "sigma_min"),
    "variance_type": (
        None,
        "fixed_small",
        "fixed_small_log",
        "fixed_large",
        "fixed_large_log",
        *LEARNED_VARIANCES,
    ),
    "timestep_type": ("discrete",),
    "use_flow_sigmas": (False, None),
    "use_dynamic_shifting": (False, None),
    "shift_terminal": (None,),
}
"""Keys of which only these values are understood."""

_OWN_GRID = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")
"""Keys that move the sampling steps, not the noise levels of training: DDIM here has its own steps."""

_NO_EFFECT = {
    # of solvers, which DDIM steps replace
    "algorithm_type", "corrector_order", "disable_corrector", "euler_at_final", "lambda_min_clipped",
    "lower_order_final", "noise_sampler_seed", "predict_x0", "predictor_order", "skip_prk_steps", "solver_order",
    "solver_p", "solver_type", "tau_func", "original_inference_steps", "timestep_scaling",
    # of the sampling steps, or read only together with a key above
    "flow_shift", "interpolation_type", "sigma_max", "sigma_min", "time_shift_type",
    # of early diffusers
    "tensor_format", "timestep_values",
}  # fmt: skip
_KNOWN = {*_DDIM, *_VALUES, *_OWN_GRID, *_NO_EFFECT, "predict_epsilon", DISTILLED_TIMESTEPS, RENEWS_NOISE,
          NULL_CLASS}  # fmt: skip


def ddim_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `DDIMScheduler` that mean what another scheduler's configuration means.

    Keys that the configuration lacks have the defaults of its own class: a `PNDMScheduler` does not clip.

    Args:
        config: of any diffusers scheduler, with ``_class_name``.

    Raises:
        InputError: the class, a key or a value is not understood.
    """
    name = _class_of(config)
    check_keys(name, config)
    settings = {**_DDIM, **CLASSES[name]}
    if config.get("final_sigmas_type") == "sigma_min":
        settings["set_alpha_to_one"] = False
    if config.get("predict_epsilon") is False:
        settings["prediction_type"] = "sample"
    settings |= {key: config[key] for key in _DDIM if key in config}
    _check_levels(name, settings)
    return settings


def notices(config: Mapping[str, Any]) -> list[str]:
    """What a user should know about how a configuration is used, one line each."""
    name = str(config.get("_class_name"))
    if name in PROCESS_CLASSES:
        return []
    lines = [
        f"{name}'s {key} is not used: DDIM steps at its own timesteps" for key in _OWN_GRID if config.get(key)
    ]
    if config.get("variance_type") in LEARNED_VARIANCES:
        lines.append("the variances that its network predicts are left out: DDIM steps need none")
    return lines


def describe_levels(config: Mapping[str, Any]) -> str:
    """A scheduler with a table of betas in a few words."""
    name = _class_of(config)
    settings = ddim_config(config)
    how = "" if name == "DDIMScheduler" else ", sampled with DDIM"
    clipped = ", clips x_0" if settings["clip_sample"] or settings["thresholding"] else ""
    return f"{name}{how}, predicts {settings['prediction_type']}{clipped}"


def _class_of(config: Mapping[str, Any]) -> str:
    name = config.get("_class_name")
    if name is None:
        raise InputError("the configuration has no _class_name", place="scheduler")
    if name in _CONSISTENCY_CLASSES:
        raise InputError(
            f"{name} is not supported: consistency models predict the image itself from any level in one call, and "
            "have no steps from one level to the next",
            place="scheduler",
        )
    if name not in CLASSES:
        raise InputError(
            f"{name} is not supported: its noise levels are not known here",
            place="scheduler",
            hint=f"supported: {', '.join(sorted((*CLASSES, *PROCESS_CLASSES)))}",
        )
    return str(name)


def check_keys(name: str, config: Mapping[str, Any]) -> None:
    """Refuse keys that are not known, unless they have the default of their class, and values that are not.

    Raises:
        InputError: the first one.
    """
    for key, value in config.items():
        if key.startswith("_") or (value is None and key not in _VALUES):
            continue
        if key in _VALUES and value not in _VALUES[key]:
            known = ", ".join(repr(one) for one in _VALUES[key] if one is not None)
            raise InputError(
                f"{name}'s {key} is {value!r}, which is not supported",
                place="scheduler",
                hint=f"supported: {known}",
            )
        if key not in _KNOWN and not _is_default(name, key, value):
            raise InputError(f"{name}'s {key} ({value!r}) is not understood", place="scheduler")


def _is_default(name: str, key: str, value: Any) -> bool:
    """Whether a key that is not known has the value that the installed class gives it anyway."""
    import inspect

    import diffusers

    parameter = inspect.signature(getattr(diffusers, name).__init__).parameters.get(key)
    return parameter is not None and bool(parameter.default == value)


def _check_levels(name: str, settings: Mapping[str, Any]) -> None:
    """Refuse tables of betas that no step can be made with."""
    betas, n_levels = settings["trained_betas"], settings["num_train_timesteps"]
    if betas is not None:
        if len(betas) != n_levels:
            raise InputError(
                f"{name}'s trained_betas are {len(betas)}, num_train_timesteps is {n_levels}",
                place="scheduler",
            )
        if not all(isinstance(beta, (int, float)) and 0 <= beta < 1 for beta in betas):
            raise InputError(f"{name}'s trained_betas are not numbers from 0 to below 1", place="scheduler")
    if settings["rescale_betas_zero_snr"] and settings["prediction_type"] == "epsilon":
        raise InputError(
            f"{name}'s rescale_betas_zero_snr does not work with prediction_type 'epsilon': pure noise says "
            "nothing about the image",
            place="scheduler",
        )
