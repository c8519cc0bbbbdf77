"""Speed and memory of `effcli quantize`: ratios inside one run. Nothing else should be running.

    python benchmarks/quantize.py [--json FILE] [--batch 16] [--steps 4] [--repeats 3]

Sampling: the UNet of DDPM on CIFAR-10 (35.7 M parameters, 32x32) with random weights, W4A8. float32, bfloat16 autocast,
and integers with float32 or bfloat16 between the layers take turns; libraries that are installed (torchao,
optimum-quanto) join in. Fine-tuning: optimiser steps of the built-in model, ours against the released way: three
masked quantizers summed with autograd through their definition, and relations between all pixels.
"""

from __future__ import annotations

import argparse
import copy
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from effcli.core.evidence.records import write_record
from effcli.diffusion.conditioning import Guided
from effcli.diffusion.ddim import ddim_scheduler, sample
from effcli.diffusion.models import DiffusionModel, build_unet, load_model
from effcli.nn.relations import pool_to, relation_distillation
from effcli.quantize.calibration import initialise
from effcli.quantize.fake_quantization import layers as layers_module
from effcli.quantize.fake_quantization.layers import QuantizedLayer
from effcli.quantize.fake_quantization.quantizer import top_code
from effcli.quantize.mpq_dm import start_layer, wrap_for
from effcli.quantize.packed_unet import load
from effcli.quantize.pipeline import pack
from effcli.quantize.recipe import MpqDmRecipe
from effcli.quantize.training import features_of, parameter_groups
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


def calibrated(model: DiffusionModel, recipe: MpqDmRecipe) -> nn.Module:
    guided = Guided(model, model.unet)
    student = wrap_for(recipe, model)
    x = torch.randn(4, *model.sample_shape)
    t = torch.tensor([900, 600, 300, 10])
    initialise(
        student, lambda unet: guided.with_unet(unet).call(x, t, {}), partial(start_layer, recipe=recipe)
    )
    return student


def packed_cifar(folder: Path, steps: int) -> None:
    """The packed model that is timed; its ranges are rough, which changes no time."""
    recipe = MpqDmRecipe.model_validate(
        {
            "bits": "w4a8",
            "sampler": {"steps": steps},
            "allocation": {"rule": "uniform"},
            "calibration": {"range_method": "max"},
        }
    )
    model = DiffusionModel(cifar_unet(), SCHEDULER, "random weights")
    save_packed(folder, pack(calibrated(model, recipe), model, recipe))


def call_of(unet: nn.Module, autocast: bool = False) -> Callable[[Tensor, float], Tensor]:
    def call(x: Tensor, t: float) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return unet(x, t, return_dict=False)[0].float()

    return call


def form(name: str, packed: Path) -> Callable[[Tensor, float], Tensor]:
    """One of the compared networks."""
    if name.startswith("integer"):
        dtype = torch.bfloat16 if name.endswith("bf16") else torch.float32
        return call_of(load(packed, "integer", dtype=dtype))
    unet = cifar_unet().to(memory_format=torch.channels_last)
    if name == "torchao":
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

        quantize_(unet, Int8DynamicActivationInt8WeightConfig())  # its linear layers; it has no convolutions
    if name == "optimum-quanto":
        from optimum.quanto import freeze, qint8, quantize

        quantize(unet, weights=qint8)
        freeze(unet)
    return call_of(unet, autocast=name == "bf16")


def available_forms() -> list[str]:
    names = ["fp32", "bf16", "integer", "integer-bf16"]
    names += ["torchao"] if find_spec("torchao") else []
    return names + (["optimum-quanto"] if find_spec("optimum") and find_spec("optimum.quanto") else [])


