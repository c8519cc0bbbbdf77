"""Sizes, packing time and memory for the UNets of the paper and Stable Diffusion 1.5, with random weights.

    python benchmarks/packing.py [--json FILE] [--bits 2] [--models imagenet bedroom sd15]

Layers are rounded to the nearest codes (no calibration), packed, written, read and checked. Memory is the peak of a
process that does nothing else, the float32 model included.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from effcli.core.evidence.records import write_record
from effcli.diffusion.models import DiffusionModel
from effcli.quantize.calibration import set_uniform_rows
from effcli.quantize.fake_quantization.layers import EDGE_BITS, quantized_layers
from effcli.quantize.mpq_dm import wrap_for
from effcli.quantize.pipeline import pack
from effcli.quantize.recipe import MpqDmRecipe
from effcli.quantize.weights import load_packed, save_packed

SCHEDULER = {"_class_name": "DDIMScheduler", "num_train_timesteps": 1000}
PLAIN, ATTENTION, CROSS = "DownBlock2D", "AttnDownBlock2D", "CrossAttnDownBlock2D"


def build(name: str) -> nn.Module:
    """The UNets by diffusers' names."""
    from diffusers import UNet2DConditionModel, UNet2DModel

    torch.manual_seed(0)
    if name == "imagenet":
        return UNet2DConditionModel(
            sample_size=64, in_channels=3, out_channels=3, block_out_channels=(192, 384, 576, 960),
            down_block_types=(PLAIN, CROSS, CROSS, CROSS), cross_attention_dim=512, attention_head_dim=32,
            up_block_types=(*["CrossAttnUpBlock2D"] * 3, "UpBlock2D"),
        )  # fmt: skip
    if name == "bedroom":
        return UNet2DModel(
            sample_size=64, block_out_channels=(224, 448, 672, 896), attention_head_dim=32,
            down_block_types=(PLAIN, ATTENTION, ATTENTION, ATTENTION),
            up_block_types=(*["AttnUpBlock2D"] * 3, "UpBlock2D"),
        )  # fmt: skip
    return UNet2DConditionModel(
        sample_size=64,
        block_out_channels=(320, 640, 1280, 1280),
        cross_attention_dim=768,
        attention_head_dim=8,
    )


def measure(name: str, bits: int, profile: str) -> dict[str, Any]:
    unet = build(name).eval().requires_grad_(False)
    recipe = MpqDmRecipe.model_validate(
        {
            "bits": f"w{bits}a8",
            "sampler": {"steps": 20},
            "allocation": {"rule": "uniform", "profile": profile},
        }
    )
    model = DiffusionModel(unet, SCHEDULER, name)
    student = wrap_for(recipe, model)
    for _, layer in quantized_layers(student):
        set_uniform_rows(layer, EDGE_BITS if layer.is_edge else bits, "max")
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        file = save_packed(Path(folder), pack(student, model, recipe))
        packed_s = time.perf_counter() - started
        started = time.perf_counter()
        packed = load_packed(folder)
        loaded_s = time.perf_counter() - started
        size = file.stat().st_size
    peak = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
    return {
        "model": name,
        "profile": profile,
        "parameters": packed.n_parameters(),
        "layers": len(packed.layers),
        "fp32_mib": round(4 * packed.n_parameters() / 2**20, 1),
        "file_mib": round(size / 2**20, 1),
        "mean_bits_quantized": round(packed.mean_bits_quantized(), 3),
        "bits_per_parameter": round(packed.bits_per_parameter(), 3),
        "pack_s": round(packed_s, 1),
        "load_s": round(loaded_s, 1),
        "peak_gib": round(int(peak) / 2**20, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--bits", type=int, default=2)
    parser.add_argument("--models", nargs="*", default=["imagenet", "bedroom", "sd15"])
    options = parser.parse_args()
    rows = []
    for name in options.models:
        for profile in ("main-path", "all"):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                rows.append(pool.apply(measure, (name, options.bits, profile)))
            print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    write_record(options.json, rows, sys.argv)


if __name__ == "__main__":
    main()
