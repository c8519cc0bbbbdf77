"""A packed model as an ordinary diffusers folder."""

from __future__ import annotations

import json
from pathlib import Path

from effcli.core.files import make_folder, write_text
from effcli.core.runtime import DTYPES
from effcli.core.tensor_file import save_tensors
from effcli.quantize.packed_file import load_packed
from effcli.quantize.unet import dequantize


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
    unet = dequantize(packed)
    for part in ("unet", "scheduler"):
        make_folder(folder / part)
    tensors = {
        name: value.to(DTYPES[dtype]) if value.is_floating_point() else value
        for name, value in unet.state_dict().items()
    }
    save_tensors(folder / "unet" / "diffusion_pytorch_model.safetensors", tensors, {"format": "pt"})
    scheduler_class = packed.scheduler_config.get("_class_name", "DDIMScheduler")
    pipeline = "DDIMPipeline" if packed.unet_class == "UNet2DModel" else "DiffusionPipeline"
    contents = {
        "unet/config.json": {"_class_name": packed.unet_class, **packed.unet_config},
        "scheduler/scheduler_config.json": packed.scheduler_config,
        "model_index.json": {
            "_class_name": pipeline,
            "unet": ["diffusers", packed.unet_class],
            "scheduler": ["diffusers", scheduler_class],
        },
    }
    for name, content in contents.items():
        write_text(folder / name, json.dumps(content, indent=2) + "\n")
