"""A packed layer as named tensors and facts, written and read: what `effcli.mpq.layers` and each ``L.PART`` hold.

The names of the tensors are in the first lines of :mod:`effcli.quantize.weights`.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from effcli.core.weight_file import Count
from effcli.quantize.fake_quantization.codebooks import MIDDLE, MOST_BITS
from effcli.quantize.fake_quantization.row_formats import padded
from effcli.quantize.integer.bit_packing import row_bytes
from effcli.quantize.packed.layer import LayerCodes, PaddingMode
from effcli.quantize.packed.rows import PackedRows, codes_of_file

_Small = Annotated[int, Field(ge=0, le=2**10)]


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
    codes: Literal["affine", "codebook"] = "affine"
    crc32: int


def tensors_of_layer(codes: LayerCodes, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """A layer's tensors by their names in the file, without the layer's; ``dtype`` is the bias's."""
    tensors = {f"qw{bits}": packed for bits, packed in sorted(codes.rows.in_file_order().items())}
    tensors["row_bits"], table = codes.rows.row_bits, codes.rows.table
    for part in ("scale", "in_scale") if table is not None else ("scale", "zero", "in_scale"):
        tensors[part] = getattr(codes, part)
    if table is not None:
        for bits in codes.rows.counts():
            tensors[f"qt{bits}"] = table[codes.rows.rows_of(bits), : 2**bits]
    if codes.activation_bits is not None:
        tensors["act_scale"], tensors["act_zero"] = codes.act_scale, codes.act_zero
    if codes.bias is not None:
        tensors["bias"] = codes.bias.to(dtype)
    return tensors


def bytes_of_layer(codes: LayerCodes, dtype: torch.dtype) -> int:
    """Bytes of :func:`tensors_of_layer`, without making them."""
    vectors = [codes.scale, codes.in_scale, codes.act_scale, codes.act_zero]
    n_bytes = sum(packed.numel() for packed in codes.rows.by_bits.values()) + codes.rows.row_bits.numel()
    if codes.rows.table is None:
        vectors.append(codes.zero)
    else:
        n_bytes += sum(n * 2**bits for bits, n in codes.rows.counts().items())
    n_bytes += sum(vector.numel() * vector.element_size() for vector in vectors)
    return n_bytes + (0 if codes.bias is None else codes.bias.numel() * dtype.itemsize)


def layer_from_tensors(name: str, like: LayerCodes, tensors: Mapping[str, Tensor]) -> LayerCodes:
    """A layer like ``like`` from other tensors of :func:`tensors_of_layer`, here named ``name.PART``.

    Raises:
        ValueError: they contradict each other or the layer.
        KeyError: one is missing.
    """
    widths, counts = tensors[f"{name}.row_bits"].unique(return_counts=True)
    described = facts_of_layer(like) | {"shape": like.shape, "geometry": like.geometry, "crc32": None}
    described["rows"] = {str(int(b)): int(n) for b, n in zip(widths, counts, strict=True)}
    return read_layer(name, LayerFacts.model_construct(**described), dict(tensors))


def facts_of_layer(codes: LayerCodes) -> dict[str, Any]:
    """What :class:`LayerFacts` reads again."""
    return {
        "kind": codes.kind,
        "shape": list(codes.shape),
        "rows": {str(bits): n for bits, n in codes.rows.counts().items()},
        "geometry": {name: list(pair) for name, pair in codes.geometry.items()},
        "activation_bits": codes.activation_bits,
        "bias": codes.bias is not None,
        "padding_mode": codes.padding_mode,
        **({} if codes.rows.table is None else {"codes": "codebook"}),
        "crc32": _checksum(codes.rows.packed_codes(), codes.rows.table),
    }


def _checksum(packed_codes: Tensor, table: Tensor | None) -> int:
    checksum = zlib.crc32(packed_codes.numpy().tobytes())
    return checksum if table is None else zlib.crc32(table.numpy().tobytes(), checksum)


def describe_layer(name: str, codes: LayerCodes) -> dict[str, Any]:
    """A row about a layer, for people."""
    split = " ".join(f"{n}x{bits}" for bits, n in codes.rows.counts().items())
    n_bytes = sum(packed.numel() for packed in codes.rows.by_bits.values())
    activations = (
        "-" if codes.activation_bits is None else f"{codes.activation_bits} bit x{len(codes.act_scale)}"
    )
    return {
        "layer": name,
        "kind": codes.kind,
        "shape": "x".join(map(str, codes.shape)),
        "rows_by_bits": split + ("" if codes.rows.table is None else " codebook"),
        "activations": activations,
        "bytes": n_bytes,
    }


def read_layer(name: str, facts: LayerFacts, tensors: dict[str, Tensor]) -> LayerCodes:
    """Take a layer's tensors out of ``tensors``.

    Raises:
        ValueError: they contradict the header or each other.
        KeyError: one is missing.
    """
    shape = facts.shape
    _check_geometry(facts)
    row_bits = tensors.pop(f"{name}.row_bits")
    codes, table = _read_codes(name, facts, row_bits, tensors)
    none = torch.zeros(0)
    plain = facts.activation_bits is None
    layer = LayerCodes(
        kind=facts.kind,
        rows=PackedRows.of_codes(codes, row_bits, shape, table),
        scale=_vector(tensors, f"{name}.scale", shape[0]),
        zero=_vector(tensors, f"{name}.zero", shape[0])
        if table is None
        else torch.full((shape[0],), float(MIDDLE)),
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
        raise ValueError("has zero-points that are not whole numbers")
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


def _read_codes(
    name: str, facts: LayerFacts, row_bits: Tensor, tensors: dict[str, Tensor]
) -> tuple[Tensor, Tensor | None]:
    """The codes as they are packed, uint8 ``[c_out, K]``, and codebooks; nothing is allocated before what is packed has
    the size for it.
    """
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
    table = _read_table(name, counts, row_bits, tensors) if facts.codes == "codebook" else None
    if facts.crc32 is not None and _checksum(codes, table) != facts.crc32:
        raise ValueError("the checksum of its codes is not that of its header")
    return codes, table


def _read_table(name: str, counts: dict[int, int], row_bits: Tensor, tensors: dict[str, Tensor]) -> Tensor:
    """The codebook of each row, uint8 ``[c_out, 2^b]`` with the largest b."""
    if max(counts) > MOST_BITS:
        raise ValueError(f"has codebooks for {max(counts)} bits")
    table = torch.zeros(len(row_bits), 2 ** max(counts), dtype=torch.uint8)
    for bits, n_rows in counts.items():
        own = tensors.pop(f"{name}.qt{bits}")
        if own.shape != (n_rows, 2**bits) or own.dtype != torch.uint8:
            raise ValueError(f"qt{bits} has the shape {tuple(own.shape)}, not {(n_rows, 2**bits)}")
        table[row_bits == bits] = padded(own, table.shape[1])
    return table


def _vector(tensors: dict[str, Tensor], name: str, length: int | None = None) -> Tensor:
    value = tensors.pop(name).float()
    if (
        value.ndim != 1
        or (length is not None and len(value) != length)
        or not bool(torch.isfinite(value).all())
    ):
        raise ValueError(f"{name.rpartition('.')[2]} is not a vector of {length or 'some'} finite numbers")
    return value
