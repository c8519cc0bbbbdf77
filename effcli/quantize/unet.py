"""A UNet from a packed model: simulated in floating point, in integers, or dequantized."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from torch import nn

from effcli.core.errors import InputError
from effcli.quantize.layers import StepClock, replace_module
from effcli.quantize.packed_file import PackedModel, load_packed, skeleton
from effcli.quantize.packed_layer import PackedLayer, as_full_precision

Backend = Literal["auto", "integer", "simulate"]


def load(place: str | Path, backend: Backend = "auto") -> nn.Module:
    """The UNet of a packed model, ready for any diffusers pipeline.

    Args:
        place: a run directory of `effcli quantize`, a model folder, or the packed file.
        backend: ``integer`` computes layers in int8; ``simulate`` computes the same in float32; ``auto`` takes integers
            where this machine and the model's activations allow it.

    Returns:
        a `UNet2DModel` or `UNet2DConditionModel` in eval mode. It reads the sampling step off the timestep it is
        called with.

    Raises:
        InputError: the file is missing, foreign or damaged, or cannot be computed in integers here.
    """
    return unet_of(load_packed(place), backend)


def unet_of(model: PackedModel, backend: Backend = "auto") -> nn.Module:
    """The UNet of a packed model that was read already; see :func:`load`."""
    from effcli.quantize.integer import integer_layer, make_lean, unsupported_reason

    reason = unsupported_reason(model)
    if backend == "integer" and reason is not None:
        raise InputError(f"this model cannot be computed in integers: {reason}", place="backend")
    integers = backend != "simulate" and reason is None
    unet = skeleton(model)
    clock = StepClock(model.about["timesteps"])
    clock.attach(unet)
    for name, codes in model.layers.items():
        layer = integer_layer(codes, clock) if integers else PackedLayer(codes, clock)
        replace_module(unet, name, layer)
    if integers:
        make_lean(unet)
    return unet.eval()


def dequantize(model: PackedModel) -> nn.Module:
    """An ordinary full-precision UNet with the dequantized weights; activations are left alone."""
    unet = skeleton(model)
    for name, codes in model.layers.items():
        replace_module(unet, name, as_full_precision(codes))
    return unet.eval()
