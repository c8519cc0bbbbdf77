"""Folders of diffusers: pipelines, pipelines whose parts lie in the root (`google/ddpm-*`), and a network alone."""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from effcli.core.errors import InputError
from effcli.core.files import make_folder, read_json, write_error, write_text
from effcli.core.tensor_file import require_finite
from effcli.core.weight_file import make_within
from effcli.diffusion.configs import check_scheduler_config, check_unet_config
from effcli.diffusion.denoisers.classes import PARTS, class_of
from effcli.diffusion.notices import quiet_diffusers, say_once
from effcli.diffusion.schedulers import CLASSES, DISTILLED_TIMESTEPS, NULL_CLASS, RENEWS_NOISE
from effcli.diffusion.weight_files import WeightFiles, check_no_adapter, find_weights

STUDENT_FILE = "student.json"
"""Beside `model_index.json` of a few-step student: its timesteps, and where it comes from."""

DECODERS = ("vae", "vqvae")
TOKENIZERS = ("tokenizer", "tokenizer_2", "tokenizer_3")
BESIDE = (*DECODERS, "text_encoder", "text_encoder_2", "text_encoder_3", *TOKENIZERS)
"""Folders of a pipeline that are read beside the network and the scheduler."""

_PARTS = {
    *PARTS, "scheduler", *BESIDE,
    # of no influence on what the network computes
    "safety_checker", "feature_extractor", "image_encoder", "requires_safety_checker",
}  # fmt: skip
_DEFAULT_SCHEDULER = {"_class_name": "DDPMScheduler", "num_train_timesteps": 1000, "clip_sample": False}
SCHEDULER_FILE = "scheduler_config.json"


@dataclass(frozen=True)
class Folder:
    """Where the parts of a model lie.

    Attributes:
        unet: the folder of the network that denoises.
        pipeline: where a decoder and a text encoder may be.
        scheduler: the file; None where there is none.
        is_part: the network was named, and lies in the folder of a pipeline.
    """

    unet: Path
    pipeline: Path
    scheduler: Path | None
    is_part: bool = False


@dataclass(frozen=True)
class LoadedPart:
    """A network with what its files held.

    Attributes:
        network: in eval mode, float32, without gradients.
        dtype: of the weights in the files, such as ``float16``.
        sha256: of the files.
    """

    network: nn.Module
    dtype: str
    sha256: str


def find_parts(folder: Path, source: str) -> Folder:
    """Where the parts are.

    Raises:
        InputError: it is not a folder of diffusers, has no network that denoises, or a part that is not read and would
            change the samples.
    """
    if (folder / "model_index.json").is_file():
        return _parts_of_pipeline(folder, source)
    if (folder / "config.json").is_file():
        if (folder / SCHEDULER_FILE).is_file():
            return Folder(folder, folder, folder / SCHEDULER_FILE)
        above = folder.absolute().parent
        if (above / "model_index.json").is_file():  # PIPELINE/unet
            return Folder(folder, above, _scheduler_of(above), is_part=True)
        return Folder(folder, folder, None)
    inside = sorted(path.parent.name for path in folder.glob("*/config.json"))
    inside += sorted(f"snapshots/{path.parent.name}" for path in folder.glob("snapshots/*/model_index.json"))
    raise InputError(
        "is not a diffusers folder: it has neither model_index.json nor config.json",
        place=source,
        hint=f"name a folder in it: {', '.join(inside)}" if inside else None,
    )


def _parts_of_pipeline(folder: Path, source: str) -> Folder:
    index = read_json(folder / "model_index.json")
    pipeline = str(index.get("_class_name", "pipeline"))
    parts = {
        name: value
        for name, value in index.items()
        if not name.startswith("_") and isinstance(value, list) and any(value)
    }
    named = [name for name in PARTS if name in parts]
    found = [name for name in named if (folder / name).is_dir()]
    in_root = not found and (folder / "config.json").is_file()
    if len(named) > 1:
        raise InputError(f"this {pipeline} has both a unet and a transformer", place=source)
    if not named or not (in_root or found):
        others = ", ".join(sorted(set(parts) - set(PARTS)))
        raise InputError(f"this {pipeline} has no unet or transformer, only {others}", place=source)
    unread = sorted(set(parts) - _PARTS)
    if unread:
        raise InputError(
            f"this {pipeline} has a part that is not supported: {', '.join(unread)}", place=source
        )
    check_no_adapter(folder)
    scheduler = _scheduler_of(folder)
    if scheduler is None:
        raise InputError(f"has no scheduler/{SCHEDULER_FILE}", place=source)
    return Folder(folder if in_root else folder / found[0], folder, scheduler)


