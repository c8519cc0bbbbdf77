"""`effcli quantize run`: the steps, in order, whatever the method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from effcli import __version__
from effcli.core.evidence.result import Result
from effcli.core.plan import Plan
from effcli.core.registry import load_method
from effcli.core.run import Run
from effcli.core.runtime import DTYPES, create_runtime
from effcli.data.image_sets import to_bytes
from effcli.data.picture_grid import save_grid
from effcli.diffusion.conditioning import Guided
from effcli.diffusion.ddim import ddim_scheduler, timesteps_of
from effcli.diffusion.models import DiffusionModel, load_decoder, load_model
from effcli.metrics.features import choose_features
from effcli.quantize.calibration import check_weights
from effcli.quantize.evaluation import evaluate
from effcli.quantize.fake_quantization.layers import quantized_layers
from effcli.quantize.loading import unet_of
from effcli.quantize.packed_layer import codes_of_layer, with_dtype_of_file
from effcli.quantize.recipe import QuantizeRecipe
from effcli.quantize.weights import PackedModel, about_unet, load_packed, save_packed

N_PICTURES = 32


class QuantizeMethod(Protocol):
    """What the module of a method has; each takes the method's own recipe class.

    Attributes:
        plan: ``(recipe, model)``: what `quantize` would do, for ``--dry-run``.
        quantize: ``(recipe, model, teacher, run)``: a copy of the model's UNet whose layers are `QuantizedLayer`, and
            numbers about it.
    """

    plan: Callable[[Any, DiffusionModel], dict[str, Any]]
    quantize: Callable[[Any, DiffusionModel, Guided, Run], tuple[nn.Module, dict[str, Any]]]


def method_of(recipe: QuantizeRecipe) -> QuantizeMethod:
    """The module of the recipe's method."""
    method: QuantizeMethod = load_method(recipe)
    return method


def plan_run(recipe: QuantizeRecipe) -> Plan[DiffusionModel]:
    """The model, loaded and checked, and what :func:`run` would do with it."""
    model = load_model(recipe.model)
    check_weights(model.unet, recipe.model)
    ddim_scheduler(model.scheduler_config, recipe.sampler.steps)
    own = method_of(recipe).plan(recipe, model)
    sample_shape = guided_model(model, recipe, create_runtime(device="cpu").device).sample_shape
    choose_features(recipe.eval, sample_shape)
    facts = {
        "parameters": sum(parameter.numel() for parameter in model.unet.parameters()),
        **own,
        "sample_shape": list(sample_shape),
        "eval_images": recipe.eval.n_images,
    }
    return Plan(facts, model)


def run(recipe: QuantizeRecipe, model: DiffusionModel, run: Run) -> Result:
    """Quantize a model, pack it, and measure what came out of the file."""
    teacher = guided_model(model, recipe, run.runtime.device)
    student, facts = method_of(recipe).quantize(recipe, model, teacher, run)
    file = run.path / "model"
    if run.runtime.is_main:
        save_packed(file, pack(student, model, recipe))
    run.runtime.barrier()
    packed = load_packed(file)
    decode = load_decoder(model, run.runtime.device)
    quantized = unet_of(packed, device=run.runtime.device)
    metrics, ours, theirs = evaluate(teacher, quantized, recipe.sampler, recipe.eval, decode, run)
    return run.finish(
        {**packed.sizes(), **metrics, **facts},
        lambda: pictures(decode(ours[:N_PICTURES]), decode(theirs[:N_PICTURES]), recipe, run),
    )


def guided_model(model: DiffusionModel, recipe: QuantizeRecipe, device: torch.device) -> Guided:
    """The full-precision model with its conditions, on ``device``."""
    return Guided(
        model,
        model.unet.to(device),
        guidance=recipe.sampler.guidance,
        prompts=recipe.condition.prompts,
        null_class=recipe.condition.null_class,
    )


def pack(student: nn.Module, model: DiffusionModel, recipe: QuantizeRecipe) -> PackedModel:
    """The trained student as integer codes, and everything else as the file stores it."""
    dtype = DTYPES[recipe.packing.other_dtype]
    layers = {
        path: with_dtype_of_file(codes_of_layer(layer), dtype) for path, layer in quantized_layers(student)
    }
    others = {
        name: value.detach().cpu().to(dtype if value.is_floating_point() else value.dtype)
        for name, value in student.state_dict().items()
        if not any(name.startswith(f"{path}.") for path in layers)
    }
    timesteps = timesteps_of(ddim_scheduler(model.scheduler_config, recipe.sampler.steps))
    about = {
        "method": recipe.method,
        "bits": recipe.bits,
        **recipe.model_dump(include={"allocation"}),
        "bit_order": "little",
        "timesteps": timesteps,
        "sampler": recipe.sampler.model_dump() | {"steps": len(timesteps)},
        "condition": recipe.condition.model_dump(),
        "other_dtype": str(dtype).removeprefix("torch."),
        "source": {"id": model.source, "sha256": model.sha256},
        "seed": recipe.seed,
        "torch": str(torch.__version__),
        "effcli": __version__,
    }
    return PackedModel(about, layers, others, **about_unet(model.unet, model.scheduler_config))


def pictures(ours: Tensor, theirs: Tensor, recipe: QuantizeRecipe, run: Run) -> dict[str, str]:
    """Save images of both models from the same noise, in -1..1; returns caption -> file."""
    figures: dict[str, str] = {}
    if ours.shape[1] not in (1, 3):
        return figures
    for name, images, caption in (
        ("pictures/full-precision.png", theirs, "Full precision"),
        ("pictures/quantized.png", ours, f"Quantized to {recipe.bits}, from the same noise"),
    ):
        save_grid(to_bytes(images), run.file(name), n_columns=8)
        figures[caption] = name
    return figures
