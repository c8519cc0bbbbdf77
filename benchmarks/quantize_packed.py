"""Packed rows in memory against rows kept as int8 and float32, and the search for ranges against the full one.

    python benchmarks/quantize_packed.py [--json FILE] [--batch 16] [--bits w2a8 w4a8 w4] [--repeats 3]

The UNet of DDPM on CIFAR-10 (35.7 M parameters, 32x32) with random weights and rough ranges, which change no time. Each
form has a process of its own. Seconds are the processor's; memory is what the process has beyond the libraries:
resident after two calls, and at most. `int8` keeps every weight unpacked in the order of oneDNN, as before rows stayed
packed.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from effcli.core.evidence.records import write_record
from effcli.diffusion.models import DiffusionModel, build_unet
from effcli.quantize.calibration import set_uniform_rows
from effcli.quantize.fake_quantization.layers import EDGE_BITS, quantized_layers
from effcli.quantize.fake_quantization.quantizer import SMALLEST_SCALE, codes_of, find_range, top_code
from effcli.quantize.integer import layer as integer_layer
from effcli.quantize.loaded.network import loaded_layers
from effcli.quantize.mpq_dm import wrap_for
from effcli.quantize.packed_unet import load
from effcli.quantize.pipeline import pack
from effcli.quantize.recipe import MpqDmRecipe
from effcli.quantize.weights import save_packed

CIFAR_UNET = {
    "sample_size": 32,
    "block_out_channels": [128, 256, 256, 256],
    "layers_per_block": 2,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "attention_head_dim": None,
}
SCHEDULER = {"_class_name": "DDPMScheduler", "num_train_timesteps": 1000, "clip_sample": True}


def cifar_unet() -> nn.Module:
    torch.manual_seed(0)
    return build_unet("UNet2DModel", CIFAR_UNET).eval().requires_grad_(False)


def save(folder: Path, bits: str) -> None:
    """A packed model with rough ranges."""
    recipe = MpqDmRecipe.model_validate(
        {"bits": bits, "sampler": {"steps": 4}, "allocation": {"rule": "uniform"}}
    )
    model = DiffusionModel(cifar_unet(), SCHEDULER, "random weights")
    student = wrap_for(recipe, model)
    for _, layer in quantized_layers(student):
        set_uniform_rows(layer, EDGE_BITS if layer.is_edge else recipe.widths.weights, "max")
        with torch.no_grad():
            layer.act_scale.fill_(8 / 255)
            layer.act_zero.fill_(128)
    save_packed(folder, pack(student, model, recipe))


def status(field: str) -> float:
    """MiB of a line of the kernel's account of this process."""
    text = Path("/proc/self/status").read_text().split(f"{field}:")[1]
    return int(text.split()[0]) / 2**10


def trim() -> None:
    """Give back what is free."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)


def network_of(form: str, folder: str) -> nn.Module:
    if form == "fp32":
        return cifar_unet()
    return load(folder)


def drop_packed_rows(network: nn.Module) -> None:
    """Leave of each layer what it computes with."""
    for _, layer in loaded_layers(network):
        layer.codes.rows.by_bits.clear()  # type: ignore[attr-defined]
        engine: Any = layer.engine_on(torch.device("cpu"))
        for name in [name for name, _ in engine.named_buffers() if name.startswith("packed")]:
            delattr(engine, name)


@torch.inference_mode()
def measure(form: str, folder: str, batch: int, repeats: int) -> dict[str, float]:
    """Seconds and MiB of one form, in a process of its own."""
    torch.set_num_threads(1)
    load(folder)(torch.randn(1, 3, 32, 32), 10)  # libraries and compiled kernels
    trim()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    before = status("VmRSS")
    started = time.process_time()
    kept = mock.patch.object(integer_layer, "layout_of", lambda *args: None)
    with kept if form == "int8" else nullcontext():
        network = network_of(form, folder)
        load_s = time.process_time() - started
        x = torch.randn(batch, 3, 32, 32)
        for t in (900, 10):
            network(x, t)
        if form == "int8":
            drop_packed_rows(network)
        trim()
        resident = status("VmRSS") - before
        times = {}
        for n in (1, batch):
            best = [process_seconds(lambda n=n: network(x[:n], 10)) for _ in range(repeats)]  # type: ignore[misc]
            times[f"call_of_{n}_s"] = round(min(best), 4)
    return {
        "load_s": round(load_s, 2),
        **times,
        "resident_mib": round(resident, 1),
        "peak_mib": round(status("VmHWM") - before, 1),
    }


def process_seconds(function: Callable[[], object]) -> float:
    started = time.process_time()
    function()
    return time.process_time() - started


def full_search(x: Tensor, top: Tensor) -> tuple[Tensor, Tensor]:
    """Every shrinkage on the whole of every row, as ranges were searched before."""
    low, high = x.amin(1), x.amax(1)
    best = torch.full_like(low, torch.inf)
    best_scale, best_zero = torch.ones_like(low), torch.zeros_like(low)
    for i in range(80):
        scale = ((high - low) * (1 - 0.01 * i) / top).clamp(min=SMALLEST_SCALE)
        zero = (-low * (1 - 0.01 * i) / scale).round()
        codes = codes_of(x, scale[:, None], zero[:, None], top)
        error = codes.sub_(zero[:, None]).mul_(scale[:, None]).sub_(x).abs_().pow_(2.4).mean(1)
        better = error < best
        best = torch.where(better, error, best)
        best_scale, best_zero = torch.where(better, scale, best_scale), torch.where(better, zero, best_zero)
    return best_scale, best_zero


def measure_ranges() -> dict[str, float]:
    """Seconds per million weights, and rows for which both searches agree."""
    torch.manual_seed(0)
    x, top = torch.randn(64, 2304) * 0.02, top_code(4)
    find_range(x, top)
    found: list[tuple[Tensor, Tensor]] = []
    seconds = [process_seconds(lambda f=f: found.append(f(x, top))) for f in (full_search, find_range)]  # type: ignore[misc]
    return {
        "full_s_per_million": round(seconds[0] / x.numel() * 1e6, 2),
        "compiled_s_per_million": round(seconds[1] / x.numel() * 1e6, 4),
        "same_rows": float((found[0][0] == found[1][0]).float().mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--bits", nargs="*", default=["w2a8", "w4a8", "w4"])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    content: dict[str, Any] = {"ranges": measure_ranges()}
    print("ranges:", content["ranges"], flush=True)
    for bits in options.bits:
        with tempfile.TemporaryDirectory() as folder:
            save(Path(folder), bits)
            forms = ["fp32", "packed"] + ([] if bits == "w4" else ["int8"])
            for form in forms:
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    row = pool.apply(measure, (form, folder, options.batch, options.repeats))
                content[f"{bits} {form}"] = row
                cells = "  ".join(f"{key} {value}" for key, value in row.items())
                print(f"{bits:<5} {form:<7} {cells}", flush=True)
    write_record(options.json, content, sys.argv)


if __name__ == "__main__":
    main()
