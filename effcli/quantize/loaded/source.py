"""What a packed model needs beside its own file: decoder, text encoders and tokenizers of the model it was made from.

They are looked for where the caller says, in the pipeline the packed file lies in, and where the full-precision model
was; there their files must be those that were there when it was quantized. The full-precision weights are not read.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NoReturn

from torch import nn

from effcli.core.errors import InputError
from effcli.core.files import sha256
from effcli.diffusion.folders import BESIDE, DECODERS, TOKENIZERS, find_parts
from effcli.diffusion.models import DiffusionModel, describe_model, folder_of
from effcli.diffusion.weight_files import find_weights
from effcli.quantize.packed.model import PackedModel
from effcli.quantize.weights import find_packed

_HINT = "--model NEW_PLACE says where the full-precision model is now"


def describe_source(model: DiffusionModel) -> dict[str, Any]:
    """What the packed file says of the full-precision model.

    Returns:
        ``id``, as it was named; ``place``, the same as an absolute path where it is one; ``sha256`` of the network's
        weights; ``parts``, name -> checksum over the files of each part beside it; what the files held.
    """
    local = Path(model.source)
    return {
        "id": model.source,
        "place": str(local.absolute()) if local.exists() else model.source,
        "sha256": model.sha256,
        "parts": {} if model.folder is None else checksums(model.folder),
        **describe_model(model),
    }


def checksums(pipeline: Path) -> dict[str, str]:
    """Part -> checksum over the names and contents of the files that are read of it."""
    return {name: _checksum(pipeline / name) for name in BESIDE if (pipeline / name).is_dir()}


def _checksum(part: Path) -> str:
    if part.name in TOKENIZERS:
        files = sorted(file for file in part.iterdir() if file.is_file() and not file.name.startswith("."))
        named = [(file.name, file) for file in files]
    else:
        weights = find_weights(part, of_diffusers=part.name in DECODERS)
        named = [("config.json", part / "config.json"), *((weights.plain_name(f), f) for f in weights.files)]
    lines = [f"{name} {sha256(file)}\n" for name, file in named]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def rebuild(packed: PackedModel, place: str | Path, unet: nn.Module, moved_to: str | None) -> DiffusionModel:
    """The whole model of a packed file, with ``unet`` for its network.

    Args:
        packed: what the file holds.
        place: of the file, as for :func:`find_packed`.
        unet: of the packed model, in any form.
        moved_to: where the full-precision model is now; None: where it was.

    Raises:
        InputError: a part that it needs is not there, or is another one.
    """
    return DiffusionModel(unet, packed.scheduler_config, str(place), find_pipeline(packed, place, moved_to))


def find_pipeline(packed: PackedModel, place: str | Path, moved_to: str | None) -> Path | None:
    """The folder with the parts that a packed model needs; None where it needs none.

    Raises:
        InputError: it is not there, or its files are not those of the model that was quantized.
    """
    recorded: dict[str, str] | None = packed.about["source"].get("parts")
    beside = _pipeline_around(find_packed(place))
    if moved_to is None and (beside is not None or recorded == {}):
        return beside
    pipeline = _pipeline_where_it_was(packed) if moved_to is None else _pipeline_of(moved_to)
    if recorded is None:  # of effcli 0.1
        if pipeline is None and _may_be_latent(packed):
            _refuse_missing(packed, "its decoder")
        return pipeline
    for name, checksum in recorded.items():
        if pipeline is None or not (pipeline / name).is_dir():
            _refuse_missing(packed, name)
        if _checksum(pipeline / name) != checksum:
            raise InputError(
                "has changed since the model was quantized", place=str(pipeline / name), hint=_HINT
            )
    return pipeline


def place_of_source(packed: PackedModel) -> str:
    """Where the full-precision model was: an absolute path, a hub id or a name in the package."""
    source = packed.about["source"]
    return str(source.get("place", source["id"]))


def check_source(packed: PackedModel, place: str | None) -> str:
    """``place``, or where the full-precision model was, if something is there.

    Raises:
        InputError: it is a path, and nothing is there.
    """
    chosen = place or place_of_source(packed)
    if Path(chosen).is_absolute() and not Path(chosen).exists():
        raise InputError("the full-precision model is no longer here", place=chosen, hint=_HINT)
    return chosen


def _pipeline_around(file: Path) -> Path | None:
    pipeline = file.absolute().parent.parent
    return pipeline if (pipeline / "model_index.json").is_file() else None


def _pipeline_of(source: str) -> Path | None:
    folder = folder_of(source)
    return None if folder is None else find_parts(folder, source).pipeline


def _pipeline_where_it_was(packed: PackedModel) -> Path | None:
    place = place_of_source(packed)
    if Path(place).is_absolute() and not Path(place).exists():
        return None
    try:
        return _pipeline_of(place)
    except InputError:  # a relative path of effcli 0.1, or a hub that does not answer
        return None


def _may_be_latent(packed: PackedModel) -> bool:
    return packed.unet_class != "UNet2DModel" or packed.unet_config.get("in_channels") not in (1, 3)


def _refuse_missing(packed: PackedModel, part: str) -> NoReturn:
    source = place_of_source(packed)
    raise InputError(f"{part} of the full-precision model is missing", place=source, hint=_HINT)
