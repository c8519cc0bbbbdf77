"""A packed model as a GGUF file, as diffusers reads them (`from_single_file` with a `GGUFQuantizationConfig`).

Its tensors have the names of diffusers. Linear layers are blocks of whole numbers (:mod:`gguf_blocks`) where their rows
are multiples of 32; diffusers takes nothing else in blocks, so all others are fp16 or fp32, vectors always fp32.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from effcli.core.errors import InputError, UsageError
from effcli.core.files import atomic_path
from effcli.core.progress import NOTICE
from effcli.diffusion.denoisers.classes import class_name_of, denoiser_class
from effcli.diffusion.models import empty_unet, save_configs
from effcli.quantize.exporting.gguf_blocks import blocks_of, bytes_of, n_bytes, type_for
from effcli.quantize.exporting.losses import NOT_QUANTIZED, Stored, relative_error
from effcli.quantize.packed.layer import LayerCodes
from effcli.quantize.packed.layer_tensors import bytes_of_layer
from effcli.quantize.packed.model import PackedModel

FILE_NAME = "diffusion_pytorch_model.gguf"
log = logging.getLogger(__name__)

_MOST_SIDES = 4
_LONGEST_NAME = 63
"""Bytes of a tensor's name in ggml (`GGML_MAX_NAME` is 64, with the zero at its end)."""
_FLOATS = {torch.float16: "F16", torch.float32: "F32"}


class _Tensor(NamedTuple):
    """One of the file.

    Attributes:
        name: as in the state dict of diffusers.
        type: by the name that GGUF has.
        shape: of the numbers.
        make: the array that is written, of floating-point numbers or of blocks; called when it is its turn.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    make: Callable[[], np.ndarray]


def check_gguf(model: PackedModel, dtype: torch.dtype) -> nn.Module:
    """The network without weights, if diffusers can read it from a GGUF file.

    Raises:
        UsageError: the package gguf is missing, or the format has no such numbers.
        InputError: diffusers reads no GGUF file of this class, or a tensor is of a form that GGUF does not have.
    """
    if find_spec("gguf") is None:
        raise UsageError("needs the package gguf", place="--to gguf", hint="pip install 'effcli[gguf]'")
    if dtype not in _FLOATS:
        raise UsageError(
            "bf16 is not possible with --to gguf: diffusers reads fp16 or fp32 from it",
            place="--dtype",
            hint="--dtype fp16",
        )
    network = empty_unet(model.unet_class, model.unet_config)
    from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES as READABLE

    if not hasattr(network, "from_single_file") or class_name_of(network) not in READABLE:
        raise InputError(
            f"diffusers cannot read GGUF files of a {class_name_of(network)}",
            place="--to gguf",
            hint="--to torchao",
        )
    for name, value in model.others.items():
        if not 1 <= value.ndim <= _MOST_SIDES or not value.is_floating_point():
            what = f"{value.ndim} sides of {str(value.dtype).removeprefix('torch.')}"
            raise InputError(f"{name} has {what}, which diffusers does not read from GGUF", place="--to gguf")
    return network


def write_gguf(model: PackedModel, folder: Path, dtype: torch.dtype) -> list[Stored]:
    """Write ``model`` into a pipeline folder, the network as ``transformer/`` or ``unet/`` with a GGUF file.

    One layer is unpacked at a time.

    Args:
        model: it.
        folder: of the pipeline.
        dtype: of matrices and kernels that are not in blocks: float16, or float32.

    Returns:
        What became of each layer and of each other tensor.

    Raises:
        UsageError, InputError: as :func:`check_gguf`.
        RunError: it cannot be written.
    """
    network = check_gguf(model, dtype)
    save_configs(folder, network, model.scheduler_config)
    tensors: list[_Tensor] = []
    stored = [_add_layer(tensors, name, codes, model, dtype) for name, codes in model.layers.items()]
    stored += [_add_other(tensors, name, value, dtype) for name, value in model.others.items()]
    _write(folder / denoiser_class(network).part / FILE_NAME, tensors, class_name_of(network))
    n_long = sum(len(one.name.encode()) > _LONGEST_NAME for one in tensors)
    if n_long:
        log.log(
            NOTICE,
            "%d of %d tensors have names of more than %d characters, which diffusers reads and ggml's own programs do "
            "not",
            n_long,
            len(tensors),
            _LONGEST_NAME,
        )
    return stored


def _add_layer(
    tensors: list[_Tensor], name: str, codes: LayerCodes, model: PackedModel, dtype: torch.dtype
) -> Stored:
    """Put the weight and the bias of a layer at the end of ``tensors``."""
    weight, type = codes.weight(), type_for(codes)
    blocks = None if type is None else blocks_of(codes, type)
    if type is not None and blocks is not None and blocks.fit_fp16(weight.view(blocks.q.shape)):
        kept = blocks.weight().view(weight.shape)
        tensors.append(_Tensor(f"{name}.weight", type, codes.shape, _in_blocks(codes, type)))
    else:
        narrow = _narrow(weight, dtype)
        type, kept = _FLOATS[narrow], weight.to(narrow)
        tensors.append(
            _Tensor(f"{name}.weight", type, codes.shape, lambda: codes.weight().to(narrow).numpy())
        )
    bias = 0
    if codes.bias is not None:
        bias = 4 * len(codes.bias)
        tensors.append(_Tensor(f"{name}.bias", "F32", tuple(codes.bias.shape), codes.bias.numpy))
    n_packed = bytes_of_layer(codes, getattr(torch, model.about["other_dtype"]))
    return Stored(codes.kind, type, n_bytes(codes.shape, type) + bias, n_packed, relative_error(kept, weight))


def _in_blocks(codes: LayerCodes, type: str) -> Callable[[], np.ndarray]:
    return lambda: bytes_of(blocks_of(codes, type), type)


def _add_other(tensors: list[_Tensor], name: str, value: Tensor, dtype: torch.dtype) -> Stored:
    """Put a tensor that is not quantized at the end of ``tensors``."""
    narrow = torch.float32 if value.ndim == 1 else _narrow(value, dtype)
    type, shape = _FLOATS[narrow], tuple(value.shape)
    tensors.append(_Tensor(name, type, shape, lambda: value.to(narrow).contiguous().numpy()))
    error = relative_error(value.to(narrow), value)
    return Stored(NOT_QUANTIZED, type, n_bytes(shape, type), value.numel() * value.element_size(), error)


def _narrow(value: Tensor, dtype: torch.dtype) -> torch.dtype:
    """``dtype``, or float32 for numbers that are too large for it."""
    return dtype if bool(torch.isfinite(value.to(dtype)).all()) else torch.float32


def _write(file: Path, tensors: list[_Tensor], class_name: str) -> None:
    from gguf import GGMLQuantizationType, GGUFWriter

    with atomic_path(file) as temporary:
        writer = GGUFWriter(temporary, class_name.lower())
        for one in tensors:
            kind = GGMLQuantizationType[one.type]
            writer.add_tensor_info(one.name, one.shape, np.dtype(object), n_bytes(one.shape, one.type), kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for one in tensors:
            writer.write_tensor_data(one.make())
        writer.close()
