"""Weight files of others that come without a configuration: refused by what they are, with the way to convert them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError, safe_open

from effcli.core.errors import InputError

_PICKLED = (".ckpt", ".bin", ".pt", ".pth")
_LORA = re.compile(r"lora_(?:unet|te|A|B|up|down)|\.lora\.|\blokr_|\bhada_")
_VAE = re.compile(r"(?:first_stage_model\.|vae\.)?(?:encoder|decoder)\.(?:conv_in|conv_out)\.")
_OTHERS_PIPELINES = {
    "xl_base": "StableDiffusionXLPipeline", "xl_refiner": "StableDiffusionXLPipeline",
    "playground-v2-5": "StableDiffusionXLPipeline",
    "sd3": "StableDiffusion3Pipeline", "sd35_large": "StableDiffusion3Pipeline",
    "sd35_medium": "StableDiffusion3Pipeline", "flux-dev": "FluxPipeline", "flux-schnell": "FluxPipeline",
}  # fmt: skip
"""Kinds of checkpoints, as diffusers calls them, to the pipelines that convert them; others are Stable Diffusion."""


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
    with file.open("rb") as opened:
        start = opened.read(4)
    if start == b"GGUF" or file.suffix == ".gguf":
        raise InputError(
            "is a GGUF file: its weights are quantized already, which is not read", place=source,
            hint="name the full-precision model",
        )  # fmt: skip
    if file.suffix in _PICKLED:
        raise InputError(
            f"is a single file of pickled weights ({file.suffix}), which is not read: the configuration is missing",
            place=source,
            hint=_conversion("StableDiffusionPipeline", "its repository"),
        )
    shapes, metadata = _read_names(file, source)
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
    if any(name.startswith(("model.diffusion_model.", "joint_blocks.", "double_blocks.")) for name in shapes):
        from diffusers.loaders.single_file_utils import (
            DIFFUSERS_DEFAULT_PIPELINE_PATHS,
            infer_diffusers_model_type,
        )

        kind = infer_diffusers_model_type(shapes)
        origin = DIFFUSERS_DEFAULT_PIPELINE_PATHS.get(kind, {}).get("pretrained_model_name_or_path", kind)
        pipeline = _OTHERS_PIPELINES.get(kind, "StableDiffusionPipeline")
        return f"a single file with a whole model like {origin}", _conversion(pipeline, origin)
    if any(map(_VAE.match, shapes)):
        return "an autoencoder, not a model that denoises", "name the model that it belongs to"
    return (
        "a single file of weights: the configuration is missing",
        "name a diffusers folder with its config.json",
    )


def _conversion(pipeline: str, origin: str) -> str:
    return (
        f"convert it: diffusers.{pipeline}.from_single_file(FILE, config=FOLDER).save_pretrained(NEW_FOLDER); FOLDER "
        f"is a local copy of {origin} without its weights; without config= diffusers fetches it from the hub"
    )


def _read_names(file: Path, source: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Names with tensors of their shapes that hold nothing, and the metadata."""
    try:
        with safe_open(file, framework="pt") as opened:
            names = list(opened.keys())
            shapes = {n: torch.empty(opened.get_slice(n).get_shape(), device="meta") for n in names}
            return shapes, opened.metadata() or {}
    except (SafetensorError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        raise InputError(f"is damaged or not a safetensors file: {reason}", place=source) from None
