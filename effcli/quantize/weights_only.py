"""Weights alone: no sampling and no fine-tuning; each layer is read, quantized and packed before the next is read.

The error that decides between splits of the bits is that of the weights, || W_o - Q(W_o; b) ||^2: the error of the
layer's output for inputs that are uncorrelated and of equal size. In memory are the packed model and one layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from effcli.core.runtime import DTYPES
from effcli.quantize.allocation import total_error, uniform_bits
from effcli.quantize.fake_quantization.codebooks import column_scale
from effcli.quantize.fake_quantization.layers import EDGE_BITS, FoundLayer, find_layers, per_input
from effcli.quantize.fake_quantization.row_formats import Codes, RowFormat, find_format, mixed
from effcli.quantize.integer.bit_packing import row_bytes
from effcli.quantize.mpq_dm import allocate
from effcli.quantize.packed.layer import LayerCodes, form_of
from effcli.quantize.packed.rows import PackedRows
from effcli.quantize.recipe import MpqDmRecipe
from effcli.quantize.unread_models import UnreadModel


@dataclass
class PackedWeights:
    """A model's weights, packed.

    Attributes:
        layers: path -> codes.
        others: path -> everything else, as the file stores it.
        rows: per layer its path, ``rows`` by bits, and where there was a choice ``error_to_uniform``.
        error, size: squared error of the quantized weights, and their squares.
    """

    layers: dict[str, LayerCodes] = field(default_factory=dict)
    others: dict[str, Tensor] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    error: float = 0.0
    size: float = 0.0


@torch.no_grad()
def pack_weights(
    source: UnreadModel, recipe: MpqDmRecipe, advance: Callable[[], None] = lambda: None
) -> PackedWeights:
    """Quantize the weights of a model, layer by layer.

    Args:
        source: the model.
        recipe: bits, allocation, how ranges are found, the type of what is not quantized.
        advance: called after each layer; raises to stop.
    """
    network = source.model.unet
    dtype = DTYPES[recipe.packing.other_dtype]
    packed = PackedWeights()
    for found in find_layers(network, recipe.allocation.profile):
        weight = source.read(f"{found.name}.weight").float()
        bias = None if found.layer.bias is None else source.read(f"{found.name}.bias").to(dtype).float()
        codes, row = quantize_weight(found, weight, bias, recipe)
        packed.layers[found.name] = codes
        packed.rows.append({"layer": found.name, **row})
        packed.error += float((codes.weight() - weight).square().sum(dtype=torch.float64))
        packed.size += float(weight.square().sum(dtype=torch.float64))
        advance()
    for name in network.state_dict():
        if name.rpartition(".")[0] not in packed.layers:
            value = source.read(name)
            packed.others[name] = value.to(dtype if value.is_floating_point() else value.dtype)
    return packed


def quantize_weight(
    found: FoundLayer, weight: Tensor, bias: Tensor | None, recipe: MpqDmRecipe
) -> tuple[LayerCodes, dict[str, Any]]:
    """One layer, and how its rows are split.

    Args:
        found: which; the values of its weight are not read.
        weight: float32 ``[c_out, c_in, ...]``.
        bias: as the file will store it.
        recipe: the settings.
    """
    bits = EDGE_BITS if found.is_edge else recipe.widths.weights
    codes: Codes = "affine" if found.is_edge else recipe.weights.codes
    in_scale = column_scale(weight) if codes == "codebook" else torch.ones(weight.shape[1])
    rows = (weight / per_input(in_scale, weight)).flatten(1)
    importance = in_scale.square()
    method = recipe.calibration.range_method
    row: dict[str, Any] = {}
    if found.is_edge or not 2 <= bits <= 7 or recipe.allocation.rule == "uniform":
        row_bits = uniform_bits(len(rows), bits)
        chosen = find_format(rows, bits, codes, method, importance)
    else:
        formats = {b: find_format(rows, b, codes, method, importance) for b in (bits - 1, bits, bits + 1)}
        by_column = importance.repeat_interleave(rows.shape[1] // len(importance))
        errors = {b: ((one.quantized(rows) - rows).square() * by_column).sum(1) for b, one in formats.items()}
        row_bits = allocate(rows, errors, bits, recipe.allocation)
        chosen = mixed(formats, row_bits)
        uniform = total_error(uniform_bits(len(rows), bits), errors)
        row["error_to_uniform"] = total_error(row_bits, errors) / max(uniform, 1e-30)
    layer = _layer_codes(found.layer, chosen.codes(rows), row_bits, chosen, in_scale, bias)
    row["rows"] = {str(bits): n for bits, n in layer.rows.counts().items()}
    return layer, row


def _layer_codes(
    layer: nn.Conv2d | nn.Linear,
    codes: Tensor,
    row_bits: Tensor,
    chosen: RowFormat,
    in_scale: Tensor,
    bias: Tensor | None,
) -> LayerCodes:
    none = torch.zeros(0)
    return LayerCodes(
        **form_of(layer),
        rows=PackedRows.of_codes(codes, row_bits, tuple(layer.weight.shape), chosen.table),
        scale=chosen.scale,
        zero=chosen.zero,
        in_scale=in_scale,
        activation_bits=None,
        act_scale=none,
        act_zero=none,
        bias=bias,
    )


def packed_bytes(network: nn.Module, recipe: MpqDmRecipe, *, n_steps: int = 1) -> int:
    """About how large the packed file of a network will be, in bytes; no weight is read.

    Args:
        network: its weights may be on the device ``meta``.
        recipe: bits, profile, the type of what is not quantized.
        n_steps: sampling steps that have a scale of activations each.
    """
    layers = find_layers(network, recipe.allocation.profile)
    other_bytes = torch.empty((), dtype=DTYPES[recipe.packing.other_dtype]).element_size()
    total, in_layers = 0, 0
    for found in layers:
        c_out, c_in = found.layer.weight.shape[:2]
        n_codes = found.layer.weight[0].numel()
        bits = EDGE_BITS if found.is_edge else recipe.widths.weights
        by_row = 9 if found.is_edge or recipe.weights.codes == "affine" else 5 + 2**bits
        total += c_out * row_bytes(n_codes, bits) + by_row * c_out + 4 * c_in
        if recipe.widths.activations is not None:
            total += 8 * (1 if found.is_edge else n_steps)
        in_layers += c_out * n_codes
    values: int = sum(value.numel() for value in network.state_dict().values())
    return total + other_bytes * (values - in_layers)
