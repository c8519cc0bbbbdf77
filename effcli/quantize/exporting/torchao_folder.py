"""A packed model as a folder of diffusers whose weights are tensors of torchao, which `from_pretrained` reads.

The class `IntxUnpackedToInt8Tensor` holds whole numbers of 1 to 8 bits, one per byte, with a scale and a zero-point per
block. Packed rows of one width or several become q as they are, a block per row. Weights that were smoothed for
quantized activations have a scale per input, too, which torchao has no place for: they are rounded anew to 8 bits, in
blocks of 32 inputs, where their inputs are a multiple of that.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from effcli.core.errors import UsageError
from effcli.core.tensor_file import save_tensors
from effcli.diffusion.denoisers.classes import denoiser_class
from effcli.diffusion.models import empty_unet, save_configs
from effcli.quantize.exporting.losses import NOT_QUANTIZED, Stored, relative_error, rounded, short_name
from effcli.quantize.packed.layer import LayerCodes
from effcli.quantize.packed.layer_tensors import bytes_of_layer
from effcli.quantize.packed.model import PackedModel
from effcli.quantize.weights import FILE_NAME

_GROUP = 32
_TAKE_WEIGHTS = ("HunyuanDiTAttentionPool",)
"""Modules of diffusers that hand the weights of their layers to `multi_head_attention_forward`."""


def check_torchao() -> None:
    """Refuse where the package is missing, or too old to write safetensors.

    Raises:
        UsageError: it is.
    """
    hint = "pip install 'effcli[torchao]'"
    if find_spec("torchao") is None:
        raise UsageError("needs the package torchao", place="--to torchao", hint=hint)
    if find_spec("torchao.prototype.safetensors") is None:
        raise UsageError("this torchao writes no safetensors files", place="--to torchao", hint=hint)


def write_torchao(model: PackedModel, folder: Path, dtype: torch.dtype) -> list[Stored]:
    """Write ``model`` into a pipeline folder.

    Args:
        model: it.
        folder: of the pipeline.
        dtype: of scales, and of everything that is not quantized.

    Returns:
        What became of each layer and of each other tensor.

    Raises:
        UsageError: torchao is missing.
        InputError: a number does not fit ``dtype``.
        RunError: it cannot be written.
    """
    check_torchao()
    from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict

    network = empty_unet(model.unet_class, model.unet_config)
    tensors: dict[str, Tensor] = {}
    stored = [
        _add_layer(tensors, name, codes, model, dtype, in_numbers=_is_called(network, name))
        for name, codes in model.layers.items()
    ]
    for name, value in model.others.items():
        tensors[name] = rounded(value, dtype, name)
        n_bytes, n_packed = (one.numel() * one.element_size() for one in (tensors[name], value))
        error = relative_error(tensors[name], value)
        stored.append(Stored(NOT_QUANTIZED, short_name(dtype), n_bytes, n_packed, error))
    flat, metadata = flatten_tensor_state_dict(tensors)
    save_configs(folder, network, model.scheduler_config, quantization_config=_config())
    save_tensors(folder / denoiser_class(network).part / FILE_NAME, flat, {**metadata, "format": "pt"})
    return stored


def _is_called(network: nn.Module, name: str) -> bool:
    """Whether a layer multiplies, and its weight is not taken out of it for functions that torchao does not have."""
    parent = network.get_submodule(name.rpartition(".")[0])
    return type(parent).__name__ not in _TAKE_WEIGHTS


def _add_layer(
    tensors: dict[str, Tensor],
    name: str,
    codes: LayerCodes,
    model: PackedModel,
    dtype: torch.dtype,
    *,
    in_numbers: bool,
) -> Stored:
    """Put the weight, as whole numbers where ``in_numbers``, and the bias of a layer into ``tensors``."""
    weight = rounded(codes.weight(), dtype, f"{name}.weight")
    made, what = _quantized(codes, dtype) if in_numbers else (None, short_name(dtype))
    tensors[f"{name}.weight"] = weight if made is None else made
    n_bytes = weight.numel() * weight.element_size()
    if made is not None:
        held = (made.qdata, made.scale, made.zero_point)
        n_bytes = sum(one.numel() * one.element_size() for one in held)
        weight = made.dequantize()
    if codes.bias is not None:
        tensors[f"{name}.bias"] = rounded(codes.bias, dtype, f"{name}.bias")
        n_bytes += codes.bias.numel() * dtype.itemsize
    n_packed = bytes_of_layer(codes, getattr(torch, model.about["other_dtype"]))
    return Stored(codes.kind, what, n_bytes, n_packed, relative_error(weight, codes.weight()))


def _quantized(codes: LayerCodes, dtype: torch.dtype) -> tuple[Any, str]:
    """The weight as a tensor of torchao, or None, and what it is."""
    from torchao.quantization import IntxUnpackedToInt8Tensor, MappingType

    bits = int(codes.row_bits.max())
    middle = 2 ** (bits - 1)
    zero = codes.zero - middle
    scale = (codes.scale * codes.in_scale[0]).to(dtype)
    is_plain = bool((codes.in_scale == codes.in_scale[0]).all() and (zero.abs() <= 127).all())
    if is_plain and bool((scale > 0).all() and torch.isfinite(scale).all()):
        per_row = (-1, *[1] * (len(codes.shape) - 1))
        made = IntxUnpackedToInt8Tensor(
            (codes.codes.to(torch.int16) - middle).to(torch.int8).view(codes.shape),
            scale.view(per_row),
            zero.to(torch.int8).view(per_row),
            getattr(torch, f"int{bits}"),
            [1, *codes.shape[1:]],
            dtype,
            None,
        )
        return made, f"int{bits} per row"
    if codes.shape[1] % _GROUP:
        return None, short_name(dtype)
    block = [1, _GROUP, *codes.shape[2:]]
    made = IntxUnpackedToInt8Tensor.from_hp(
        codes.weight().to(dtype), block, torch.int8, mapping_type=MappingType.ASYMMETRIC
    )
    return made, f"int8 per {_GROUP} inputs, rounded anew"


def _config() -> dict[str, Any]:
    """What `config.json` says of the weights: diffusers asks for the class, and takes what is in the file."""
    from diffusers import TorchAoConfig
    from torchao.quantization import IntxWeightOnlyConfig, PerAxis

    config: dict[str, Any] = TorchAoConfig(IntxWeightOnlyConfig(torch.int8, PerAxis(0))).to_dict()
    return config | {"quant_method": "torchao"}
