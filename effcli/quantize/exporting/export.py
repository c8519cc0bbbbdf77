"""`effcli quantize export`: a packed model for programs without effcli."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal

from effcli.core.progress import NOTICE
from effcli.core.runtime import DTYPES
from effcli.diffusion.folders import copy_parts, name_parts
from effcli.quantize.exporting.diffusers_folder import write_dequantized
from effcli.quantize.exporting.gguf_file import write_gguf
from effcli.quantize.exporting.losses import sentences, summarise
from effcli.quantize.exporting.torchao_folder import write_torchao
from effcli.quantize.loaded.source import find_pipeline
from effcli.quantize.weights import load_packed

log = logging.getLogger(__name__)

Format = Literal["diffusers", "gguf", "torchao"]


def export(
    place: str | Path, folder: Path, dtype: str, full_precision: str | None = None, to: Format = "diffusers"
) -> list[dict[str, Any]]:
    """Write a pipeline folder of diffusers: the network in a format of others, and the parts of the model it came from.

    Activations are not quantized there: these formats have no scales for each sampling step.

    Args:
        place: as of :func:`effcli.quantize.load`.
        folder: where to.
        dtype: of the network's weights where they are floating-point numbers: fp32, bf16 or fp16.
        full_precision: where the model is now that was quantized; None: where it was.
        to: ``diffusers``: dequantized; ``gguf``: the network in a GGUF file; ``torchao``: whole numbers of torchao.

    Returns:
        What became of the layers, by kind and format; see :func:`summarise`.

    Raises:
        InputError: the packed model, or a part of its pipeline, is not there or damaged; or the format cannot hold it.
        UsageError: the package for the format is missing, or the format has no such ``dtype``.
        RunError: the folder cannot be written.
    """
    packed = load_packed(place)
    pipeline = find_pipeline(packed, place, full_precision)
    write = {"diffusers": write_dequantized, "gguf": write_gguf, "torchao": write_torchao}[to]
    stored = write(packed, folder, DTYPES[dtype])
    if pipeline is not None:
        copy_parts(pipeline, folder)
        name_parts(pipeline, folder)
    rows = summarise(stored)
    for line in sentences(rows):
        log.log(NOTICE, "%s", line)
    if any(codes.activation_bits is not None for codes in packed.layers.values()):
        log.log(NOTICE, "activations are not quantized in what was written")
    return rows
