"""Where diffusion models come from and how they are kept: diffusers folders, hub ids, and files in the package.

A model in the package is one safetensors file: the UNet's weights, with its class, its configuration and its
scheduler's as JSON in the metadata.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field, Json
from torch import nn

from effcli.core.errors import InputError
from effcli.core.files import make_folder, sha256, write_text
from effcli.core.tensor_file import (
    BUILTIN_PREFIX,
    builtin_file,
    has_format,
    save_tensors,
)
from effcli.core.weight_file import Header, build_network, one_line, read_weights
from effcli.diffusion.configs import check_scheduler_config, check_unet_config, config_of, plain_config
from effcli.diffusion.converted_files import find_converted
from effcli.diffusion.ddim import ddim_scheduler, ends_of, timesteps_of
from effcli.diffusion.denoisers.classes import class_of, denoiser_class, n_tokens_of, sample_shape_of
from effcli.diffusion.folders import (
    SCHEDULER_FILE,
    STUDENT_FILE,
    Folder,
    find_parts,
    is_latent,
    load_denoiser,
    read_scheduler,
)
from effcli.diffusion.hub import download
from effcli.diffusion.notices import quiet_diffusers, say_once
from effcli.diffusion.processes import EVEN_SIGMAS, FLOW_CLASSES, IMAGE_TOKENS, clips_images, describe
from effcli.diffusion.schedulers import DISTILLED_TIMESTEPS, NULL_CLASS, RENEWS_NOISE, notices
from effcli.diffusion.single_files import refuse_single_file

FORMAT = "effcli.diffusion"
VERSION = "1"
UNET_FILE = "unet.safetensors"
"""What :func:`save_file` writes is called in the folder `model/` of a run."""

_MUCH_SIGNAL = 0.1
"""Share of the variance that is the image's at the last noise level, above which a model is called into question."""

_MUCH_NOISE = 0.01
"""Share of the variance that is noise after the last step, above which that is said."""


class DiffusionHeader(Header):
    """What is in the metadata of a model that is one file."""

    FORMAT: ClassVar[str] = FORMAT
    VERSION: ClassVar[str] = VERSION

    unet_class: str = Field(alias="class")
    config: Json[dict[str, Any]]
    scheduler: Json[dict[str, Any]]


