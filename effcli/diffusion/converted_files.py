"""Single-file checkpoints of whole pipelines (Stable Diffusion, SDXL and others) as folders of diffusers.

diffusers converts the names of the weights; the configuration comes from a folder of diffusers on this machine, never
from the network. What comes out is kept in the user's cache, so that a file is converted once.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import nn

from effcli.core.errors import InputError
from effcli.core.files import make_folder, read_json, write_error
from effcli.core.tensor_file import read_pickled_tensors
from effcli.core.weight_file import one_line
from effcli.diffusion.configs import check_unet_config
from effcli.diffusion.folders import SCHEDULER_FILE
from effcli.diffusion.notices import quiet_diffusers, say_once
from effcli.diffusion.single_files import (
    PICKLED,
    check_levels,
    check_rest,
    is_gguf,
    is_whole_model,
    origin_of,
    shapes_in,
)

_INDEX = "model_index.json"
_UNUSED = ("safety_checker", "feature_extractor", "image_encoder")
"""Parts of no influence on what the network computes."""

_OF_DECODERS = ("first_stage_model.", "vae.")


def find_converted(file: Path, source: str) -> Path | None:
    """The folder of diffusers that a single file becomes; None for a file that is not a whole pipeline.

    Args:
        file: the checkpoint, ``.safetensors`` or pickled tensors.
        source: its name in messages.

    Raises:
        InputError: there is no configuration for it, or one that it does not fit, or a part has no weights.
    """
    shapes = _names_of(file, source)
    if shapes is None:
        return None
    config = _find_config(file, source, shapes)
    scheduler = _scheduler_in(config)
    check_rest(shapes, scheduler, source)
    folder = _cache() / _key(file, config)
    if not (folder / _INDEX).is_file():
        check_levels(file, shapes, scheduler, source)
        _convert(file, source, shapes, config, folder)
    say_once(source, f"is read as {folder}, with the configuration of {config}")
    return folder


def _names_of(file: Path, source: str) -> dict[str, Any] | None:
    """Name -> tensor without values, if it is a whole pipeline."""
    if file.suffix in PICKLED:
        tensors = read_pickled_tensors(file, source)
        shapes: dict[str, Any] = {name: value.to("meta") for name, value in tensors.items()}
    elif file.suffix == ".safetensors" and not is_gguf(file):
        shapes, metadata = shapes_in(file, source)
        if "effcli.mpq" in metadata or metadata.get("format", "").startswith("effcli"):
            return None
    else:
        return None
    return shapes if is_whole_model(shapes) else None


def _find_config(file: Path, source: str, shapes: dict[str, Any]) -> Path:
    """The folder with the configuration: where the file lies, one of its name beside it, or in the hub's cache."""
    beside = (file.absolute().parent, file.absolute().with_suffix(""))
    for folder in beside:
        if (folder / _INDEX).is_file():
            return folder
    origin = origin_of(shapes)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        cached = Path(snapshot_download(origin, local_files_only=True))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError, ValueError):
        cached = beside[1]
    if (cached / _INDEX).is_file():
        return cached
    raise InputError(
        f"is a single file with a whole model like {origin}, without its configuration",
        place=source,
        hint=f"put {_INDEX} and the folders that it names (config.json and tokenizer files, no weights) of {origin} "
        f"beside it, or into {beside[1]}",
    )


def _scheduler_in(config: Path) -> dict[str, Any]:
    file = config / "scheduler" / SCHEDULER_FILE
    return read_json(file) if file.is_file() else {}


