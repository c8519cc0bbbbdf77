"""The packed file: ``diffusion_pytorch_model.safetensors`` beside a diffusers ``config.json`` that says how to read it.

For each quantized layer L (its path in the UNet)::

    L.qw{b}        uint8 [n_b, ceil(K b / 8)]   the rows of b bits, in increasing row number (see bit_packing.py)
    L.row_bits     uint8 [c_out]                the authority on which rows those are
    L.scale, L.zero              float32 [c_out]            no zero where there are codebooks
    L.qt{b}      uint8 [n_b, 2^b]               codebooks of those rows, where their codes are places in one
    L.in_scale                   float32 [c_in]
    L.act_scale, L.act_zero      float32 [S]    absent where activations are not quantized
    L.bias                       as every parameter that is not quantized

The header's ``effcli.mpq`` says how it was made and for which timesteps, ``effcli.mpq.layers`` each layer's kind,
shape, geometry, rows by width and crc32 of its codes. Everything is checked when it is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Json, ValidationError

from effcli.core.errors import InputError
from effcli.core.files import make_folder, read_json, write_text
from effcli.core.tensor_file import save_tensors
from effcli.core.weight_file import Header, first_mistake, one_line, read_weights
from effcli.diffusion.configs import check_scheduler_config
from effcli.diffusion.sampler_settings import ConditionSection, SamplerSettings
from effcli.quantize.loaded.registration import QUANT_METHOD
from effcli.quantize.packed.layer_tensors import LayerFacts, facts_of_layer, read_layer
from effcli.quantize.packed.model import DAMAGED, PackedModel, tensors_of

FILE_NAME = "diffusion_pytorch_model.safetensors"
OLD_FILE_NAME = "diffusion_pytorch_model.mpq.safetensors"
"""What effcli 0.1 called it."""

VERSIONS = (1, 2)
"""1 has affine codes alone, 2 codebooks."""


class PackedSource(BaseModel):
    """The full-precision model that was quantized."""

    model_config = ConfigDict(strict=True, extra="allow")

    id: str
    sha256: str | None


class PackedAbout(BaseModel):
    """What of ``effcli.mpq`` is used again; the rest is for people."""

    model_config = ConfigDict(strict=True, extra="allow")

    method: str
    bits: str
    timesteps: Annotated[list[Annotated[float, Field(gt=-(10**6), lt=10**6)]], Field(min_length=1)]
    sampler: SamplerSettings
    condition: ConditionSection
    other_dtype: Literal["float32", "float16", "bfloat16"]
    source: PackedSource


def _checked(about: dict[str, Any]) -> dict[str, Any]:
    """The same, if it is what :class:`PackedAbout` says."""
    try:
        PackedAbout.model_validate(about)
    except ValidationError as error:
        raise ValueError(first_mistake(error)) from None
    return about


class PackedHeader(Header):
    """What is in the metadata; the version is inside, as the file says ``format: pt`` to other readers."""

    VERSION: ClassVar[str] = str(VERSIONS[-1])

    about: Json[Annotated[dict[str, Any], AfterValidator(_checked)]] = Field(alias="effcli.mpq")
    layers: Json[dict[str, LayerFacts]] = Field(alias="effcli.mpq.layers")
    scheduler: Json[dict[str, Any]] | None = Field(None, alias="effcli.mpq.scheduler")

    @classmethod
    def require(cls, metadata: Mapping[str, str], place: str) -> None:
        """Refuse other files and other versions."""
        if "effcli.mpq" not in metadata:
            raise InputError("is not a packed model of `effcli quantize`", place=place)
        try:
            version = json.loads(metadata["effcli.mpq"])["version"]
        except (KeyError, ValueError, TypeError, IndexError, RecursionError) as error:
            raise InputError(
                f"its header cannot be read: {one_line(error)}", place=place, hint=DAMAGED
            ) from None
        if version not in VERSIONS:
            what = f"is of version {version}, this effcli reads {VERSIONS[-1]} and below"
            raise InputError(what, place=place, hint="upgrade effcli")


def save_packed(folder: Path, model: PackedModel) -> Path:
    """Write the file, ``config.json`` and ``scheduler_config.json`` into ``folder``; returns the file.

    Raises:
        RunError: it cannot be written.
    """
    make_folder(folder)
    version = 1 if all(codes.rows.table is None for codes in model.layers.values()) else 2
    metadata = {
        "format": "pt",
        "effcli.mpq": json.dumps({"version": version, **model.about}),
        "effcli.mpq.layers": json.dumps(
            {name: facts_of_layer(codes) for name, codes in model.layers.items()}
        ),
        "effcli.mpq.scheduler": json.dumps(model.scheduler_config),
    }
    file = folder / FILE_NAME
    save_tensors(file, tensors_of(model), metadata)
    config = {
        "_class_name": model.unet_class,
        **model.unet_config,
        "quantization_config": {"quant_method": QUANT_METHOD, "version": version},
    }
    for name, content in (("config.json", config), ("scheduler_config.json", model.scheduler_config)):
        write_text(folder / name, json.dumps(content, indent=2) + "\n")
    return file


def find_packed(place: str | Path) -> Path:
    """The packed file of a run directory, a model folder, a pipeline that was saved with it, or the file itself.

    Raises:
        InputError: there is none.
    """
    path = Path(place)
    folders = (path, *(path / name for name in ("model", "unet", "transformer")))
    for candidate in (path, *(folder / name for name in (OLD_FILE_NAME, FILE_NAME) for folder in folders)):
        if candidate.is_file():
            return candidate
    if (path / "recipe.yaml").is_file():
        raise InputError("this run is not finished: there is no packed model", place=str(place))
    what = "no such file or folder" if not path.exists() else f"no packed model in it ({FILE_NAME})"
    raise InputError(what, place=str(place), hint="name the output of `effcli quantize`")


def load_packed(place: str | Path) -> PackedModel:
    """Read a packed model and check all of it.

    Raises:
        InputError: none is there; it is foreign, truncated, edited, or of a newer version.
    """
    file = find_packed(place)
    header, tensors = read_weights(file, str(file), PackedHeader)
    about = {key: value for key, value in header.about.items() if key != "version"}
    layers = {}
    for name, facts in header.layers.items():
        try:
            layers[name] = read_layer(name, facts, tensors)
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            reason = f"lacks {error}" if isinstance(error, KeyError) else str(error)
            raise InputError(f"layer {name}: {reason}", place=str(file), hint=DAMAGED) from None
    config = read_json(file.parent / "config.json")
    config.pop("quantization_config", None)
    scheduler = header.scheduler  # where `from_pretrained` fetched from the hub what it knows of
    if scheduler is None or (file.parent / "scheduler_config.json").is_file():
        scheduler = read_json(file.parent / "scheduler_config.json")
    check_scheduler_config(scheduler, str(file.parent / "scheduler_config.json"))
    class_name = str(config.pop("_class_name", None))
    return PackedModel(about, layers, tensors, class_name, config, scheduler, file.stat().st_size)
