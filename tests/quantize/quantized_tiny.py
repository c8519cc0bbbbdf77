"""A tiny UNet taken through calibration, without a command."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from effcli.diffusion.conditioning import Guided
from effcli.diffusion.models import DiffusionModel
from effcli.quantize.calibration import initialise
from effcli.quantize.fake_quantization.layers import quantized_layers
from effcli.quantize.mpq_dm import start_layer, wrap_for
from effcli.quantize.recipe import MpqDmRecipe
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