def _cache() -> Path:
    """``effcli/converted`` in ``$XDG_CACHE_HOME``, by default ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "effcli" / "converted"


def _key(file: Path, config: Path) -> str:
    """A name that changes with the file (its path, size and time) and with the configuration (its content)."""
    about = file.stat()
    digest = hashlib.sha256(f"{file.resolve()} {about.st_size} {about.st_mtime_ns}\n".encode())
    for one in sorted([*config.glob("*.json"), *config.glob("*/*.json"), *config.glob("*/*.txt")]):
        digest.update(f"{one.relative_to(config)} {one.stat().st_size}\n".encode())
        digest.update(one.read_bytes())
    return f"{file.stem}-{digest.hexdigest()[:16]}"


def _convert(file: Path, source: str, shapes: dict[str, Any], config: Path, folder: Path) -> None:
    index = read_json(config / _INDEX)
    pipeline_class = _class_of(index, config)
    parts = {n: None for n in _UNUSED if n in index}
    parts |= _decoder(index, shapes, config, source)
    _check_parts(index, config)
    _check_second_encoder(index, shapes, config, source)
    for name in index.keys() - parts.keys():
        _check_network(index[name], config / name, shapes, source)
    try:
        with quiet_diffusers():
            pipeline: Any = pipeline_class.from_single_file(
                str(file), config=str(config), local_files_only=True, torch_dtype=_dtype_of(shapes), **parts
            )
    except (
        Exception
    ) as error:  # whatever a checkpoint and a configuration that do not fit make diffusers raise
        raise InputError(
            f"does not fit the configuration of {config}: {one_line(error)}", place=source
        ) from None
    networks = {name: part for name, part in pipeline.components.items() if isinstance(part, nn.Module)}
    for name, part in networks.items():
        _check_whole(part, name, source)
    _save(networks, config, folder)


def _save(networks: dict[str, Any], config: Path, folder: Path) -> None:
    """Write the weights, and copy the configuration as it is: pipelines of diffusers change theirs."""
    make_folder(folder.parent)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{folder.name}."))
    try:
        index = read_json(config / _INDEX)
        for name, network in networks.items():
            with quiet_diffusers():
                network.save_pretrained(temporary / name)
            shutil.copy(config / name / "config.json", temporary / name / "config.json")
        for name in index.keys() - networks.keys() - set(_UNUSED):
            if (config / name).is_dir():
                shutil.copytree(config / name, temporary / name)
        kept = {name: [None, None] if name in _UNUSED else value for name, value in index.items()}
        (temporary / _INDEX).write_text(json.dumps(kept, indent=2) + "\n")
        temporary.rename(folder)
    except OSError as error:
        raise write_error(error, folder) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _class_of(index: dict[str, Any], config: Path) -> Any:
    import diffusers

    name = str(index.get("_class_name"))
    found = getattr(diffusers, name, None)
    if found is None or not hasattr(found, "from_single_file"):
        raise InputError(
            f"names a {name}, which diffusers does not read from a single file", place=str(config / _INDEX)
        )
    return found


def _check_parts(index: dict[str, Any], config: Path) -> None:
    for name, value in index.items():
        is_part = isinstance(value, list) and any(value) and not name.startswith("_") and name not in _UNUSED
        if is_part and not (config / name).is_dir():
            raise InputError(f"has no {name}/, which its {_INDEX} names", place=str(config))


def _check_second_encoder(index: dict[str, Any], shapes: dict[str, Any], config: Path, source: str) -> None:
    """Name the text encoder that a checkpoint of SDXL lacks: diffusers would name the other one."""
    first, second = (any(name.startswith(f"conditioner.embedders.{n}.") for name in shapes) for n in (0, 1))
    weights = [*(config / "text_encoder_2").glob("*.safetensors"), *(config / "text_encoder_2").glob("*.bin")]
    if first and not second and any(index.get("text_encoder_2") or []) and not weights:
        raise InputError(
            "holds no second text encoder (conditioner.embedders.1)", place=source,
            hint=f"put one with its weights into {config}/text_encoder_2",
        )  # fmt: skip


def _decoder(index: dict[str, Any], shapes: dict[str, Any], config: Path, source: str) -> dict[str, Any]:
    """The decoder of the configuration's folder, where the file has none: diffusers would take other weights for it."""
    if "vae" not in index or any(name.startswith(_OF_DECODERS) for name in shapes):
        return {}
    from diffusers import AutoencoderKL

    from effcli.diffusion.folders import load_part

    if not any((config / "vae").glob("*.safetensors")) and not any((config / "vae").glob("*.bin")):
        raise InputError(
            "holds no decoder (first_stage_model)",
            place=source,
            hint=f"put one with its weights into {config}/vae",
        )
    decoder = load_part(config / "vae", (AutoencoderKL.__name__,), "decoder").network
    return {"vae": decoder}


def _check_network(value: Any, folder: Path, shapes: dict[str, Any], source: str) -> None:
    """Refuse weights that are not those of a network of diffusers, which would be filled up or passed over.

    Args:
        value: of `model_index.json`: library and class.
        folder: of the part's configuration.
        shapes: of the whole file.
        source: its name in messages.

    Raises:
        InputError: they are others.
    """
    import diffusers
    from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES as CONVERTED

    if not isinstance(value, list) or value[0] != "diffusers" or value[-1] not in CONVERTED:
        return
    config = read_json(folder / "config.json")
    network_class = getattr(diffusers, value[-1])
    check_unet_config(network_class.__init__, config, str(folder / "config.json"))
    try:
        with quiet_diffusers(), init_empty_weights():
            wanted = network_class.from_config(config).state_dict()
        convert: Any = CONVERTED[value[-1]]["checkpoint_mapping_fn"]
        found = convert(checkpoint=dict(shapes), config=config)
    except Exception as error:  # whatever a checkpoint of another layout makes the conversion raise
        raise InputError(
            f"does not fit the configuration of {folder}: {one_line(error)}", place=source
        ) from None
    lacking = [name for name in wanted if found.get(name) is None]
    others = [name for name in found if name not in wanted]
    sizes = [name for name in wanted if name not in lacking and found[name].shape != wanted[name].shape]
    for problem, names in (
        ("lacks weights of", lacking),
        ("has, unlike the configuration of", others),
        ("has another shape than", sizes),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise InputError(f"{problem} {folder.name}: {names[0]}{more}", place=source)


def _dtype_of(shapes: dict[str, Any]) -> torch.dtype:
    """The type of all floating-point weights; float32 where there are several."""
    types = {value.dtype for value in shapes.values() if value.is_floating_point()}
    return types.pop() if len(types) == 1 else torch.float32


def _check_whole(part: nn.Module, name: str, source: str) -> None:
    lacking = [key for key, value in part.state_dict().items() if value.is_meta]
    if lacking:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise InputError(f"lacks weights of the {name}: {lacking[0]}{more}", place=source)
