"""A packed model as an ordinary folder of diffusers, dequantized."""

from __future__ import annotations

from pathlib import Path

import torch

from effcli.diffusion.models import save_folder
from effcli.quantize.exporting.losses import NOT_QUANTIZED, Stored, relative_error, rounded, short_name
from effcli.quantize.packed.layer_tensors import bytes_of_layer
from effcli.quantize.packed.model import PackedModel
from effcli.quantize.packed_unet import dequantize


def write_dequantized(model: PackedModel, folder: Path, dtype: torch.dtype) -> list[Stored]:
    """Write ``model`` into a pipeline folder.

    Args:
        model: it.
        folder: of the pipeline.
        dtype: of all weights.

    Returns:
        What became of each layer and of each other tensor.

    Raises:
        InputError: a number does not fit ``dtype``.
        RunError: it cannot be written.
    """
    network = dequantize(model)
    values = network.state_dict()
    of_biases = getattr(torch, model.about["other_dtype"])
    kinds = {f"{name}.weight": codes for name, codes in model.layers.items()}
    biases = {f"{name}.bias" for name in model.layers}
    stored = []
    for name in (*kinds, *model.others):
        error = relative_error(rounded(values[name], dtype, name), values[name])
        n_numbers, codes = values[name].numel(), kinds.get(name)
        if codes is None:
            n_packed = model.others[name].numel() * model.others[name].element_size()
        else:
            n_packed = bytes_of_layer(codes, of_biases)
            n_numbers += 0 if codes.bias is None else len(codes.bias)
        kind = NOT_QUANTIZED if codes is None else codes.kind
        stored.append(Stored(kind, short_name(dtype), n_numbers * dtype.itemsize, n_packed, error))
    for name in biases & values.keys():
        rounded(values[name], dtype, name)
    save_folder(folder, network, model.scheduler_config, dtype=dtype)
    return stored
