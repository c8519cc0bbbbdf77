"""A UNet from a packed model: simulated in floating point, in integers, or dequantized."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from effcli.core.errors import InputError
from effcli.quantize.fake_quantization.layers import StepClock, replace_module
from effcli.quantize.integer.layer import unsupported_reason
from effcli.quantize.integer.lean_unet import make_lean
from effcli.quantize.loaded.layer import LoadedLayer, loaded_layer
from effcli.quantize.loaded.network import as_packed_network, stays_float32
from effcli.quantize.packed.layer import as_full_precision
from effcli.quantize.packed.model import PackedModel, skeleton
from effcli.quantize.weights import load_packed

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
        dtype: between the layers; bfloat16 is faster where the hardware has it. The output has the type of the input.

    Returns:
        the network, of the diffusers class that was quantized, in eval mode. It reads the sampling step off the
        timestep it is called with. What it can do as any other network of diffusers and what it refuses:
        :class:`effcli.quantize.loaded.network.PackedNetwork`.

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
    integer = backend != "simulate" and reason is None
    put_layers(unet, model, clock, integer=integer, dtype=dtype)
    return finish(unet, model, clock, device)


def put_layers(
    unet: nn.Module, model: PackedModel, clock: StepClock, *, integer: bool, dtype: torch.dtype
) -> None:
    """Put the packed layers into a UNet that holds none, or empty ones, in their place."""
    for name, codes in model.layers.items():
        own = torch.float32 if stays_float32(unet, name) else dtype
        layer = loaded_layer(codes, clock, integer=integer, dtype=own, float32_out=name == "conv_out")
        replace_module(unet, name, layer)
    _cast_others(unet, model, dtype)


def finish(unet: nn.Module, model: PackedModel, clock: StepClock, device: torch.device) -> nn.Module:
    """The network from a UNet with its packed layers, on ``device``."""
    unet.to(device)
    if any(
        codes.activation_bits is not None for codes in model.layers.values()
    ):  # which have scales for each step
        clock.attach(unet)
    if device.type == "cpu":
        make_lean(unet)
    for layer in unet.modules():
        if isinstance(layer, LoadedLayer):
            layer.engine_on(device)
    return as_packed_network(unet.eval(), model)


def _cast_others(unet: nn.Module, model: PackedModel, dtype: torch.dtype) -> None:
    """Bring what is not quantized to the dtype between the layers, as ``from_pretrained`` of diffusers does."""
    for name in model.others:
        owner, _, last = name.rpartition(".")
        value: Tensor = getattr(unet.get_submodule(owner), last)
        if value.is_floating_point() and not stays_float32(unet, name):
            value.data = value.data.to(dtype)


def dequantize(model: PackedModel) -> nn.Module:
    """An ordinary full-precision UNet with the dequantized weights; activations are not quantized."""
    unet = skeleton(model)
    for name, codes in model.layers.items():
        replace_module(unet, name, as_full_precision(codes))
    return unet.eval()
