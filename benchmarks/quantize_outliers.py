"""Which rule of the bit allocation lowers the error of the prediction where rows have outliers: weights only.

    python benchmarks/quantize_outliers.py [--json FILE] [--bits 2 3 4] [--seeds 3]

Networks: the built-in UNet, and one of SDXL's shape (two text embeddings, transformers of 1 and 2 blocks) with random
weights. In the rows `outliers`, a tenth of the rows of each layer get three entries 20 times as large and are scaled
back to the norm they had; the network that this makes is the reference. The error is the squared difference of the
predictions for noise at four timesteps over their squares. `layers moved` are those in which the rule gives a row other
bits than the mean, in per cent of the layers where it may; `rows moved` those rows, the mean over these layers of their
share in per cent. Each figure is the mean over the seeds, of which each has weights (SDXL's shape), outliers and noise
of its own; `lower than uniform` says in how many of them the rule's error is below that of uniform bits.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any, Literal

import torch
from torch import Tensor, nn

from effcli.core.evidence.records import write_record
from effcli.diffusion.models import load_model
from effcli.quantize.allocation import uniform_bits
from effcli.quantize.fake_quantization.layers import EDGE_BITS, find_layers
from effcli.quantize.fake_quantization.row_formats import find_format, mixed
from effcli.quantize.mpq_dm import allocate
from effcli.quantize.recipe import AllocationSection

RULES: tuple[Literal["uniform", "kurtosis", "error"], ...] = ("uniform", "kurtosis", "error")
TIMESTEPS = (980.0, 700.0, 400.0, 100.0)
N_OUTLIERS, OUTLIER_SIZE, SHARE_OF_ROWS = 3, 20.0, 0.1
N_IMAGES = 4


def sdxl_shaped(seed: int) -> nn.Module:
    """A UNet with the conditions and the blocks of SDXL and about 2 million random weights."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(seed)
    network: nn.Module = UNet2DConditionModel(
        sample_size=16, block_out_channels=(32, 64, 128), layers_per_block=1, norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1, 2), attention_head_dim=(2, 4, 8), use_linear_projection=True,
        cross_attention_dim=64, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 32,
    )  # fmt: skip
    return network


@torch.no_grad()
def graft_outliers(network: nn.Module, generator: torch.Generator) -> None:
    """Give a tenth of the rows of each layer heavy tails, at the norm that they had."""
    for found in find_layers(network):
        rows = found.layer.weight.flatten(1)
        if found.is_edge or rows.shape[1] <= N_OUTLIERS:
            continue
        for row in torch.randperm(len(rows), generator=generator)[: int(SHARE_OF_ROWS * len(rows))].tolist():
            places = torch.randperm(rows.shape[1], generator=generator)[:N_OUTLIERS]
            norm = rows[row].norm()
            rows[row, places] *= OUTLIER_SIZE
            rows[row] *= norm / rows[row].norm()


def networks(seed: int) -> Iterator[tuple[str, nn.Module]]:
    """Each network, as it is and with outliers."""
    builtin = load_model("builtin:fashion-diffusion").unet
    for name, network in (("built-in", builtin), ("SDXL's shape", sdxl_shaped(seed).eval())):
        yield name, network
        grafted = copy.deepcopy(network)
        graft_outliers(grafted, torch.Generator().manual_seed(seed))
        yield f"{name}, outliers", grafted


