"""A packed model as an ordinary diffusers folder."""

from __future__ import annotations

from pathlib import Path

from effcli.core.runtime import DTYPES
from effcli.diffusion.models import save_folder
from effcli.quantize.loading import dequantize
from effcli.quantize.weights import load_packed


def export_diffusers(place: str | Path, folder: Path, dtype: str) -> None:
    """Write a pipeline folder (`model_index.json`, `unet/`, `scheduler/`) with the dequantized weights.

    Activations are not quantized there: other tools have no such thing. A conditional model's text encoder and decoder
    stay with the model it came from.

    Args:
        place: as of `load`.
        folder: where to.
        dtype: of the weights: fp32, bf16 or fp16.

    Raises:
        InputError: the packed model cannot be read.
        RunError: the folder cannot be written.
    """
    packed = load_packed(place)
    save_folder(folder, dequantize(packed), packed.scheduler_config, dtype=DTYPES[dtype])
