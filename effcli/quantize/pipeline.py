"""`effcli quantize run`: the steps, in order."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from effcli import __version__
from effcli.core.progress import progress_bar
from effcli.core.run import Result, Run
from effcli.data.image_sets import to_bytes
from effcli.data.picture_grid import save_grid
from effcli.diffusion.conditioning import Guided
from effcli.diffusion.ddim import ddim_scheduler, timesteps_of
from effcli.diffusion.models import DiffusionModel, load_decoder, load_model
from effcli.quantize.calibration import check_weights, collect_inputs, initialise, wrap_layers
from effcli.quantize.evaluation import evaluate
from effcli.quantize.fine_tuning import fine_tune
from effcli.quantize.layers import quantized_layers
from effcli.quantize.packed_file import PackedModel, about_unet, load_packed, save_packed
from effcli.quantize.packed_layer import codes_of_layer, with_dtype_of_file
from effcli.quantize.recipe import QuantizeRecipe
from effcli.quantize.unet import unet_of

N_PICTURES = 32


def run(recipe: QuantizeRecipe, run: Run) -> Result:
    """Quantize a model, pack it, and measure what came out of the file."""
    model = load_model(recipe.model)
    check_weights(model.unet, recipe.model)
    teacher = guided_model(model, recipe, run.runtime.device)
    student = wrap_layers(model.unet, recipe, model.scheduler_config)
    inputs = run.stage("calibrate", collect_inputs, teacher, recipe, run)
    allocated = run.stage("allocate", allocate_bits, student, teacher, inputs, recipe, run)
    student.load_state_dict(allocated["state"], strict=False)
    fine_tune(teacher, student, recipe, run)
    file = run.path / "model"
    if run.runtime.is_main:
        save_packed(file, pack(student, model, recipe))
    run.runtime.barrier()
    packed = load_packed(file)
    decode = load_decoder(model, run.runtime.device)
    quantized = unet_of(packed, device=run.runtime.device)
    metrics, ours, theirs = evaluate(teacher, quantized, recipe.sampler, recipe.eval, decode, run)
    metrics = {**sizes(packed, file_bytes(run)), **metrics, "allocation": summary(allocated["layers"])}
    return run.finish(metrics, pictures(decode(ours[:N_PICTURES]), decode(theirs[:N_PICTURES]), recipe, run))


def guided_model(model: DiffusionModel, recipe: QuantizeRecipe, device: torch.device) -> Guided:
    """The full-precision model with its conditions, on ``device``."""
    return Guided(
        model,
        model.unet.to(device),
        guidance=recipe.sampler.guidance,
        prompts=recipe.condition.prompts,
        null_class=recipe.condition.null_class,
    )


def allocate_bits(
    student: nn.Module, teacher: Guided, inputs: dict[str, Tensor], recipe: QuantizeRecipe, run: Run
) -> dict[str, Any]:
    """Widths and first ranges of all layers; returns the state they are in and a row a layer."""
    arguments = {name: value.to(teacher.device) for name, value in inputs.items()}
    x, t = arguments.pop("x"), arguments.pop("t")
    n_layers = sum(1 for _ in quantized_layers(student))
    with progress_bar("allocate", n_layers, unit="layers", show=run.show_progress) as advance:
        rows = initialise(
            student, lambda unet: teacher.with_unet(unet).call(x, t, arguments), recipe, advance
        )
    names = ("in_scale", "row_bits", "weight_top", "scale", "zero", "act_scale", "act_zero")
    state = {
        f"{path}.{name}": getattr(layer, name).detach()
        for path, layer in quantized_layers(student)
        for name in names
    }
    return {"state": state, "layers": rows}


def pack(student: nn.Module, model: DiffusionModel, recipe: QuantizeRecipe) -> PackedModel:
    """The trained student as integer codes, and everything else as the file stores it."""
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}[recipe.packing.other_dtype]
    layers = {
        path: with_dtype_of_file(codes_of_layer(layer), dtype) for path, layer in quantized_layers(student)
    }
    others = {
        name: value.detach().cpu().to(dtype if value.is_floating_point() else value.dtype)
        for name, value in student.state_dict().items()
        if not any(name.startswith(f"{path}.") for path in layers)
    }
    scheduler = ddim_scheduler(model.scheduler_config, recipe.sampler.steps)
    about = {
        "method": recipe.method,
        "bits": recipe.bits,
        "allocation": recipe.allocation.model_dump(),
        "bit_order": "little",
        "timesteps": timesteps_of(scheduler),
        "sampler": recipe.sampler.model_dump(),
        "condition": recipe.condition.model_dump(),
        "other_dtype": str(dtype).removeprefix("torch."),
        "source": {"id": model.source, "sha256": model.sha256},
        "seed": recipe.seed,
        "torch": str(torch.__version__),
        "effcli": __version__,
    }
    return PackedModel(about, layers, others, **about_unet(model.unet, model.scheduler_config))


def sizes(packed: PackedModel, n_bytes: int) -> dict[str, Any]:
    """Bits and bytes, counted over the quantized layers and over everything."""
    return {
        "mean_bits_quantized": packed.mean_bits_quantized(),
        "mean_bits_total": packed.mean_bits_total(),
        "size_bytes": n_bytes,
        "size_fp32_bytes": 4 * packed.n_parameters(),
        "parameters": packed.n_parameters(),
        "quantized_layers": len(packed.layers),
    }


def file_bytes(run: Run) -> int:
    """Size of the packed file."""
    from effcli.quantize.packed_file import find_packed

    return find_packed(run.path).stat().st_size


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """How the rows of all layers are split, and how much smaller the layers' output error is than with uniform bits."""
    counts: dict[str, int] = {}
    for row in rows:
        for bits, n in row["rows"].items():
            counts[bits] = counts.get(bits, 0) + n
    ratios = [row["error_to_uniform"] for row in rows if "error_to_uniform" in row]
    mean = sum(ratios) / len(ratios) if ratios else None
    return {"rows_by_bits": dict(sorted(counts.items())), "mean_error_to_uniform": mean}


def pictures(ours: Tensor, theirs: Tensor, recipe: QuantizeRecipe, run: Run) -> dict[str, str]:
    """Save images of both models from the same noise, in -1..1; returns caption -> file."""
    figures: dict[str, str] = {}
    if not run.runtime.is_main or ours.shape[1] not in (1, 3):
        return figures
    folder = run.path / "pictures"
    folder.mkdir(exist_ok=True)
    for name, images, caption in (
        ("full-precision.png", theirs, "Full precision"),
        ("quantized.png", ours, f"Quantized to {recipe.bits}, from the same noise"),
    ):
        save_grid(to_bytes(images), folder / name, n_columns=8)
        figures[caption] = f"pictures/{name}"
    return figures
