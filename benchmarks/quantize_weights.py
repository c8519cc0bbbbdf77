"""Error of the prediction when only the weights are quantized, at what size: affine codes, codebooks, and SDNQ.

    python benchmarks/quantize_weights.py [--model builtin:fashion-diffusion] [--json FILE] [--bits 2 3 4]
        [--images 16] [--steps 16]

The network is called with what it sees while it samples. The error is the squared difference of its predictions over
their squares. Bits per parameter count every tensor, scales, zero-points and tables as they are stored, what is not
quantized as float16, over every parameter. SDNQ (PyPI: sdnq) joins in where it is installed: rows of its weights
without groups, affine and with Lloyd-Max codebooks. Its own rule leaves layers of fewer than 16,384 weights as they
are; `every layer` is without that rule. Beside each of its rows is the least error of ours in at most as many bits,
for which ours have up to 8 bits.
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from effcli.core.evidence.records import write_record
from effcli.diffusion.conditioning import Guided
from effcli.diffusion.ddim import ddim_scheduler, timesteps_of, trajectory
from effcli.diffusion.models import DiffusionModel, load_model
from effcli.quantize.packed.model import PackedModel, about_unet
from effcli.quantize.packed_unet import dequantize
from effcli.quantize.pipeline import about_of
from effcli.quantize.recipe import MpqDmRecipe
from effcli.quantize.unread_models import UnreadModel
from effcli.quantize.weights_only import pack_weights

Quantized = tuple[nn.Module, float]
"""A network that computes with the quantized weights, and bits per parameter."""

MOST_BITS_OF_CODEBOOKS = 4
OUR_FURTHER_BITS = 5, 6, 8
_SDNQ_PARTS = ("weight", "scale", "zero_point", "svd_up", "svd_down")


@torch.no_grad()
def calls_while_sampling(guided: Guided, n_images: int, steps: int) -> list[tuple[float, Tensor, Any]]:
    """Timestep, noisy images and condition of each call."""
    generator = torch.Generator().manual_seed(0)
    scheduler = ddim_scheduler(guided.scheduler_config, steps)
    noise = torch.randn(n_images, *guided.sample_shape, generator=generator)
    condition = guided.random_condition(n_images, generator)
    walk = trajectory(guided.predictor(condition), scheduler, noise, eta=0.0, generator=generator)
    n_steps = len(timesteps_of(scheduler))
    return [(t, x, condition) for _, (t, x, _) in zip(range(n_steps), walk, strict=False)]


@torch.no_grad()
def predictions(guided: Guided, network: nn.Module, calls: list[tuple[float, Tensor, Any]]) -> list[Tensor]:
    own = guided.with_unet(network)
    return [own.predictor(condition)(x, t) for t, x, condition in calls]


def relative_error(found: list[Tensor], wanted: list[Tensor]) -> float:
    away = sum(float((a - b).square().sum()) for a, b in zip(found, wanted, strict=True))
    return away / sum(float(b.square().sum()) for b in wanted)


def ours(model: DiffusionModel, bits: int, codes: str) -> Quantized:
    """As `effcli quantize --fast`."""
    recipe = MpqDmRecipe.model_validate({"bits": f"w{bits}", "fast": True, "weights": {"codes": codes}})
    packed = pack_weights(UnreadModel(model, model.unet.state_dict().__getitem__), recipe)
    whole = PackedModel(
        about_of(model, recipe),
        packed.layers,
        packed.others,
        **about_unet(model.unet, model.scheduler_config),
    )
    return dequantize(whole), whole.bits_per_parameter()


def sdnq(model: DiffusionModel, bits: int, **settings: Any) -> Quantized:
    """SDNQ's rows, in float32 as ours; the network computes with them as it does."""
    os.environ.setdefault("SDNQ_USE_TORCH_COMPILE", "0")
    from sdnq.quantizer import sdnq_post_load_quant

    made: Any = sdnq_post_load_quant(
        copy.deepcopy(model.unet), weights_dtype=f"uint{bits}", group_size=-1, quant_conv=True,
        add_skip_keys=False, torch_dtype=torch.float32, **settings,
    )  # fmt: skip
    network: nn.Module = made[0] if isinstance(made, tuple) else made
    n_bits = 0
    for name, value in network.state_dict().items():
        owner = network.get_submodule(name.rpartition(".")[0])
        is_stored = hasattr(owner, "sdnq_dequantizer") and name.rpartition(".")[2] in _SDNQ_PARTS
        n_bits += 8 * value.numel() * (value.element_size() if is_stored else 2)
    return network, n_bits / sum(value.numel() for value in model.unet.parameters())


def forms(model: DiffusionModel, bits: int, *, with_sdnq: bool) -> dict[str, Callable[[], Quantized]]:
    """What is compared at one width."""
    every_layer = {"minimum_allowed_numel": 1, "minimum_allowed_channel_size": 1}
    found: dict[str, Callable[[], Quantized]] = {"affine": lambda: ours(model, bits, "affine")}
    if bits <= MOST_BITS_OF_CODEBOOKS:
        found["codebook"] = lambda: ours(model, bits, "codebook")
    if with_sdnq:
        found |= {
            "SDNQ rows": lambda: sdnq(model, bits),
            "SDNQ rows, codebook": lambda: sdnq(model, bits, use_codebook=True),
            "SDNQ rows, every layer": lambda: sdnq(model, bits, **every_layer),
            "SDNQ rows, every layer, codebook": lambda: sdnq(model, bits, use_codebook=True, **every_layer),
        }
    return found


def beside_ours(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of SDNQ, each with the best of ours that is not larger."""
    compared = []
    for row in rows:
        own = [
            one
            for one in rows
            if "SDNQ" not in one["weights"] and one["bits_per_parameter"] <= row["bits_per_parameter"]
        ]
        if "SDNQ" in row["weights"] and own:
            best = min(own, key=lambda one: float(one["relative_error"]))
            named = {name: best[name] for name in ("weights", "bits_per_parameter", "relative_error")}
            compared.append({**row, **{f"ours_{name}": value for name, value in named.items()}})
    return compared


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="builtin:fashion-diffusion")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--bits", type=int, nargs="*", default=[2, 3, 4], help="of SDNQ's rows")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--steps", type=int, default=16)
    options = parser.parse_args()
    model = load_model(options.model)
    guided = Guided(model, model.unet)
    calls = calls_while_sampling(guided, options.images, options.steps)
    wanted = predictions(guided, model.unet, calls)
    rows = []
    has_sdnq = find_spec("sdnq") is not None
    for bits in sorted({*options.bits, *(OUR_FURTHER_BITS if has_sdnq else ())}):
        for name, make in forms(model, bits, with_sdnq=has_sdnq and bits in options.bits).items():
            started = time.process_time()
            network, bits_per_parameter = make()
            row = {
                "weights": f"W{bits} {name}",
                "bits_per_parameter": round(bits_per_parameter, 3),
                "relative_error": float(f"{relative_error(predictions(guided, network, calls), wanted):.3g}"),
                "processor_s": round(time.process_time() - started, 1),
            }
            rows.append(row)
            print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    compared = beside_ours(rows)
    for row in compared:
        print("  ".join(f"{key} {value}" for key, value in row.items()))
    write_record(options.json, {"rows": rows, "compared": compared}, sys.argv)


if __name__ == "__main__":
    main()
