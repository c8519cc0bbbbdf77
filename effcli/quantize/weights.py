"""The packed file: ``diffusion_pytorch_model.safetensors`` beside a diffusers ``config.json`` that says how to read it.

For each quantized layer L (its path in the UNet)::

    L.qw{b}        uint8 [n_b, ceil(K b / 8)]   the rows of b bits, in increasing row number (see bit_packing.py)
    L.row_bits     uint8 [c_out]                the authority on which rows those are
    L.scale, L.zero              float32 [c_out]
    L.in_scale                   float32 [c_in]
    L.act_scale, L.act_zero      float32 [S]    absent where activations are not quantized
    L.bias                       as every parameter that is not quantized

The header's ``effcli.mpq`` says how it was made and for which timesteps, ``effcli.mpq.layers`` each layer's kind,
shape, geometry, rows by width and crc32 of its codes. Everything is checked when it is read.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Json, ValidationError
from torch import Tensor, nn

from effcli.core.errors import InputError
from effcli.core.files import make_folder, read_json, write_text
from effcli.core.tensor_file import save_tensors
from effcli.core.weight_file import Count, Header, first_mistake, make_within, one_line, read_weights
from effcli.diffusion.configs import check_scheduler_config, config_of, plain_config
from effcli.diffusion.models import empty_unet
from effcli.diffusion.sampler_settings import SamplerSettings
from effcli.quantize.integer.bit_packing import row_bytes
from effcli.quantize.packed_layer import LayerCodes, PaddingMode
from effcli.quantize.packed_rows import PackedRows, codes_of_file
from effcli.quantize.recipe import ConditionSection

FILE_NAME = "diffusion_pytorch_model.safetensors"
OLD_FILE_NAME = "diffusion_pytorch_model.mpq.safetensors"
"""What effcli 0.1 called it."""

QUANT_METHOD = "effcli_mpq"
"""How ``config.json`` names the format to diffusers."""

VERSION = 1
_Small = Annotated[int, Field(ge=0, le=2**10)]
_HINT = "it is damaged, or was changed after it was written: quantize again"


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


class LayerFacts(BaseModel):
    """What ``effcli.mpq.layers`` says of a layer."""

    model_config = ConfigDict(strict=True)

    kind: Literal["conv2d", "linear"]
    shape: Annotated[tuple[Count, ...], Field(min_length=2, max_length=4)]
    rows: dict[str, Count]
    geometry: dict[str, tuple[_Small, _Small]]
    activation_bits: Annotated[int, Field(ge=1, le=8)] | None
    bias: bool
    padding_mode: PaddingMode = "zeros"
    crc32: int


class PackedHeader(Header):
    """What is in the metadata; the version is inside, as the file says ``format: pt`` to other readers."""

    VERSION: ClassVar[str] = str(VERSION)

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
                f"its header cannot be read: {one_line(error)}", place=place, hint=_HINT
            ) from None
        if version != VERSION:
            what = f"is of version {version}, this effcli reads {VERSION}"
            raise InputError(what, place=place, hint="upgrade effcli")


@dataclass(frozen=True)
class PackedModel:
    """What a packed file holds.

    Attributes:
        about: how it was made (``effcli.mpq``): bits, sampler, timesteps, source, versions.
        layers: path -> codes.
        others: path -> every parameter that is not quantized, as stored.
        unet_class, unet_config: of the UNet.
        scheduler_config: of the scheduler it was made for.
        size_bytes: of the file that it was read from; 0 for one that has not been written.
    """

    about: dict[str, Any]
    layers: dict[str, LayerCodes]
    others: dict[str, Tensor]
    unet_class: str
    unet_config: dict[str, Any]
    scheduler_config: dict[str, Any]
    size_bytes: int = 0

    def sizes(self) -> dict[str, Any]:
        """Bits and bytes, counted over the quantized layers and over everything."""
        return {
            "mean_bits_quantized": self.mean_bits_quantized(),
            "bits_per_parameter": self.bits_per_parameter(),
            "size_bytes": self.size_bytes,
            "size_fp32_bytes": 4 * self.n_parameters(),
            "parameters": self.n_parameters(),
            "quantized_layers": len(self.layers),
        }

    def mean_bits_quantized(self) -> float:
        """Mean bits of a quantized weight."""
        total = sum(codes.rows.n_bits for codes in self.layers.values())
        return total / sum(codes.rows.n_weights for codes in self.layers.values())

    def bits_per_parameter(self) -> float:
        """Bits of the whole file's tensors, scales and tables counted, over the parameters of the model."""
        dtype = getattr(torch, self.about["other_dtype"])
        n_bytes = sum(value.numel() * value.element_size() for value in self.others.values())
        n_bytes += sum(_bytes_of_layer(codes, dtype) for codes in self.layers.values())
        return 8 * n_bytes / self.n_parameters()

    def n_parameters(self) -> int:
        """Parameters of the full-precision model."""
        biases = sum(0 if codes.bias is None else codes.bias.numel() for codes in self.layers.values())
        others = sum(value.numel() for value in self.others.values())
        return sum(codes.rows.n_weights for codes in self.layers.values()) + biases + others


