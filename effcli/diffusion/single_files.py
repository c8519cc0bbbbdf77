"""Weight files of others that come without a configuration: what they are; those that are refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError, safe_open

from effcli.core.errors import InputError
from effcli.core.tensor_file import read_pickled_tensors
from effcli.diffusion.ddim import ddim_scheduler
from effcli.diffusion.notices import say_once

PICKLED = (".ckpt", ".bin", ".pt", ".pth")
_QUANTIZED = (torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.uint8)
_LORA = re.compile(r"lora_(?:unet|te|A|B|up|down)|\.lora\.|\blokr_|\bhada_")
_VAE = re.compile(r"(?:first_stage_model\.|vae\.)?(?:encoder|decoder)\.(?:conv_in|conv_out)\.")
_PREFIXES = (
    "model.diffusion_model.", "first_stage_model.", "vae.", "cond_stage_model.", "conditioner.", "text_encoders.",
)  # fmt: skip
"""Beginnings of the names of networks in checkpoints of whole pipelines."""

_MARKERS = ("v_pred", "ztsnr", "edm_mean", "edm_std")
"""Tensors that say how a checkpoint was trained."""

_TABLES = re.compile(r"betas|lvlb_weights|logvar|denoiser\.sigmas|posterior_\w+|\w*alphas_cumprod\w*")
"""Names of tables that follow from a scheduler's configuration."""

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


def check_rest(shapes: Mapping[str, Any], scheduler: Mapping[str, Any], source: str) -> None:
    """Compare what a checkpoint says beside its weights with the configuration that it is read with.

    What is neither read nor understood is said.

    Args:
        shapes: its tensors without values.
        scheduler: the configuration's.
        source: its name in messages.

    Raises:
        InputError: its weights are quantized, or it says that it was trained with another prediction or other levels.
    """
    quantized = sorted(name for name, value in shapes.items() if value.dtype in _QUANTIZED)
    if quantized:
        kind = str(shapes[quantized[0]].dtype).removeprefix("torch.")
        raise InputError(
            f"holds {kind} tensors ({quantized[0]}): quantized weights are not read", place=source,
            hint="name the full-precision model",
        )  # fmt: skip
    for marker, key, value in (
        ("v_pred", "prediction_type", "v_prediction"),
        ("ztsnr", "rescale_betas_zero_snr", True),
    ):
        if marker in shapes and scheduler.get(key) != value:
            raise InputError(
                f"says that it was trained with {key} {value} (by its tensor {marker}), the configuration of the "
                f"scheduler says {scheduler.get(key)}",
                place=source,
                hint=f"set {key} in the scheduler_config.json that it is read with",
            )
    if any(name.startswith("model_ema.") for name in shapes):
        say_once(source, "has averaged weights too (model_ema), which are not read")
    known = (*_PREFIXES, "model_ema.")
    others = [n for n in shapes if not (n.startswith(known) or n in _MARKERS or _TABLES.fullmatch(n))]
    if others and not any(name.startswith(_NETWORKS[1:]) for name in shapes):  # whose names have no beginning
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        say_once(source, f"its {others[0]}{more} is not read")


def check_levels(file: Path, shapes: Mapping[str, Any], scheduler: Mapping[str, Any], source: str) -> None:
    """Refuse a checkpoint whose own table of noise levels is not that of the configuration's scheduler.

    Args:
        file: of the checkpoint.
        shapes, scheduler, source: as of :func:`check_rest`.

    Raises:
        InputError: it is another.
    """
    name = "alphas_cumprod"
    plain = {**scheduler, "rescale_betas_zero_snr": False}  # which is done to the table of the checkpoint
    theirs = getattr(ddim_scheduler(plain), name, None) if name in shapes else None
    if theirs is None:
        return
    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt") as opened:
            own = opened.get_tensor(name).float()
    else:
        own = read_pickled_tensors(file, source)[name].float()
    if own.shape != theirs.shape or not torch.allclose(own, theirs, rtol=1e-2, atol=1e-4):
        raise InputError(
            f"its {name} are not those of the configuration's scheduler", place=source,
            hint="the configuration is another model's",
        )  # fmt: skip


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
    dtype = {
        "F8_E4M3": torch.float8_e4m3fn,
        "F8_E5M2": torch.float8_e5m2,
        "I8": torch.int8,
        "U8": torch.uint8,
    }
    dtype |= {"F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64, "I64": torch.int64}
    return torch.empty(stored.get_shape(), dtype=dtype.get(stored.get_dtype(), torch.float32), device="meta")
