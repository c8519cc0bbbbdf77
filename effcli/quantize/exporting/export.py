"""`effcli quantize export`: a packed model for programs without effcli."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal

from effcli.core.progress import NOTICE
from effcli.core.runtime import DTYPES
from effcli.diffusion.denoisers.classes import denoiser_class
from effcli.diffusion.folders import copy_parts, name_parts
from effcli.quantize.exporting.diffusers_folder import write_dequantized
from effcli.quantize.exporting.gguf_file import write_gguf
from effcli.quantize.exporting.losses import sentences, summarise
from effcli.quantize.exporting.torchao_folder import write_torchao
from effcli.quantize.loaded.source import find_pipeline
from effcli.quantize.weights import load_packed

log = logging.getLogger(__name__)

Format = Literal["diffusers", "gguf", "torchao"]
WEIGHTS_STEM = "diffusion_pytorch_model"
"""How names of a network's weight files begin in diffusers."""


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
    part = folder / denoiser_class(packed.unet_class).part
    before = _weights_in(part)
    stored = write(packed, folder, DTYPES[dtype])
    for file, changed in before.items():
        if _weights_in(part).get(file) == changed:
            file.unlink()  # of an export in another format, which readers may prefer
    if pipeline is not None:
        copy_parts(pipeline, folder)
        name_parts(pipeline, folder)
    rows = summarise(stored)
    for line in sentences(rows):
        log.log(NOTICE, "%s", line)
    if any(codes.activation_bits is not None for codes in packed.layers.values()):
        log.log(NOTICE, "activations are not quantized in what was written")
    return rows


def _weights_in(part: Path) -> dict[Path, int]:
    """The network's weight files and their indices, and when each was written."""
    return {file: file.stat().st_mtime_ns for file in part.glob(f"{WEIGHTS_STEM}*") if file.is_file()}
