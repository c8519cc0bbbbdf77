"""A LoRA fused into the full-precision network before it is quantized."""

from __future__ import annotations

import re
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor

from effcli.core.errors import InputError
from effcli.core.files import sha256
from effcli.core.tensor_file import read_tensors
from effcli.core.weight_file import one_line
from effcli.diffusion.models import DiffusionModel
from effcli.diffusion.notices import say_once
from effcli.quantize.recipe import LoraSection

_OF_PEFT = "base_model.model."
"""How names begin in what `PeftModel.save_pretrained` writes."""

_BEFORE_LORA = re.compile(r"[._]lora(?=[._])")
"""``conv.lora_A.weight`` and ``attn1.processor.to_k_lora.down.weight``."""

_UP = re.compile(r"[._]lora(_B|\.up|_linear_layer\.up)\b")


def with_lora(model: DiffusionModel, lora: LoraSection) -> DiffusionModel:
    """The model with a LoRA in its weights; the same where ``lora`` names none. ``model`` is used up.

    Raises:
        InputError: the file is not there, holds no LoRA for this network, or one of another network.
    """
    if lora.file is None:
        return model
    if find_spec("peft") is None:
        raise InputError("LoRAs need the package peft", place=lora.file, hint="pip install 'effcli[lora]'")
    unet: Any = model.unet
    if not hasattr(unet, "load_lora_adapter"):
        raise InputError(f"diffusers has no LoRAs for a {type(unet).__name__}", place=lora.file)
    state, about = _read(lora.file, unet)
    try:
        unet.load_lora_adapter(state, adapter_name="fused", **about)
        unet.fuse_lora(lora_scale=lora.scale, safe_fusing=True)
        unet.unload_lora()
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"the LoRA cannot be fused: {one_line(error)}", place=lora.file) from None
    return replace(model, unet=unet.requires_grad_(False).eval())


def describe_lora(lora: LoraSection) -> dict[str, Any] | None:
    """What the packed file says of the LoRA; None where there is none."""
    if lora.file is None:
        return None
    return {"file": str(Path(lora.file).absolute()), "scale": lora.scale, "sha256": sha256(Path(lora.file))}


def lora_of(about: dict[str, Any] | None) -> LoraSection:
    """The LoRA that :func:`describe_lora` described.

    Raises:
        InputError: it is not there any more, or is another one.
    """
    if about is None:
        return LoraSection()
    file = Path(about["file"])
    if not file.is_file():
        raise InputError("the LoRA that was fused is no longer here", place=str(file))
    if sha256(file) != about["sha256"]:
        raise InputError("is not the LoRA that was fused", place=str(file))
    return LoraSection(file=str(file), scale=about["scale"])


def _read(file: str, unet: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a LoRA in the names of diffusers, whichever tool wrote it, and how they are to be loaded."""
    from diffusers.loaders import StableDiffusionLoraLoaderMixin

    if not Path(file).is_file():
        raise InputError("no such file", place=file)
    _, tensors = read_tensors(Path(file), file)
    strange = sorted(
        name for name in tensors if "dora_scale" in name or "magnitude" in name or ".lokr_" in name
    )
    if strange:
        raise InputError(f"is not a plain LoRA: {strange[0]}", place=file)
    try:
        state, alphas, metadata = StableDiffusionLoraLoaderMixin.lora_state_dict(
            file, unet_config=unet.config, return_lora_metadata=True
        )
    except (OSError, ValueError, KeyError, RuntimeError, IndexError) as error:
        raise InputError(f"is not a LoRA that diffusers reads: {one_line(error)}", place=file) from None
    prefixes = [one for one in ("unet", "transformer") if any(name.startswith(f"{one}.") for name in state)]
    prefix = prefixes[0] if prefixes else None
    start = f"{prefix}." if prefix else ""
    others = [name for name in state if not name.startswith(start) or name.startswith("text_encoder")]
    own = {name: value for name, value in state.items() if name not in others}
    if not own:
        raise InputError("holds no LoRA for the network", place=file)
    of_peft = sorted(name for name in own if name.startswith(_OF_PEFT))
    if of_peft:
        raise InputError(
            f"has the names of PEFT ({of_peft[0]}), whose scale is in another file, adapter_config.json", place=file,
            hint="save it with save_lora_weights of its pipeline in diffusers",
        )  # fmt: skip
    _check_layers({name.removeprefix(start): value for name, value in own.items()}, unet, file)
    if others:
        say_once(file, f"{len(others)} tensors for text encoders are not used: only the network is quantized")
    return own, {"prefix": prefix, "network_alphas": alphas or None, "metadata": metadata}


def _check_layers(state: dict[str, Tensor], unet: Any, file: str) -> None:
    """Refuse layers that the network does not have, which PEFT would pass by, or that are of another size."""
    known = dict(unet.named_modules())
    for name in sorted(state):
        layer = _BEFORE_LORA.split(name)[0].removesuffix(".processor").replace(".processor.", ".")
        inner = f"{layer}.0"  # names of early diffusers leave it out
        module = known.get(inner if layer.endswith("to_out") and inner in known else layer)
        if module is None:
            raise InputError(f"is a LoRA of another network: this one has no {layer}", place=file)
        weight, value = getattr(module, "weight", None), state[name]
        side = 0 if _UP.search(name) else 1
        if (
            isinstance(weight, Tensor)
            and min(weight.ndim, value.ndim) > 1
            and value.shape[side] != weight.shape[side]
        ):
            what = f"{value.shape[side]} {'inputs' if side else 'outputs'}, this one's {weight.shape[side]}"
            raise InputError(f"is a LoRA of another network: its {layer} has {what}", place=file)
