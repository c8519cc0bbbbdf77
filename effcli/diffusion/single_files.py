"""Weight files of others that come without a configuration: what they are; those that are refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError, safe_open

from effcli.core.errors import InputError

PICKLED = (".ckpt", ".bin", ".pt", ".pth")
_LORA = re.compile(r"lora_(?:unet|te|A|B|up|down)|\.lora\.|\blokr_|\bhada_")
_VAE = re.compile(r"(?:first_stage_model\.|vae\.)?(?:encoder|decoder)\.(?:conv_in|conv_out)\.")
_NETWORKS = ("model.diffusion_model.", "joint_blocks.", "double_blocks.")


def refuse_single_file(file: Path, source: str) -> NoReturn:
    """Say what a file without a configuration is, and how its model can be read.

    Args:
        file: that is not of a format of effcli.
        source: its name in messages.

    Raises:
        InputError: always.
    """
    if file.name.startswith("diffusion_pytorch_model") and (file.parent / "config.json").is_file():
        raise InputError("is a weight file of a diffusers folder", place=source, hint="name the folder")
    if is_gguf(file):
        raise InputError(
            "is a GGUF file: its weights are quantized already, which is not read", place=source,
            hint="name the full-precision model",
        )  # fmt: skip
    if file.suffix in PICKLED:
        raise InputError(
            f"is a file of pickled weights ({file.suffix}), not of a whole model: the configuration is missing",
            place=source,
            hint="name a diffusers folder with its config.json",
        )
    shapes, metadata = shapes_in(file, source)
    if "effcli.mpq" in metadata:
        raise InputError(
            "is a packed model of `effcli quantize`: its weights are quantized already", place=source,
            hint="name the full-precision model",
        )  # fmt: skip
    if metadata.get("format", "").startswith("effcli"):
        raise InputError(f"is a file of the format {metadata['format']}, not a diffusion model", place=source)
    what, hint = _describe(shapes)
    raise InputError(f"is {what}, which is not read", place=source, hint=hint)


def _describe(shapes: dict[str, Any]) -> tuple[str, str]:
    if any(map(_LORA.search, shapes)):
        return "a LoRA, not a model", "effcli quantize MODEL --lora FILE fuses it into the model it is for"
    if any(map(_VAE.match, shapes)):
        return "an autoencoder, not a model that denoises", "name the model that it belongs to"
    return (
        "a single file of weights: the configuration is missing",
        "name a diffusers folder with its config.json",
    )


def is_gguf(file: Path) -> bool:
    """Whether a file is of the format GGUF, by its name or its first bytes."""
    with file.open("rb") as opened:
        return opened.read(4) == b"GGUF" or file.suffix == ".gguf"


def is_whole_model(shapes: Mapping[str, Any]) -> bool:
    """Whether tensors of these names are a network that denoises, perhaps with a decoder and text encoders."""
    return not any(map(_LORA.search, shapes)) and any(name.startswith(_NETWORKS) for name in shapes)


def origin_of(shapes: dict[str, Any]) -> str:
    """The repository of the hub that has the configuration of such a model, as diffusers names it."""
    from diffusers.loaders.single_file_utils import (
        DIFFUSERS_DEFAULT_PIPELINE_PATHS,
        infer_diffusers_model_type,
    )

    kind = infer_diffusers_model_type(shapes)
    return str(DIFFUSERS_DEFAULT_PIPELINE_PATHS.get(kind, {}).get("pretrained_model_name_or_path", kind))


def shapes_in(file: Path, source: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Names with tensors of their shapes and types that hold nothing, and the metadata.

    Raises:
        InputError: it is damaged, or no safetensors file.
    """
    try:
        with safe_open(file, framework="pt") as opened:
            names = list(opened.keys())
            shapes = {name: _empty(opened.get_slice(name)) for name in names}
            return shapes, opened.metadata() or {}
    except (SafetensorError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        raise InputError(f"is damaged or not a safetensors file: {reason}", place=source) from None


def _empty(stored: Any) -> torch.Tensor:
    dtype = {"F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64, "I64": torch.int64}
    return torch.empty(stored.get_shape(), dtype=dtype.get(stored.get_dtype(), torch.float32), device="meta")