@torch.no_grad()
def predictions(network: Any, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    config = network.config
    x = torch.randn(N_IMAGES, config.in_channels, config.sample_size, config.sample_size, generator=generator)
    given: dict[str, Any] = {}
    if "cross_attention_dim" in config:
        given["encoder_hidden_states"] = torch.randn(N_IMAGES, 8, 64, generator=generator)
        given["added_cond_kwargs"] = {
            "text_embeds": torch.randn(N_IMAGES, 32, generator=generator),
            "time_ids": torch.tensor([[128.0, 128, 0, 0, 128, 128]]).expand(N_IMAGES, 6),
        }
    return [network(x, t, **given, return_dict=False)[0] for t in TIMESTEPS]


@torch.no_grad()
def quantized(
    network: nn.Module, all_bits: list[int]
) -> dict[tuple[int, str], tuple[nn.Module, list[Tensor]]]:
    """(mean bits, rule) -> the network with quantized weights, and the bits of the rows of each layer with a choice.

    As `effcli quantize --fast` does it, but ranges are found once for all of them.
    """
    made: dict[tuple[int, str], tuple[nn.Module, list[Tensor]]] = {
        (bits, rule): (copy.deepcopy(network), []) for bits in all_bits for rule in RULES
    }
    widths = {bits + more for bits in all_bits for more in (-1, 0, 1)}
    for found in find_layers(network):
        rows = found.layer.weight.flatten(1)
        importance = torch.ones(found.layer.weight.shape[1])
        tried = {EDGE_BITS} if found.is_edge else widths
        formats = {b: find_format(rows, b, "affine", "mse", importance) for b in tried}
        errors = {b: (one.quantized(rows) - rows).square().sum(1) for b, one in formats.items()}
        for (bits, rule), (student, of_rows) in made.items():
            settings = AllocationSection(rule=rule)
            row_bits = uniform_bits(len(rows), EDGE_BITS)
            if not found.is_edge:
                row_bits = allocate(rows, errors, bits, settings)
                of_rows.append(row_bits)
            weight = mixed(formats, row_bits).quantized(rows)
            student.get_parameter(f"{found.name}.weight").copy_(weight.view_as(found.layer.weight))
    return made


def measure(network: nn.Module, all_bits: list[int], seed: int) -> dict[tuple[int, str], dict[str, float]]:
    """(mean bits, rule) -> the error, and what was moved."""
    wanted = predictions(network, seed)
    size = sum(float(one.square().sum()) for one in wanted)
    measured = {}
    for (bits, rule), (student, of_rows) in quantized(network, all_bits).items():
        pairs = zip(predictions(student, seed), wanted, strict=True)
        moved = [float((row_bits != bits).float().mean()) for row_bits in of_rows]
        measured[bits, rule] = {
            "error": sum(float((a - b).square().sum()) for a, b in pairs) / size,
            "layers_moved": 100 * mean(share > 0 for share in moved),
            "rows_moved": 100 * mean([share for share in moved if share > 0] or [0.0]),
        }
    return measured


def table(found: dict[tuple[str, int, str], list[dict[str, float]]]) -> list[dict[str, Any]]:
    rows = []
    for (network, bits, rule), of_seeds in found.items():
        uniform = found[network, bits, "uniform"]
        ratios = [own["error"] / plain["error"] for own, plain in zip(of_seeds, uniform, strict=True)]
        rows.append({
            "case": f"{network}, W{bits}, {rule}",
            "error": float(f"{mean(one['error'] for one in of_seeds):.3g}"),
            "error over uniform": round(mean(ratios), 3),
            "lower than uniform": f"{sum(ratio < 1 for ratio in ratios)} of {len(ratios)}",
            "layers moved": round(mean(one["layers_moved"] for one in of_seeds)),
            "rows moved": round(mean(one["rows_moved"] for one in of_seeds)),
        })  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--bits", type=int, nargs="*", default=[2, 3, 4])
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    found: dict[tuple[str, int, str], list[dict[str, float]]] = {}
    for seed in range(options.seeds):
        for name, network in networks(seed):
            for (bits, rule), one in measure(network, options.bits, seed).items():
                found.setdefault((name, bits, rule), []).append(one)
                print(seed, name, f"W{bits}", rule, *(f"{value:.4g}" for value in one.values()), flush=True)
    rows = table(found)
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()))
    write_record(options.json, {"rows": rows}, sys.argv)


if __name__ == "__main__":
    main()
