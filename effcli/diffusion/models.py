"""Where diffusion models come from and how they are kept: diffusers folders, hub ids, and files in the package.

A model in the package is one safetensors file: the UNet's weights, with its class, its configuration and its
scheduler's as JSON in the metadata.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import torch
from pydantic import Field, Json
from safetensors import SafetensorError
from torch import Tensor, nn

from effcli.core.errors import InputError
from effcli.core.files import make_folder, sha256, write_text
from effcli.core.tensor_file import (
    BUILTIN_PREFIX,
    builtin_file,
    require_finite,
    save_tensors,
)
from effcli.core.weight_file import Header, build_network, one_line, read_weights
from effcli.diffusion.configs import check_scheduler_config, check_unet_config
from effcli.diffusion.schedulers import DISTILLED_TIMESTEPS

FORMAT = "effcli.diffusion"
VERSION = "1"
STUDENT_FILE = "student.json"
"""Beside `model_index.json` of a few-step student: its timesteps, and where it comes from."""

UNET_FILE = "unet.safetensors"
"""What :func:`save_file` writes is called in the folder `model/` of a run."""

UNET_CLASSES = ("UNet2DModel", "UNet2DConditionModel")

_DEFAULT_SCHEDULER = {"_class_name": "DDPMScheduler", "num_train_timesteps": 1000, "clip_sample": False}
_HUB_PATTERNS = ["*.json", "*.txt", "unet/*.safetensors", "text_encoder/*.safetensors", "v*/*.safetensors"]


class DiffusionHeader(Header):
    """What is in the metadata of a model that is one file."""

    FORMAT: ClassVar[str] = FORMAT
    VERSION: ClassVar[str] = VERSION

    unet_class: Literal["UNet2DModel", "UNet2DConditionModel"] = Field(alias="class")
    config: Json[dict[str, Any]]
    scheduler: Json[dict[str, Any]]


@dataclass(frozen=True)
class DiffusionModel:
    """A UNet with the configuration of the scheduler it was trained with.

    Attributes:
        unet: in eval mode, float32.
        scheduler_config: of any diffusers scheduler; that of a few-step student also has its timesteps.
        source: as it was named.
        folder: the diffusers folder it came from, where there may be a text encoder or a decoder; else None.
        sha256: of the weight file; None for a UNet that came without one.
    """

    unet: nn.Module
    scheduler_config: dict[str, Any]
    source: str
    folder: Path | None = None
    sha256: str | None = None

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of what the UNet denoises.

        Raises:
            InputError: the configuration does not say.
        """
        config = config_of(self.unet)
        size = config["sample_size"]
        if size is None:
            raise InputError("the UNet's config.json has no sample_size", place=self.source)
        height, width = (size, size) if isinstance(size, int) else size
        return int(config["in_channels"]), int(height), int(width)


Decode = Callable[[Tensor], Tensor]
"""From what the UNet denoises to images in -1..1, ``[B, C, H, W]`` each."""


def load_decoder(model: DiffusionModel, device: torch.device) -> Decode:
    """The decoder of a latent model (`vae/` or `vqvae/` in its folder); other models' images are images already.

    Raises:
        InputError: it cannot be read.
    """
    names = [name for name in ("vae", "vqvae") if model.folder is not None and (model.folder / name).is_dir()]
    if not names or model.folder is None:
        return lambda images: images
    import diffusers

    folder = model.folder / names[0]
    class_name = str(read_json(folder / "config.json").get("_class_name"))
    try:
        decoder = getattr(diffusers, class_name).from_pretrained(folder, local_files_only=True)
    except (AttributeError, OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"the decoder cannot be loaded: {reason}", place=str(folder)) from None
    decoder = decoder.eval().requires_grad_(False).to(device)
    scale = float(decoder.config.get("scaling_factor") or 1.0)

    def decode(latents: Tensor) -> Tensor:
        with torch.no_grad():
            parts = [decoder.decode(part.to(device) / scale).sample.cpu() for part in latents.split(4)]
        return torch.cat(parts).clamp(-1, 1)

    return decode


def load_model(source: str) -> DiffusionModel:
    """Load a model by name.

    Args:
        source: ``builtin:NAME``; a run directory of `effcli distill`; a folder of a diffusers pipeline, or of a UNet
            alone; or a hub id ``owner/name``, which is downloaded.

    Raises:
        InputError: nothing is there, it has no UNet, or it cannot be read.
    """
    if source.startswith(BUILTIN_PREFIX):
        with builtin_file(source, FORMAT) as file:
            return load_file(file, source)
    path = Path(source)
    if (path / "recipe.yaml").is_file() and (path / "model").is_dir():
        path = path / "model"
    if (path / UNET_FILE).is_file():
        path = path / UNET_FILE
    if path.is_file():
        return load_file(path, source)
    return _load_folder(path if path.is_dir() else _download(source), source)


def build_unet(class_name: str, config: Mapping[str, Any]) -> nn.Module:
    """A UNet of diffusers with new weights.

    Raises:
        InputError: it is no UNet that we know, or the configuration does not fit.
    """
    import diffusers

    if class_name not in UNET_CLASSES:
        raise InputError(f"is a {class_name}, not one of {' and '.join(UNET_CLASSES)}", place="unet")
    unet_class = getattr(diffusers, class_name)
    check_unet_config(unet_class, config, "unet")
    try:
        unet: nn.Module = unet_class.from_config(dict(config))
    except (TypeError, ValueError, RuntimeError, LookupError, AttributeError, ArithmeticError) as error:
        raise InputError(f"the UNet's configuration does not fit: {one_line(error)}", place="unet") from None
    return unet


