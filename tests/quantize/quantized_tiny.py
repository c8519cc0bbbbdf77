"""A tiny UNet taken through calibration, without a command."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from effcli.diffusion.conditioning import Guided
from effcli.diffusion.models import DiffusionModel
from effcli.quantize.calibration import initialise
from effcli.quantize.fake_quantization.layers import quantized_layers
from effcli.quantize.fake_quantization.quantizer import top_code
from effcli.quantize.mpq_dm import start_layer, wrap_for
from effcli.quantize.packed.model import PackedModel, about_unet
from effcli.quantize.pipeline import about_of, pack
from effcli.quantize.recipe import MpqDmRecipe
from effcli.quantize.unread_models import UnreadModel
from effcli.quantize.weights import load_packed, save_packed
from effcli.quantize.weights_only import pack_weights
from tests.diffusion.tiny_models import SCHEDULER, tiny_unet

STEPS = 4


def recipe_of(bits: str = "w2a4", **changes: Any) -> MpqDmRecipe:
    """A small recipe; ``changes`` are sections."""
    content = {"bits": bits, "sampler": {"steps": STEPS}} | changes
    return MpqDmRecipe.model_validate(content)


def full_precision(unet: nn.Module | None = None) -> tuple[DiffusionModel, Guided]:
    """The model and its conditions."""
    unet = (unet or tiny_unet()).requires_grad_(False)
    model = DiffusionModel(unet, SCHEDULER, "tiny")
    return model, Guided(model, unet)


def calibrated(
    recipe: MpqDmRecipe, unet: nn.Module | None = None, seed: int = 0
) -> tuple[nn.Module, list[Any]]:
    """The student after calibration on noise, and the report."""
    model, guided = full_precision(unet)
    student = wrap_for(recipe, model)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(8, *model.sample_shape, generator=generator)
    t = torch.randint(64, (8,), generator=generator)
    report = initialise(
        student, lambda net: guided.with_unet(net).call(x, t, {}), partial(start_layer, recipe=recipe)
    )
    return student, report


def vary_scales(student: nn.Module) -> None:
    """Give each step activation scales of its own, as training does."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for _, layer in quantized_layers(student):
            layer.act_scale.mul_(0.8 + 0.4 * torch.rand(layer.act_scale.shape, generator=generator))


@torch.no_grad()
def rounded(
    bits: str = "w8a8", unet: nn.Module | None = None, model: DiffusionModel | None = None, **call: Any
) -> PackedModel:
    """A packed model in no time: every range from its smallest to its largest value, of one input.

    Args:
        bits: of the recipe.
        unet: tiny_unet() where none is given.
        model: whose UNet is taken instead.
        call: further inputs of the network, and ``timestep``, where it is not 47.
    """
    recipe = recipe_of(bits, packing={"other_dtype": "fp32"})
    model = model or DiffusionModel((unet or tiny_unet()).requires_grad_(False), SCHEDULER, "tiny")
    student = wrap_for(recipe, model)
    ranges: dict[nn.Module, tuple[float, float]] = {}
    for _, layer in quantized_layers(student):
        layer.register_forward_pre_hook(lambda layer, x: ranges.update({layer: _range(x[0])}))
        rows = layer.weight().flatten(1)
        low, high = rows.amin(1).clamp(max=0), rows.amax(1).clamp(min=0)
        row_bits = layer.row_bits if layer.is_edge else torch.full_like(layer.row_bits, recipe.widths.weights)
        scale = (high - low).clamp(min=1e-6) / top_code(row_bits)
        layer.set_rows(row_bits, scale, (-low / scale).round())
    generator = torch.Generator().manual_seed(0)
    timestep = call.pop("timestep", 47)
    student(torch.randn(4, *model.sample_shape, generator=generator), timestep, **call)
    for _, layer in quantized_layers(student):
        smallest, largest = ranges[layer]
        layer.act_scale.fill_((largest - smallest) / layer.act_top)
        layer.act_zero.copy_((-smallest / layer.act_scale).round())
    return pack(student, model, recipe)


def pack_weights_into(place: Path, network: nn.Module, bits: str = "w4", **changes: Any) -> PackedModel:
    """A network's weights alone packed into a folder, and read from it; ``changes`` are sections of the recipe."""
    recipe = MpqDmRecipe.model_validate(
        {"bits": bits, "fast": True, "calibration": {"range_method": "max"}, **changes}
    )
    source = UnreadModel(DiffusionModel(network, SCHEDULER, "tiny"), network.state_dict().__getitem__)
    packed = pack_weights(source, recipe)
    about = about_of(source.model, recipe)
    save_packed(place, PackedModel(about, packed.layers, packed.others, **about_unet(network, SCHEDULER)))
    return load_packed(place)


def _range(x: torch.Tensor) -> tuple[float, float]:
    return min(float(x.min()), 0.0), max(float(x.max()), 1e-6)
