"""A packed model: its layers, everything that is not quantized, and the network that they belong to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from effcli.core.errors import InputError
from effcli.core.weight_file import make_within
from effcli.diffusion.configs import config_of, plain_config
from effcli.diffusion.models import empty_unet
from effcli.quantize.packed.layer import LayerCodes
from effcli.quantize.packed.layer_tensors import bytes_of_layer, tensors_of_layer

DAMAGED = "it is damaged, or was changed after it was written: quantize again"
"""The hint where a file contradicts itself."""


@dataclass(frozen=True)
class PackedModel:
    """What a packed file holds.

    Attributes:
        about: how it was made (``effcli.mpq``): bits, sampler, timesteps, source, versions.
        layers: path -> codes.
        others: path -> every parameter that is not quantized, as stored.
        unet_class, unet_config: of the UNet.
        scheduler_config: of the scheduler it was made for.
        size_bytes: of the file that it was read from; 0 for one that has not been written.
    """

    about: dict[str, Any]
    layers: dict[str, LayerCodes]
    others: dict[str, Tensor]
    unet_class: str
    unet_config: dict[str, Any]
    scheduler_config: dict[str, Any]
    size_bytes: int = 0

    def sizes(self) -> dict[str, Any]:
        """Bits and bytes, counted over the quantized layers and over everything."""
        return {
            "mean_bits_quantized": self.mean_bits_quantized(),
            "bits_per_parameter": self.bits_per_parameter(),
            "size_bytes": self.size_bytes,
            "size_fp32_bytes": 4 * self.n_parameters(),
            "parameters": self.n_parameters(),
            "quantized_layers": len(self.layers),
        }

    def mean_bits_quantized(self) -> float:
        """Mean bits of a quantized weight."""
        total = sum(codes.rows.n_bits for codes in self.layers.values())
        return total / sum(codes.rows.n_weights for codes in self.layers.values())

    def bits_per_parameter(self) -> float:
        """Bits of the whole file's tensors, scales and tables counted, over the parameters of the model."""
        dtype = getattr(torch, self.about["other_dtype"])
        n_bytes = sum(value.numel() * value.element_size() for value in self.others.values())
        n_bytes += sum(bytes_of_layer(codes, dtype) for codes in self.layers.values())
        return 8 * n_bytes / self.n_parameters()

    def n_parameters(self) -> int:
        """Parameters of the full-precision model."""
        biases = sum(0 if codes.bias is None else codes.bias.numel() for codes in self.layers.values())
        others = sum(value.numel() for value in self.others.values())
        return sum(codes.rows.n_weights for codes in self.layers.values()) + biases + others


def tensors_of(model: PackedModel) -> dict[str, Tensor]:
    """The file's tensors by name."""
    tensors = dict(model.others)
    dtype = getattr(torch, model.about["other_dtype"])
    for name, codes in model.layers.items():
        tensors |= {f"{name}.{part}": value for part, value in tensors_of_layer(codes, dtype).items()}
    return {name: value.contiguous() for name, value in tensors.items()}


def skeleton(model: PackedModel) -> nn.Module:
    """The UNet with everything that is not quantized, in float32; the quantized layers still hold no values.

    Raises:
        InputError: the parameters are not those of this UNet.
    """

    def make() -> nn.Module:
        return empty_unet(model.unet_class, model.unet_config)

    unet = make_within(make, model.n_parameters(), len(model.others) + 2 * len(model.layers), "config.json")
    check_fits(unet, model)
    values = {
        name: value.float() if value.is_floating_point() else value for name, value in model.others.items()
    }
    unet.load_state_dict(values, strict=False, assign=True)
    return unet.requires_grad_(False).eval()


def check_fits(unet: nn.Module, model: PackedModel) -> None:
    """Refuse a UNet that is not the one of the packed model.

    Raises:
        InputError: a parameter has another name or shape, or a layer is of another kind.
    """
    shapes = {name: value.shape for name, value in unet.state_dict().items()}
    shapes_here = {name: value.shape for name, value in model.others.items()}
    for name, codes in model.layers.items():
        shapes_here[f"{name}.weight"] = torch.Size(codes.shape)
        if codes.bias is not None:
            shapes_here[f"{name}.bias"] = codes.bias.shape
    wrong = [name for name in {**shapes, **shapes_here} if shapes.get(name) != shapes_here.get(name)]
    if wrong:
        raise InputError(f"{wrong[0]} does not fit its config.json", hint=DAMAGED)
    for name, codes in model.layers.items():
        if not _is_layer(unet.get_submodule(name), codes):
            raise InputError(f"layer {name} is another one in config.json", hint=DAMAGED)


def _is_layer(module: nn.Module, codes: LayerCodes) -> bool:
    if codes.kind == "linear":
        return isinstance(module, nn.Linear)
    return isinstance(module, nn.Conv2d) and all(
        tuple(getattr(module, part)) == pair for part, pair in codes.geometry.items()
    )


def about_unet(unet: nn.Module, scheduler_config: Mapping[str, Any]) -> dict[str, Any]:
    """Class and configurations of a UNet, as :class:`PackedModel` has them."""
    return {
        "unet_class": type(unet).__name__,
        "unet_config": {k: v for k, v in config_of(unet).items() if not k.startswith("_")},
        "scheduler_config": plain_config(scheduler_config),
    }