def _scheduler_of(pipeline: Path) -> Path | None:
    files = (pipeline / "scheduler" / SCHEDULER_FILE, pipeline / SCHEDULER_FILE)
    return next((file for file in files if file.is_file()), None)


def read_scheduler(parts: Folder) -> dict[str, Any]:
    """The scheduler's configuration as it is used: where none is there DDPM's, and latents are not clipped unasked.

    Raises:
        InputError: it cannot be read.
    """
    config = dict(_DEFAULT_SCHEDULER) if parts.scheduler is None else read_json(parts.scheduler)
    clips_by_default = CLASSES.get(str(config.get("_class_name")), {"clip_sample": False})
    if (
        is_latent(parts.pipeline)
        and "clip_sample" not in config
        and clips_by_default.get("clip_sample", True)
    ):
        config["clip_sample"] = False
    if (parts.pipeline / STUDENT_FILE).is_file():
        student = read_json(parts.pipeline / STUDENT_FILE)
        config[DISTILLED_TIMESTEPS] = student.get("timesteps", [])
        config |= {key: student[key] for key in (RENEWS_NOISE, NULL_CLASS) if key in student}
    check_scheduler_config(config, str(parts.scheduler or parts.unet))
    return config


def is_latent(pipeline: Path) -> bool:
    """Whether what the UNet denoises is decoded to images, by a decoder that is there or should be."""
    return any((pipeline / name).is_dir() for name in DECODERS) or bool(absent_parts(pipeline, DECODERS))


def absent_parts(pipeline: Path, names: Iterable[str] = BESIDE) -> list[str]:
    """Those of ``names`` that the pipeline's `model_index.json` says it has, and that are not there."""
    file = pipeline / "model_index.json"
    index = read_json(file) if file.is_file() else {}
    named = [name for name in names if isinstance(index.get(name), list) and any(index[name])]
    return [name for name in named if not (pipeline / name).is_dir()]


def refuse_absent(pipeline: Path | None, names: Iterable[str]) -> None:
    """Refuse a pipeline without a part that it says it has.

    Raises:
        InputError: the first one.
    """
    for name in [] if pipeline is None else absent_parts(pipeline, names):
        raise InputError(
            f"has no {name}/, which its model_index.json names", place=str(pipeline),
            hint="download it, or write [null, null] there for a model without it",
        )  # fmt: skip


def load_part(folder: Path, classes: tuple[str, ...], what: str) -> LoadedPart:
    """A network of diffusers from its own folder, all of it.

    Args:
        folder: with `config.json` and the weights.
        classes: those that are supported.
        what: it is, for messages.

    Raises:
        InputError: it is of another class, or its files are incomplete, damaged, foreign, quantized or an adapter's.
    """
    import diffusers

    name = class_in(folder)
    if name not in classes:
        raise InputError(f"holds a {name}, not one of {' and '.join(classes)}", place=str(folder))
    return _load(folder, getattr(diffusers, name), what)


def load_denoiser(folder: Path, source: str) -> LoadedPart:
    """The network that denoises, as :func:`load_part`; ``source`` is the model's name in messages."""
    return _load(folder, class_of(class_in(folder), source), "network")


def _load(folder: Path, network_class: Any, what: str) -> LoadedPart:
    check_unet_config(network_class.__init__, read_json(folder / "config.json"), str(folder / "config.json"))
    weights = find_weights(folder)
    dtype, n_tensors = weights.check()

    def load() -> Any:
        return _from_pretrained(network_class, folder, weights, what)

    n_most = sum(file.stat().st_size for file in weights.files)  # a weight has at least a byte
    network, info = make_within(load, n_most, n_tensors, str(folder))
    _check_whole(info, what, folder)
    require_finite(network.state_dict(), str(folder))
    _say_unknown_keys(network, folder)
    return LoadedPart(network.eval().requires_grad_(False), dtype, weights.sha256())


