"""A UNet from a packed model: simulated in floating point, in integers, or dequantized."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from effcli.core.errors import InputError
from effcli.quantize.fake_quantization.layers import StepClock, replace_module
from effcli.quantize.integer.layer import IntegerLayer, Kernel, default_kernel, unsupported_reason
from effcli.quantize.integer.lean_unet import make_lean
from effcli.quantize.packed_layer import PackedLayer, as_full_precision
from effcli.quantize.weights import PackedModel, load_packed, skeleton

Backend = Literal["auto", "integer", "simulate"]


def load(
    place: str | Path, backend: Backend = "auto", *, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> nn.Module:
    """The UNet of a packed model, ready for any diffusers pipeline.

    Args:
        place: a run directory of `effcli quantize`, a model folder, or the packed file.
        backend: ``integer`` computes layers in int8; ``simulate`` computes the same in float32; ``auto`` takes integers
            where the model's activations allow it.
        device: where it will compute.
        dtype: between the layers; bfloat16 is faster where the hardware has it. Input and output stay float32.

    Returns:
        a `UNet2DModel` or `UNet2DConditionModel` in eval mode. It reads the sampling step off the timestep it is
        called with.

    Raises:
        InputError: the file is missing, foreign or damaged, or cannot be computed in integers here.
    """
    return unet_of(load_packed(place), backend, device=torch.device(device), dtype=dtype)


def unet_of(
    model: PackedModel,
    backend: Backend = "auto",
    *,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> nn.Module:
    """The UNet of a packed model that was read already; see :func:`load`."""
    reason = unsupported_reason(model)
    if backend == "integer" and reason is not None:
        raise InputError(f"this model cannot be computed in integers: {reason}", place="backend")
    unet = skeleton(model)
    clock = StepClock(model.about["timesteps"])
    clock.attach(unet)
    if backend == "simulate" or reason is not None:
        for name, codes in model.layers.items():
            replace_module(unet, name, PackedLayer(codes, clock))
        return unet.to(device).eval()
    _cast_other_layers(unet, dtype, model)
    kernel: Kernel = default_kernel() if device.type == "cpu" else "int_mm"
    for name, codes in model.layers.items():
        out_dtype = torch.float32 if name == "conv_out" else dtype
        replace_module(unet, name, IntegerLayer(codes, clock, out_dtype=out_dtype, kernel=kernel))
    if device.type == "cpu":
        make_lean(unet)
    return unet.to(device).eval()


def _cast_other_layers(unet: nn.Module, dtype: torch.dtype, model: PackedModel) -> None:
    """Bring convolutions and linear layers that are not quantized to the dtype between the layers."""
    others: Any = (nn.Conv2d, nn.Conv1d, nn.Linear)
    for name, module in unet.named_modules():
        if isinstance(module, others) and name not in model.layers:
            module.to(dtype)


def dequantize(model: PackedModel) -> nn.Module:
    """An ordinary full-precision UNet with the dequantized weights; activations are not quantized."""
    unet = skeleton(model)
    for name, codes in model.layers.items():
        replace_module(unet, name, as_full_precision(codes))
    return unet.eval()