def peak_gib(name: str, packed: str, batch: int, threads: int) -> float:
    """Peak memory of a fresh process that makes one network and calls it twice."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_gib, (name, packed, batch, threads))


def _peak_gib(name: str, packed: str, batch: int, threads: int) -> float:
    torch.set_num_threads(threads)
    import diffusers.models.unets.unet_2d  # noqa: F401

    before = _status("VmRSS")
    call = form(name, Path(packed))
    with torch.inference_mode():
        for t in (900, 10):
            call(torch.randn(batch, 3, 32, 32), t)
    return (_status("VmHWM") - before) / 2**20


def _status(field: str) -> int:
    return int(Path("/proc/self/status").read_text().split(f"{field}:")[1].split()[0])


def measure_sampling(batch: int, steps: int, repeats: int) -> dict[str, Any]:
    """Seconds of whole sampling runs, ratios to float32 and bfloat16, peak memory beyond the libraries."""
    with tempfile.TemporaryDirectory() as folder:
        packed = Path(folder)
        packed_cifar(packed, steps)
        names = available_forms()
        forms = {name: form(name, packed) for name in names}
        noise = torch.randn(batch, 3, 32, 32)
        times: dict[str, list[float]] = {name: [] for name in names}
        with torch.inference_mode():
            for call in forms.values():
                call(noise, 500)
            for _ in range(repeats):
                for name, call in forms.items():
                    started = time.perf_counter()
                    sample(call, ddim_scheduler(SCHEDULER, steps), noise)
                    times[name].append(time.perf_counter() - started)
        del forms
        medians = {name: statistics.median(values) for name, values in times.items()}
        return {
            name: {
                "sampling_s": round(value, 3),
                "against_fp32": round(medians["fp32"] / value, 2),
                "against_bf16": round(medians["bf16"] / value, 2),
                "peak_gib": round(peak_gib(name, folder, batch, torch.get_num_threads()), 3),
            }
            for name, value in medians.items()
        }


def released_weight(layer: QuantizedLayer) -> Tensor:
    """Three quantizers, each over the whole tensor with the other rows zeroed, summed."""
    weight = layer.smoothed_weight()
    shape = (-1, *([1] * (weight.ndim - 1)))
    scale, zero = layer.scale.view(shape), layer.zero.view(shape)
    widths = layer.row_bits.unique().tolist()
    total = torch.zeros_like(weight)
    for bits in [widths[0], *widths, widths[-1]][:3]:
        mask = (layer.row_bits == bits).to(weight.dtype).view(shape)
        total = total + by_definition(weight * mask, scale, zero, top_code(bits)) * mask
    return total


def by_definition(x: Tensor, scale: Tensor, zero: Tensor, top: Tensor) -> Tensor:
    """Straight-through rounding and clipping as two ReLUs, as released."""
    steps = x / scale
    shifted = steps + (steps.round() - steps).detach() + zero
    shifted = shifted + torch.relu(0 - shifted)
    shifted = shifted - torch.relu(shifted - top)
    return (shifted - zero) * scale


def released_input(layer: QuantizedLayer, x: Tensor) -> Tensor:
    smoothed = x * layers_module.per_channel(layer.in_scale, x, layer.layer)
    i = min(layer.clock.index, len(layer.act_scale) - 1)
    return by_definition(smoothed, layer.act_scale[i], layer.act_zero[i], layer.act_top)


def training_step(
    teacher: nn.Module, student: nn.Module, optimizer: torch.optim.Optimizer, pool: int | None, n_pixels: int
) -> Callable[[], None]:
    def step() -> None:
        x = torch.randn(n_pixels, *([1, 16, 16] if teacher.config["in_channels"] == 1 else [3, 32, 32]))
        shape = (x.shape[1], x.shape[2], x.shape[3])
        with features_of(teacher, shape) as theirs, features_of(student, shape) as ours:
            with torch.no_grad():
                target = teacher(x, 500, return_dict=False)[0]
            prediction = student(x, 500, return_dict=False)[0]
            loss = (prediction - target).square().sum()
            loss = loss + 100 * relation_distillation(pool_to(ours[0], pool), pool_to(theirs[0], pool))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def measure_training(model: DiffusionModel, batch: int, repeats: int) -> dict[str, float]:
    """Seconds of an optimiser step, ours and the released way, taking turns."""
    recipe = MpqDmRecipe.model_validate(
        {"allocation": {"rule": "kurtosis"}, "calibration": {"range_method": "max"}}
    )
    student = calibrated(model, recipe)
    times: dict[str, list[float]] = {"ours": [], "released": []}
    steps = {}
    for name, pool in (("ours", 16), ("released", None)):
        network = copy.deepcopy(student)
        optimizer = torch.optim.AdamW(parameter_groups(network, recipe.train))
        steps[name] = training_step(model.unet, network, optimizer, pool, batch)
    released = (
        mock.patch.object(QuantizedLayer, "quantized_weight", released_weight),
        mock.patch.object(QuantizedLayer, "quantized_input", released_input),
    )
    for _ in range(repeats + 1):
        started = time.perf_counter()
        steps["ours"]()
        times["ours"].append(time.perf_counter() - started)
        with released[0], released[1]:
            started = time.perf_counter()
            steps["released"]()
            times["released"].append(time.perf_counter() - started)
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}
    return {f"{name}_s": round(value, 3) for name, value in medians.items()} | {
        "ratio": round(medians["released"] / medians["ours"], 2)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    content: dict[str, Any] = {}
    content["training_builtin"] = measure_training(
        load_model("builtin:fashion-diffusion"), 16, options.repeats + 4
    )
    print("training step, built-in model:", content["training_builtin"], flush=True)
    cifar = DiffusionModel(cifar_unet(), SCHEDULER, "random weights")
    content["training_cifar"] = measure_training(cifar, 4, options.repeats)
    print("training step, CIFAR-10 UNet:", content["training_cifar"], flush=True)
    content["sampling"] = measure_sampling(options.batch, options.steps, options.repeats)
    for name, row in content["sampling"].items():
        print(f"{name:<16}" + "  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    write_record(options.json, content, sys.argv)


if __name__ == "__main__":
    main()