@dataclass(frozen=True)
class DiffusionModel:
    """A network that denoises, with the configuration of the scheduler it was trained with.

    Attributes:
        unet: the network, a UNet or a transformer, in eval mode, float32.
        scheduler_config: of any diffusers scheduler; that of a few-step student also has its timesteps.
        source: as it was named.
        folder: the diffusers folder it came from, where there may be a text encoder or a decoder; else None.
        sha256: of the weight files; None for a UNet that came without one.
        weights_dtype: of the weights in the files, such as ``float16``.
        has_assumed_scheduler: none came with the UNet.
    """

    unet: nn.Module
    scheduler_config: dict[str, Any]
    source: str
    folder: Path | None = None
    sha256: str | None = None
    weights_dtype: str = "float32"
    has_assumed_scheduler: bool = False

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of what the network denoises.

        Raises:
            InputError: the configuration does not say.
        """
        return sample_shape_of(self.unet, self.source)


def network_timesteps(model: DiffusionModel, steps: int | None) -> list[float]:
    """What the network is told in each sampling step, the noisiest first; see :func:`ddim_scheduler`."""
    row = denoiser_class(model.unet)
    timesteps = timesteps_of(ddim_scheduler(model.scheduler_config, steps))
    if (row.time_scale, row.time_offset) == (1, 0):
        return timesteps
    return [float(torch.tensor(t * row.time_scale + row.time_offset)) for t in timesteps]


def load_model(source: str) -> DiffusionModel:
    """Load a model by name.

    Args:
        source: ``builtin:NAME``; a run directory of `effcli distill`; a folder of a diffusers pipeline, or of a network
            alone; a single-file checkpoint; or a hub id ``owner/name``, which is downloaded.

    Raises:
        InputError: nothing is there, it has no network that denoises, or it cannot be read.
    """
    if source.startswith(BUILTIN_PREFIX):
        with builtin_file(source, FORMAT) as file:
            return load_file(file, source)
    folder = folder_of(source)
    if folder is not None:
        return _load_folder(folder, source)
    path = _path_of(source)
    if not has_format(path, FORMAT):
        refuse_single_file(path, source)
    return load_file(path, source)


def _path_of(source: str) -> Path:
    path = Path(source)
    if (path / "recipe.yaml").is_file() and (path / "model").is_dir():
        path = path / "model"
    return path / UNET_FILE if (path / UNET_FILE).is_file() else path


def folder_of(source: str) -> Path | None:
    """The folder of diffusers that a source names; None: it is one file of effcli, or one that is not read.

    A hub id is downloaded, a single-file checkpoint of a whole pipeline converted.

    Raises:
        InputError: nothing is there, or a checkpoint has no configuration that it fits.
    """
    path = _path_of(source)
    if source.startswith(BUILTIN_PREFIX):
        return None
    if path.is_file():
        return find_converted(path, source)
    return path if path.is_dir() else download(source)


def build_unet(class_name: str, config: Mapping[str, Any]) -> nn.Module:
    """A UNet or a transformer of diffusers with new weights.

    Raises:
        InputError: it is no network that we know, or the configuration does not fit.
    """
    place = "unet" if "UNet" in class_name else "transformer"
    unet_class: Any = class_of(class_name, place)
    check_unet_config(unet_class.__init__, config, place)
    try:
        with quiet_diffusers():
            unet: nn.Module = unet_class.from_config(dict(config))
    except (TypeError, ValueError, RuntimeError, LookupError, AttributeError, ArithmeticError) as error:
        raise InputError(f"the configuration does not fit: {one_line(error)}", place=place) from None
    return unet


def empty_unet(class_name: str, config: Mapping[str, Any]) -> nn.Module:
    """The network of :func:`build_unet` without its weights (on the device ``meta``); what is computed is there.

    Raises:
        InputError: as there.
    """
    from accelerate import init_empty_weights
    from diffusers.models.modeling_utils import no_init_weights

    with no_init_weights(), init_empty_weights(include_buffers=False):
        return build_unet(class_name, config)


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
    """Write a pipeline folder of diffusers: `model_index.json`, `unet/` or `transformer/`, `scheduler/`.

    Raises:
        RunError: it cannot be written.
    """
    part = denoiser_class(unet).part
    make_folder(folder / part)
    tensors = {
        name: value.detach().cpu().to(dtype if value.is_floating_point() else value.dtype).contiguous()
        for name, value in unet.state_dict().items()
    }
    save_tensors(folder / part / "diffusion_pytorch_model.safetensors", tensors, {"format": "pt"})
    save_configs(folder, unet, scheduler_config)


def save_configs(
    folder: Path, unet: nn.Module, scheduler_config: Mapping[str, Any], **more: dict[str, Any]
) -> None:
    """Write all of a pipeline folder but the network's weights, which may be on the device ``meta``.

    Args:
        folder: of the pipeline.
        unet: the network.
        scheduler_config: of its scheduler.
        more: keys of the network's `config.json`.

    Raises:
        RunError: it cannot be written.
    """
    part = denoiser_class(unet).part
    for name in (part, "scheduler"):
        make_folder(folder / name)
    unet_class = type(unet).__name__
    pipeline = "DDIMPipeline" if unet_class == "UNet2DModel" else "DiffusionPipeline"
    own = (DISTILLED_TIMESTEPS, RENEWS_NOISE, NULL_CLASS, IMAGE_TOKENS, EVEN_SIGMAS)
    scheduler = {key: value for key, value in scheduler_config.items() if key not in own}
    contents = {
        f"{part}/config.json": {"_class_name": unet_class, **config_of(unet), **more},
        "scheduler/scheduler_config.json": scheduler,
        "model_index.json": {
            "_class_name": pipeline,
            part: ["diffusers", unet_class],
            "scheduler": ["diffusers", scheduler.get("_class_name", "DDIMScheduler")],
        },
    }
    if DISTILLED_TIMESTEPS in scheduler_config:
        contents[STUDENT_FILE] = {"timesteps": list(scheduler_config[DISTILLED_TIMESTEPS])}
        kept = (RENEWS_NOISE, NULL_CLASS)
        contents[STUDENT_FILE] |= {key: scheduler_config[key] for key in kept if key in scheduler_config}
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


def _load_folder(folder: Path, source: str) -> DiffusionModel:
    parts = find_parts(folder, source)
    unet = load_denoiser(parts.unet, source)
    model = DiffusionModel(
        unet.network,
        with_pipeline_keys(read_scheduler(parts), unet.network, source),
        source,
        parts.pipeline,
        unet.sha256,
        weights_dtype=unet.dtype,
        has_assumed_scheduler=parts.scheduler is None,
    )
    say_what_is_read(model, parts)
    return model


def with_pipeline_keys(scheduler: dict[str, Any], network: nn.Module, source: str) -> dict[str, Any]:
    """A scheduler's configuration with what the network's pipelines tell it: the size of the image, even sigmas."""
    own: dict[str, Any] = {}
    if scheduler.get("use_dynamic_shifting"):
        own[IMAGE_TOKENS] = n_tokens_of(network, source)
    if scheduler.get("_class_name") in FLOW_CLASSES and denoiser_class(network).even_sigmas:
        own[EVEN_SIGMAS] = True
    return {**scheduler, **own}


def say_what_is_read(model: DiffusionModel, parts: Folder) -> None:
    """Tell the user once what was decided about a model, and the run's log every time."""
    scheduler = model.scheduler_config
    lines = notices(scheduler)
    if parts.scheduler is None:
        lines.append(
            f"has no {SCHEDULER_FILE}: DDPM with 1000 linear levels that predicts noise is assumed; "
            "put the file beside its config.json if that is wrong"
        )
    elif parts.is_part:
        lines.append(f"takes the scheduler of the pipeline around it, {parts.scheduler}")
    if is_latent(parts.pipeline) and clips_images(scheduler):
        lines.append("its scheduler's clip_sample is true: latents are clipped, as it says")
    own = (DISTILLED_TIMESTEPS, RENEWS_NOISE)
    levels = {key: value for key, value in scheduler.items() if key not in own}
    level, rest = ends_of(levels, 1)
    if level > _MUCH_SIGNAL:
        lines.append(
            f"its noisiest level keeps {level:.0%} of the image's variance, but sampling starts from noise"
        )
    if rest > _MUCH_NOISE:
        lines.append(f"its last step ends at a level where {rest:.1%} of the variance is noise")
    for line in lines:
        say_once(model.source, line)


def describe_model(model: DiffusionModel) -> dict[str, str]:
    """``weights`` and ``scheduler``: what the files held and what is made of it, for plans and records."""
    read_as = "" if model.weights_dtype == "float32" else ", read as float32"
    assumed = ", assumed" if model.has_assumed_scheduler else ""
    return {"weights": model.weights_dtype + read_as, "scheduler": describe(model.scheduler_config) + assumed}
