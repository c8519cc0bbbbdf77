"""One call of the network before any work, so that what does not fit is found in seconds, not after hours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from effcli.core.errors import InputError
from effcli.diffusion.autoencoders import Decode
from effcli.diffusion.conditioning import Guided
from effcli.diffusion.configs import config_of
from effcli.diffusion.ddim import ddim_scheduler, timesteps_of
from effcli.diffusion.models import DiffusionModel


def check_forward(
    model: DiffusionModel, guided: Guided | None = None, *, decode: Decode | None = None
) -> None:
    """Call the network once, with one image at the noisiest timestep, and decode what comes out.

    No gradient is kept and no global random generator is moved.

    Args:
        model: where its UNet is, in float32.
        guided: with its conditions; None: those of ``Guided(model, model.unet)``.
        decode: of a latent model.

    Raises:
        InputError: the network asks for an input that is not there, returns something else than it was given, or
            cannot be called; the message names the key of its configuration.
    """
    guided = guided or Guided(model, model.unet)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, *model.sample_shape, generator=generator).to(guided.device)
    condition = guided.random_condition(1, generator)
    t = timesteps_of(ddim_scheduler(model.scheduler_config))[0]
    with torch.no_grad():
        out = _call(lambda: guided.predictor(condition)(x, t), model, condition, "network")
        if out.shape != x.shape:
            raise InputError(
                f"the network returns {_shape(out)} for {_shape(x)}", place=model.source,
                hint="its sample_size must be divisible by its downsampling",
            )  # fmt: skip
        if decode is not None:
            _call(lambda: decode(x), model, {}, "decoder")


def _call(
    function: Callable[[], Tensor], model: DiffusionModel, condition: dict[str, Tensor], what: str
) -> Tensor:
    try:
        return function()
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError, ArithmeticError) as error:
        reason = " ".join(str(error).split())[:200]
        given = {"sample": (1, *model.sample_shape), **{key: tuple(v.shape) for key, v in condition.items()}}
        inputs = ", ".join(f"{key} {'x'.join(map(str, shape))}" for key, shape in given.items())
        keys = _keys(config_of(model.unet), condition)
        raise InputError(
            f"the {what} cannot be called with {inputs}{keys}: {reason}", place=model.source
        ) from None


def _keys(config: dict[str, Any], condition: dict[str, Tensor]) -> str:
    """The keys that decide what those inputs must look like."""
    names = ["in_channels", "sample_size"]
    names += ["cross_attention_dim", "encoder_hid_dim"] if "encoder_hidden_states" in condition else []
    return f" ({', '.join(f'{key} {config[key]}' for key in names if config.get(key) is not None)})"


def _shape(value: Tensor) -> str:
    return "x".join(map(str, value.shape))