def _from_pretrained(network_class: Any, folder: Path, weights: WeightFiles, what: str) -> Any:
    try:
        with quiet_diffusers():
            return network_class.from_pretrained(
                folder,
                torch_dtype=torch.float32,
                local_files_only=True,
                variant=weights.variant,
                use_safetensors=weights.kind == "safetensors",
                output_loading_info=True,
            )
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"the {what} cannot be loaded: {reason}") from None


def class_in(folder: Path) -> str:
    """The class that a part's `config.json` names.

    Raises:
        InputError: its weights are quantized.
    """
    config = read_json(folder / "config.json")
    if config.get("quantization_config"):
        raise InputError(
            "its config.json has a quantization_config: quantized weights are not read",
            place=str(folder),
            hint="name the full-precision model",
        )
    return str(config.get("_class_name"))


def _say_unknown_keys(network: nn.Module, folder: Path) -> None:
    known = inspect.signature(type(network).__init__).parameters
    unknown = sorted(
        key for key in read_json(folder / "config.json") if key not in known and not key.startswith("_")
    )
    if unknown:
        name = type(network).__name__
        say_once(
            str(folder), f"keys of config.json that {name} does not know are not used: {', '.join(unknown)}"
        )


def _check_whole(info: Mapping[str, Any], what: str, folder: Path) -> None:
    for kind, found in (
        ("its weights lack", info["missing_keys"]),
        ("its weights have, unlike its config.json,", info["unexpected_keys"]),
        ("its weights have another shape than in config.json:", [one[0] for one in info["mismatched_keys"]]),
        ("its weights do not load:", info["error_msgs"]),
    ):
        if found:
            more = f" and {len(found) - 1} more" if len(found) > 1 else ""
            raise InputError(
                f"the {what} cannot be loaded: {kind} {sorted(found)[0]}{more}", place=str(folder)
            )


def copy_parts(pipeline: Path, folder: Path, *, linked_to: Path | None = None) -> None:
    """Put the parts beside a network into another pipeline's folder, as they are.

    Of weights that are there in a variant only (`model.fp16.safetensors`) the copies have plain names, so that the
    new folder is read without naming it.

    Args:
        pipeline: where they are.
        folder: of the other pipeline.
        linked_to: a folder that has copies of them already, to which links are made where the file system has some.

    Raises:
        RunError: they cannot be written.
    """
    for name in BESIDE:
        if (pipeline / name).is_dir():
            _copy_part(pipeline / name, folder / name, None if linked_to is None else linked_to / name)


def name_parts(pipeline: Path, folder: Path) -> None:
    """Say in the `model_index.json` of ``folder``, which is there, what :func:`copy_parts` put beside its network.

    The class of the pipeline and its settings are taken over; parts that are not read are named as absent.

    Raises:
        RunError: it cannot be written.
    """
    index = read_json(pipeline / "model_index.json") if (pipeline / "model_index.json").is_file() else {}
    copied = read_json(folder / "model_index.json")
    for name, value in index.items():
        if not isinstance(value, list):
            copied[name] = value
        elif name not in copied:
            copied[name] = value if name in BESIDE and (folder / name).is_dir() else [None, None]
    write_text(folder / "model_index.json", json.dumps(copied, indent=2) + "\n")


def _copy_part(part: Path, place: Path, linked_to: Path | None) -> None:
    try:
        make_folder(place.parent)
        if linked_to is not None and not place.exists():
            with contextlib.suppress(OSError):  # no links here: a copy
                place.symlink_to(os.path.relpath(linked_to, place.parent), target_is_directory=True)
        if not place.is_symlink():
            shutil.copytree(part, place, dirs_exist_ok=True)
            if part.name not in TOKENIZERS:
                _drop_variant(place)
    except OSError as error:
        raise write_error(error, place) from None


def _drop_variant(part: Path) -> None:
    weights = find_weights(part, of_diffusers=part.name in DECODERS)
    if weights.variant is None:
        return
    for file in part.glob(f"*.index.{weights.variant}.json"):
        text = file.read_text(encoding="utf-8")
        for shard in weights.files:
            text = text.replace(shard.name, weights.plain_name(shard))
        write_text(part / weights.plain_name(file), text)
        file.unlink()
    for file in weights.files:
        file.rename(part / weights.plain_name(file))