def tensors_of(model: PackedModel) -> dict[str, Tensor]:
    """The file's tensors by name."""
    tensors = dict(model.others)
    dtype = getattr(torch, model.about["other_dtype"])
    for name, codes in model.layers.items():
        tensors |= {f"{name}.{part}": value for part, value in tensors_of_layer(codes, dtype).items()}
    return {name: value.contiguous() for name, value in tensors.items()}


def tensors_of_layer(codes: LayerCodes, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """A layer's tensors by the names in the first lines of this file, without the layer's; ``dtype`` is the bias's."""
    tensors = {f"qw{bits}": packed for bits, packed in sorted(codes.rows.in_file_order().items())}
    for part in ("row_bits", "scale", "zero", "in_scale"):
        tensors[part] = getattr(codes, part)
    if codes.activation_bits is not None:
        tensors["act_scale"], tensors["act_zero"] = codes.act_scale, codes.act_zero
    if codes.bias is not None:
        tensors["bias"] = codes.bias.to(dtype)
    return tensors


def _bytes_of_layer(codes: LayerCodes, dtype: torch.dtype) -> int:
    """Bytes of :func:`tensors_of_layer`, without making them."""
    vectors = (codes.scale, codes.zero, codes.in_scale, codes.act_scale, codes.act_zero)
    n_bytes = sum(packed.numel() for packed in codes.rows.by_bits.values()) + codes.row_bits.numel()
    n_bytes += sum(vector.numel() * vector.element_size() for vector in vectors)
    return n_bytes + (0 if codes.bias is None else codes.bias.numel() * dtype.itemsize)


def layer_from_tensors(name: str, like: LayerCodes, tensors: Mapping[str, Tensor]) -> LayerCodes:
    """A layer like ``like`` from other tensors of :func:`tensors_of_layer`, here named ``name.PART``.

    Raises:
        ValueError: they contradict each other or the layer.
        KeyError: one is missing.
    """
    widths, counts = tensors[f"{name}.row_bits"].unique(return_counts=True)
    described = _describe(like) | {"shape": like.shape, "geometry": like.geometry, "crc32": None}
    described["rows"] = {str(int(b)): int(n) for b, n in zip(widths, counts, strict=True)}
    return _read_layer(name, LayerFacts.model_construct(**described), dict(tensors))


def save_packed(folder: Path, model: PackedModel) -> Path:
    """Write the file, ``config.json`` and ``scheduler_config.json`` into ``folder``; returns the file.

    Raises:
        RunError: it cannot be written.
    """
    make_folder(folder)
    metadata = {
        "format": "pt",
        "effcli.mpq": json.dumps({"version": VERSION, **model.about}),
        "effcli.mpq.layers": json.dumps({name: _describe(codes) for name, codes in model.layers.items()}),
        "effcli.mpq.scheduler": json.dumps(model.scheduler_config),
    }
    file = folder / FILE_NAME
    save_tensors(file, tensors_of(model), metadata)
    config = {
        "_class_name": model.unet_class,
        **model.unet_config,
        "quantization_config": {"quant_method": QUANT_METHOD, "version": VERSION},
    }
    for name, content in (("config.json", config), ("scheduler_config.json", model.scheduler_config)):
        write_text(folder / name, json.dumps(content, indent=2) + "\n")
    return file


def _describe(codes: LayerCodes) -> dict[str, Any]:
    widths, counts = codes.row_bits.unique(return_counts=True)
    return {
        "kind": codes.kind,
        "shape": list(codes.shape),
        "rows": {str(int(b)): int(n) for b, n in zip(widths, counts, strict=True)},
        "geometry": {name: list(pair) for name, pair in codes.geometry.items()},
        "activation_bits": codes.activation_bits,
        "bias": codes.bias is not None,
        "padding_mode": codes.padding_mode,
        "crc32": zlib.crc32(codes.codes.numpy().tobytes()),
    }


def describe_layer(name: str, codes: LayerCodes) -> dict[str, Any]:
    """A row about a layer, for people."""
    widths, counts = codes.row_bits.unique(return_counts=True)
    split = " ".join(f"{int(n)}x{int(b)}" for b, n in zip(widths, counts, strict=True))
    n_bytes = sum(int(n) * row_bytes(codes.rows.n_codes, int(b)) for b, n in zip(widths, counts, strict=True))
    activations = (
        "-" if codes.activation_bits is None else f"{codes.activation_bits} bit x{len(codes.act_scale)}"
    )
    return {
        "layer": name,
        "kind": codes.kind,
        "shape": "x".join(map(str, codes.shape)),
        "rows_by_bits": split,
        "activations": activations,
        "bytes": n_bytes,
    }


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
            layers[name] = _read_layer(name, facts, tensors)
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            reason = f"lacks {error}" if isinstance(error, KeyError) else str(error)
            raise InputError(f"layer {name}: {reason}", place=str(file), hint=_HINT) from None
    config = read_json(file.parent / "config.json")
    config.pop("quantization_config", None)
    scheduler = header.scheduler  # where `from_pretrained` fetched from the hub what it knows of
    if scheduler is None or (file.parent / "scheduler_config.json").is_file():
        scheduler = read_json(file.parent / "scheduler_config.json")
    check_scheduler_config(scheduler, str(file.parent / "scheduler_config.json"))
    class_name = str(config.pop("_class_name", None))
    return PackedModel(about, layers, tensors, class_name, config, scheduler, file.stat().st_size)


def _read_layer(name: str, facts: LayerFacts, tensors: dict[str, Tensor]) -> LayerCodes:
    """Take a layer's tensors out of ``tensors``.

    Raises:
        ValueError: they contradict the header or each other.
        KeyError: one is missing.
    """
    shape = facts.shape
    _check_geometry(facts)
    row_bits = tensors.pop(f"{name}.row_bits")
    codes = _read_codes(name, facts, row_bits, tensors)
    none = torch.zeros(0)
    plain = facts.activation_bits is None
    layer = LayerCodes(
        kind=facts.kind,
        rows=PackedRows.of_codes(codes, row_bits, shape),
        scale=_vector(tensors, f"{name}.scale", shape[0]),
        zero=_vector(tensors, f"{name}.zero", shape[0]),
        in_scale=_vector(tensors, f"{name}.in_scale", shape[1]),
        activation_bits=facts.activation_bits,
        act_scale=none if plain else _vector(tensors, f"{name}.act_scale"),
        act_zero=none if plain else _vector(tensors, f"{name}.act_zero"),
        bias=_vector(tensors, f"{name}.bias", shape[0]) if facts.bias else None,
        geometry=facts.geometry,
        padding_mode=facts.padding_mode,
    )
    if not torch.equal(layer.zero, layer.zero.round()) or not torch.equal(
        layer.act_zero, layer.act_zero.round()
    ):
        raise ValueError("has zero-points that are no whole numbers")
    if len(layer.act_scale) != len(layer.act_zero) or (not plain and not len(layer.act_scale)):
        n = f"{len(layer.act_scale)} scales and {len(layer.act_zero)} zero-points"
        raise ValueError(f"has {n} of activations")
    return layer


def _check_geometry(facts: LayerFacts) -> None:
    is_conv = facts.kind == "conv2d"
    wanted = {"stride", "padding", "dilation"} if is_conv else set()
    if len(facts.shape) != (4 if is_conv else 2) or set(facts.geometry) != wanted:
        raise ValueError(f"is a {facts.kind} of the shape {facts.shape} with the geometry {facts.geometry}")
    if any(0 in facts.geometry[part] for part in ("stride", "dilation") if part in wanted):
        raise ValueError(f"has the geometry {facts.geometry}")


def _read_codes(name: str, facts: LayerFacts, row_bits: Tensor, tensors: dict[str, Tensor]) -> Tensor:
    """The codes, uint8 ``[c_out, K]``; nothing is allocated before what is packed has the size for it."""
    c_out, n_codes = facts.shape[0], math.prod(facts.shape[1:])
    if row_bits.shape != (c_out,) or row_bits.dtype != torch.uint8:
        raise ValueError(f"row_bits has the shape {tuple(row_bits.shape)}, not ({c_out},)")
    counts = {int(b): int(n) for b, n in zip(*row_bits.unique(return_counts=True), strict=True)}
    if {str(bits): n for bits, n in counts.items()} != facts.rows:
        raise ValueError(f"has rows of {counts} bits, its header says {facts.rows}")
    for bits, n_rows in counts.items():
        if not 1 <= bits <= 8:
            raise ValueError(f"has rows of {bits} bits")
        packed, wanted = tensors[f"{name}.qw{bits}"], (n_rows, row_bytes(n_codes, bits))
        if packed.shape != wanted or packed.dtype != torch.uint8:
            raise ValueError(f"qw{bits} has the shape {tuple(packed.shape)}, not {wanted}")
    by_bits = {bits: tensors.pop(f"{name}.qw{bits}") for bits in counts}
    codes = codes_of_file(by_bits, row_bits, n_codes)
    if facts.crc32 is not None and zlib.crc32(codes.numpy().tobytes()) != facts.crc32:
        raise ValueError("its codes have another checksum than its header says")
    return codes


def _vector(tensors: dict[str, Tensor], name: str, length: int | None = None) -> Tensor:
    value = tensors.pop(name).float()
    if (
        value.ndim != 1
        or (length is not None and len(value) != length)
        or not bool(torch.isfinite(value).all())
    ):
        raise ValueError(f"{name.rpartition('.')[2]} is not a vector of {length or 'some'} finite numbers")
    return value


def skeleton(model: PackedModel) -> nn.Module:
    """The UNet with everything that is not quantized, in float32; the quantized layers still hold no values.

    Raises:
        InputError: the parameters are not those of this UNet.
    """

    def make() -> nn.Module:
        return empty_unet(model.unet_class, model.unet_config)

    unet = make_within(make, model.n_parameters(), len(model.others) + 2 * len(model.layers), "config.json")
    check_fits(unet, model)
    values = {name: value.float() for name, value in model.others.items()}
    unet.load_state_dict(values, strict=False, assign=True)
    return unet.requires_grad_(False).eval()


def check_fits(unet: nn.Module, model: PackedModel) -> None:
    """Refuse a UNet that is not the one of the packed model.

    Raises:
        InputError: a parameter has another name or shape, or a layer is of another kind.
    """
    shapes = {name: value.shape for name, value in unet.state_dict().items()}
    shapes_here = {name: value.shape for name, value in model.others.items()}
    for name, codes in model.layers.items():
        shapes_here[f"{name}.weight"] = torch.Size(codes.shape)
        if codes.bias is not None:
            shapes_here[f"{name}.bias"] = codes.bias.shape
    wrong = [name for name in {**shapes, **shapes_here} if shapes.get(name) != shapes_here.get(name)]
    if wrong:
        raise InputError(f"{wrong[0]} does not fit its config.json", hint=_HINT)
    for name, codes in model.layers.items():
        if not _is_layer(unet.get_submodule(name), codes):
            raise InputError(f"layer {name} is another one in config.json", hint=_HINT)


def _is_layer(module: nn.Module, codes: LayerCodes) -> bool:
    if codes.kind == "linear":
        return isinstance(module, nn.Linear)
    return isinstance(module, nn.Conv2d) and all(
        tuple(getattr(module, part)) == pair for part, pair in codes.geometry.items()
    )


def about_unet(unet: nn.Module, scheduler_config: Mapping[str, Any]) -> dict[str, Any]:
    """Class and configurations of a UNet, as :class:`PackedModel` has them."""
    return {
        "unet_class": type(unet).__name__,
        "unet_config": {k: v for k, v in config_of(unet).items() if not k.startswith("_")},
        "scheduler_config": plain_config(scheduler_config),
    }