def save_file(
    path: Path, unet: nn.Module, scheduler_config: Mapping[str, Any], *, dtype: torch.dtype = torch.float32
) -> None:
    """Write a UNet as one file; floating-point weights are stored as ``dtype``.

    Raises:
        RunError: it cannot be written.
    """
    tensors = {
        name: value.detach().to(dtype if value.is_floating_point() else value.dtype).contiguous()
        for name, value in unet.state_dict().items()
    }
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "class": type(unet).__name__,
        "config": json.dumps(config_of(unet)),
        "scheduler": json.dumps(plain_config(scheduler_config)),
    }
    save_tensors(path, tensors, metadata)


def save_folder(
    folder: Path, unet: nn.Module, scheduler_config: Mapping[str, Any], *, dtype: torch.dtype = torch.float32
) -> None:
    """Write a pipeline folder of diffusers: `model_index.json`, `unet/`, `scheduler/`.

    Raises:
        RunError: it cannot be written.
    """
    for part in ("unet", "scheduler"):
        make_folder(folder / part)
    tensors = {
        name: value.detach().cpu().to(dtype if value.is_floating_point() else value.dtype).contiguous()
        for name, value in unet.state_dict().items()
    }
    save_tensors(folder / "unet" / "diffusion_pytorch_model.safetensors", tensors, {"format": "pt"})
    unet_class = type(unet).__name__
    pipeline = "DDIMPipeline" if unet_class == "UNet2DModel" else "DiffusionPipeline"
    scheduler = {key: value for key, value in scheduler_config.items() if key != DISTILLED_TIMESTEPS}
    contents = {
        "unet/config.json": {"_class_name": unet_class, **config_of(unet)},
        "scheduler/scheduler_config.json": scheduler,
        "model_index.json": {
            "_class_name": pipeline,
            "unet": ["diffusers", unet_class],
            "scheduler": ["diffusers", scheduler.get("_class_name", "DDIMScheduler")],
        },
    }
    if DISTILLED_TIMESTEPS in scheduler_config:
        contents[STUDENT_FILE] = {"timesteps": list(scheduler_config[DISTILLED_TIMESTEPS])}
    for name, content in contents.items():
        write_text(folder / name, json.dumps(content, indent=2) + "\n")


def load_file(path: Path, source: str) -> DiffusionModel:
    """Read what :func:`save_file` wrote.

    Raises:
        InputError: it is another kind of file, or damaged.
    """
    header, tensors = read_weights(path, source, DiffusionHeader)
    check_scheduler_config(header.scheduler, source)
    unet = build_network(lambda: build_unet(header.unet_class, header.config), tensors, source)
    return DiffusionModel(unet.requires_grad_(False), header.scheduler, source, sha256=sha256(path))


def config_of(unet: nn.Module) -> dict[str, Any]:
    """The configuration of a UNet of diffusers, as plain JSON values."""
    return plain_config(cast(Mapping[str, Any], unet.config))


def plain_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A diffusers configuration as plain JSON values, without what depends on the machine."""
    kept = {
        key: value
        for key, value in dict(config).items()
        if key not in {"_name_or_path", "_use_default_values"}
    }
    plain: dict[str, Any] = json.loads(json.dumps(kept, default=str))
    return plain


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        InputError: it is not there or is none.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read: {error}", place=str(file)) from None
    if not isinstance(content, dict):
        raise InputError("is not a JSON object", place=str(file))
    return content


def _load_folder(folder: Path, source: str) -> DiffusionModel:
    if (folder / "model_index.json").is_file():
        index = read_json(folder / "model_index.json")
        if "unet" not in index or not (folder / "unet").is_dir():
            parts = ", ".join(sorted(name for name in index if not name.startswith("_")))
            raise InputError(f"this pipeline has no unet, only {parts}", place=source)
        unet_folder = folder / "unet"
        scheduler_file = folder / "scheduler" / "scheduler_config.json"
        scheduler = read_json(scheduler_file)
    elif (folder / "config.json").is_file():
        unet_folder = folder
        scheduler_file = folder / "scheduler_config.json"
        scheduler = read_json(scheduler_file) if scheduler_file.is_file() else dict(_DEFAULT_SCHEDULER)
    else:
        raise InputError(
            "is not a diffusers folder: it has neither model_index.json nor config.json", place=source
        )
    class_name = str(read_json(unet_folder / "config.json").get("_class_name"))
    if class_name not in UNET_CLASSES:
        raise InputError(f"holds a {class_name}, not one of {' and '.join(UNET_CLASSES)}", place=source)
    import diffusers

    try:
        unet = getattr(diffusers, class_name).from_pretrained(
            unet_folder, torch_dtype=torch.float32, local_files_only=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"the UNet cannot be loaded: {reason}", place=str(unet_folder)) from None
    require_finite(unet.state_dict(), str(unet_folder))
    weights = sorted(unet_folder.glob("*.safetensors"))
    digest = sha256(weights[0]) if len(weights) == 1 else None
    if (folder / STUDENT_FILE).is_file():
        scheduler[DISTILLED_TIMESTEPS] = read_json(folder / STUDENT_FILE).get("timesteps", [])
    check_scheduler_config(scheduler, str(folder))
    return DiffusionModel(unet.eval().requires_grad_(False), scheduler, source, folder, digest)


def _download(source: str) -> Path:
    """Fetch a hub id, or find it in the hub's cache."""
    if source.count("/") != 1 or source.startswith((".", "/")):
        raise InputError("no such folder", place=source, hint="a diffusers folder, a hub id or builtin:NAME")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(source, allow_patterns=_HUB_PATTERNS))
    except HFValidationError:
        raise InputError("no such folder, and no hub id either", place=source) from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"is not a local folder, and the hub did not give it: {reason}",
            place=source,
            hint="check the name and the network; a folder that was downloaded before works offline",
        ) from None
