"""The verbs of `effcli quantize` step by step, whatever the method: run, sample, eval."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from effcli import __version__
from effcli.core.errors import InputError, UsageError
from effcli.core.evidence.result import Result, result_of_verb
from effcli.core.memory import return_freed_memory
from effcli.core.plan import Plan
from effcli.core.progress import progress_bar
from effcli.core.registry import load_method
from effcli.core.run import Run
from effcli.core.runtime import DTYPES, Runtime, create_runtime
from effcli.core.tensor_file import require_finite_output
from effcli.data.image_sets import to_bytes
from effcli.data.picture_grid import save_grid
from effcli.diffusion.autoencoders import load_decoder
from effcli.diffusion.checking import check_forward
from effcli.diffusion.conditioning import Guided
from effcli.diffusion.ddim import ddim_scheduler
from effcli.diffusion.folders import is_latent
from effcli.diffusion.models import (
    DiffusionModel,
    describe_model,
    load_model,
    network_timesteps,
)
from effcli.diffusion.sampler_settings import ConditionSection, SamplerSettings
from effcli.diffusion.sampling import sample_images
from effcli.metrics.distance_settings import DistanceSettings
from effcli.metrics.features import choose_features
from effcli.quantize.calibration import check_weights
from effcli.quantize.estimates import cost_of_run, cost_of_weights, timed_calls
from effcli.quantize.evaluation import compare
from effcli.quantize.fake_quantization.layers import find_layers, quantized_layers
from effcli.quantize.loaded.fused_lora import describe_lora, lora_of, with_lora
from effcli.quantize.loaded.source import check_source, describe_source, find_pipeline, rebuild
from effcli.quantize.mpq_dm import summary
from effcli.quantize.packed.layer import codes_of_layer, with_dtype_of_file
from effcli.quantize.packed.model import PackedModel, about_unet
from effcli.quantize.packed_unet import Backend, unet_of
from effcli.quantize.recipe import MpqDmRecipe, QuantizeRecipe
from effcli.quantize.unread_models import UnreadModel, open_model
from effcli.quantize.weights import find_packed, load_packed, save_packed
from effcli.quantize.weights_only import pack_weights, packed_bytes

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


# --- run ---------------------------------------------------------------------------------------------------


def plan_run(recipe: QuantizeRecipe) -> Plan[DiffusionModel | UnreadModel]:
    """The model, loaded and checked, and what :func:`run` would do with it."""
    if isinstance(recipe, MpqDmRecipe) and recipe.fast:
        return _plan_weights_alone(recipe)
    model = with_lora(load_model(recipe.model), recipe.lora)
    check_weights(model.unet, recipe.model)
    ddim_scheduler(model.scheduler_config, recipe.sampler.steps)
    own = method_of(recipe).plan(recipe, model)
    guided = guided_model(model, recipe, create_runtime(device="cpu").device)
    with timed_calls(model.unet) as seconds:
        check_forward(model, guided, decode=load_decoder(model, guided.device))
    sample_shape = guided.sample_shape
    choose_features(recipe.eval, sample_shape)
    facts: dict[str, Any] = {
        "parameters": sum(parameter.numel() for parameter in model.unet.parameters()),
        **describe_model(model),
        **own,
        "sample_shape": list(sample_shape),
        "eval_images": recipe.eval.n_images,
    }
    if isinstance(recipe, MpqDmRecipe):
        n_steps = len(network_timesteps(model, recipe.sampler.steps))
        facts |= cost_of_run(model.unet, recipe, n_steps, sum(seconds))
    return Plan(facts, model)


def _plan_weights_alone(recipe: MpqDmRecipe) -> Plan[DiffusionModel | UnreadModel]:
    if recipe.lora.file is not None:
        raise UsageError(
            "--fast cannot merge a LoRA, because it reads one layer at a time",
            place="lora.file",
            hint="leave out --fast",
        )
    source = open_model(recipe.model)
    layers = find_layers(source.model.unet, recipe.allocation.profile)
    parameters = sum(parameter.numel() for parameter in source.model.unet.parameters())
    in_layers = sum(found.layer.weight.numel() for found in layers)
    n_bytes = packed_bytes(source.model.unet, recipe)
    facts = {
        "parameters": parameters,
        **describe_model(source.model),
        "quantized_layers": len(layers),
        "quantized_weights": f"{in_layers / parameters:.1%}",
        "size_mb": round(n_bytes / 1e6, 1),
        "bits_per_parameter": round(8 * n_bytes / parameters, 3),
        **cost_of_weights(source.model.unet, recipe),
    }
    return Plan(facts, source)


def run(recipe: QuantizeRecipe, model: DiffusionModel | UnreadModel, run: Run) -> Result:
    """Quantize a model, pack it, and measure what came out of the file."""
    if isinstance(model, UnreadModel):
        assert isinstance(recipe, MpqDmRecipe)
        return _run_weights_alone(recipe, model, run)
    teacher = guided_model(model, recipe, run.runtime.device)
    student, facts = method_of(recipe).quantize(recipe, model, teacher, run)
    file = run.path / "model"
    if run.runtime.is_main:
        save_packed(file, pack(student, model, recipe))
    run.runtime.barrier()
    packed = load_packed(file)
    decode = load_decoder(model, run.runtime.device)
    metrics, ours, theirs = compare(
        teacher,
        unet_of(packed, device=run.runtime.device),
        recipe.sampler,
        recipe.eval,
        decode,
        run.runtime,
        stage=run.stage,
        check_stop=run.check_stop,
        show_progress=run.show_progress,
    )
    return run.finish(
        {**packed.sizes(), **metrics, **facts},
        lambda: save_pictures(decode(ours[:N_PICTURES]), decode(theirs[:N_PICTURES]), recipe, run),
    )


def _run_weights_alone(recipe: MpqDmRecipe, source: UnreadModel, run: Run) -> Result:
    return_freed_memory()
    network = source.model.unet
    n_layers = len(find_layers(network, recipe.allocation.profile))
    with progress_bar("quantize", n_layers, unit="layers", show=run.show_progress) as advance:

        def after_layer() -> None:
            advance()
            run.check_stop()

        packed = pack_weights(source, recipe, after_layer)
    about = about_of(source.model, recipe)
    model = PackedModel(
        about, packed.layers, packed.others, **about_unet(network, source.model.scheduler_config)
    )
    if run.runtime.is_main:
        save_packed(run.path / "model", model)
    run.runtime.barrier()
    size = find_packed(run.path).stat().st_size
    facts = {
        "weight_error_relative": packed.error / max(packed.size, 1e-30),
        "allocation": summary(packed.rows),
    }
    return run.finish({**replace(model, size_bytes=size).sizes(), **facts})


def guided_model(model: DiffusionModel, recipe: QuantizeRecipe, device: torch.device) -> Guided:
    """The full-precision model with its conditions, on ``device``."""
    return Guided(
        model,
        model.unet.to(device),
        guidance=recipe.sampler.guidance,
        prompts=recipe.condition.prompts,
        null_class=recipe.condition.null_class,
        inputs=recipe.condition.inputs,
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
    return PackedModel(
        about_of(model, recipe), layers, others, **about_unet(model.unet, model.scheduler_config)
    )


def about_of(model: DiffusionModel, recipe: QuantizeRecipe) -> dict[str, Any]:
    """How a packed model was made."""
    timesteps = network_timesteps(model, recipe.sampler.steps)
    return {
        "method": recipe.method,
        "bits": recipe.bits,
        **recipe.model_dump(include={"allocation"}),
        "bit_order": "little",
        "timesteps": timesteps,
        "sampler": recipe.sampler.model_dump() | {"steps": len(timesteps)},
        "condition": recipe.condition.model_dump()
        | {"prompts": _absolute(recipe.condition.prompts), "inputs": _absolute(recipe.condition.inputs)},
        "other_dtype": str(DTYPES[recipe.packing.other_dtype]).removeprefix("torch."),
        "source": describe_source(model),
        "lora": describe_lora(recipe.lora),
        "seed": recipe.seed,
        "torch": str(torch.__version__),
        "effcli": __version__,
    }


def save_pictures(ours: Tensor, theirs: Tensor, recipe: QuantizeRecipe, run: Run) -> dict[str, str]:
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


# --- of a packed model -------------------------------------------------------------------------------------


def sample(
    place: str | Path,
    n_images: int,
    runtime: Runtime,
    *,
    backend: Backend = "auto",
    batch_size: int = 64,
    full_precision: str | None = None,
    show_progress: bool = False,
) -> Tensor:
    """Images of a packed model, uint8 ``[n_images, C, H, W]``, with the sampler it was made for.

    Args:
        place: as of :func:`effcli.quantize.load`.
        n_images: how many.
        runtime: seed, device and precision.
        backend: as of :func:`effcli.quantize.load`.
        batch_size: images at a time.
        full_precision: where the model is now whose decoder and text encoder it needs; None: where it was.
        show_progress: whether there is a progress bar.

    Raises:
        InputError: the packed model, or a part that it needs, is not there or damaged.
        NonFiniteError: the images are NaN or infinite.
    """
    packed = load_packed(place)
    unet = unet_of(packed, backend, device=runtime.device, dtype=runtime.dtype)
    model = rebuild(packed, place, unet, full_precision)
    guided = _guided_as_packed(model, packed)
    _check_pictures(model)
    sampler = SamplerSettings(**packed.about["sampler"])
    images = sample_images(guided, sampler, n_images, batch_size, runtime, show_progress=show_progress)
    decoded = load_decoder(model, runtime.device)(images)
    return to_bytes(require_finite_output(decoded, "the decoded images"))


def _check_pictures(model: DiffusionModel) -> None:
    """Refuse, before anything is sampled, samples that no picture can be made of.

    Raises:
        InputError: they are neither grey nor RGB, and there is no decoder.
    """
    channels, height, width = model.sample_shape
    has_decoder = model.folder is not None and is_latent(model.folder)
    if channels not in (1, 3) and not has_decoder:
        raise InputError(
            f"its samples are {channels}x{height}x{width} without a decoder: no pictures can be made of them",
            place=model.source,
            hint="put the model's vae/ or vqvae/ beside it; effcli quantize eval measures the samples themselves",
        )


def evaluate(
    place: str | Path,
    full_precision: str | None,
    settings: DistanceSettings,
    runtime: Runtime,
    *,
    backend: Backend = "auto",
    show_progress: bool = False,
) -> Result:
    """Compare a packed model with its full-precision model, and with real images; see `evaluation.measure`.

    Raises:
        InputError: the full-precision model is not there, or is another one than was quantized.
    """
    started = time.perf_counter()
    packed = load_packed(place)
    source = packed.about["source"]
    model = load_model(check_source(packed, full_precision))
    if source["sha256"] is not None and model.sha256 != source["sha256"]:
        raise InputError("has other weights than the model that was quantized", place=model.source)
    model = with_lora(model, lora_of(packed.about.get("lora")))
    if model.folder is not None:
        find_pipeline(packed, place, model.source)  # whose decoder and text encoder are compared
    metrics, _, _ = compare(
        _guided_as_packed(model, packed).with_unet(model.unet.to(runtime.device)),
        unet_of(packed, backend, device=runtime.device, dtype=runtime.dtype),
        SamplerSettings(**packed.about["sampler"]),
        settings,
        load_decoder(model, runtime.device),
        runtime,
        show_progress=show_progress,
    )
    return result_of_verb(
        "quantize",
        "eval",
        packed.about["method"],
        recipe=packed.about["bits"],
        output=str(place),
        metrics={**packed.sizes(), **metrics},
        runtime=runtime,
        total_s=time.perf_counter() - started,
    )


def _absolute(path: str | None) -> str | None:
    return None if path is None else str(Path(path).absolute())


def _guided_as_packed(model: DiffusionModel, packed: PackedModel) -> Guided:
    condition = ConditionSection(**packed.about["condition"])
    return Guided(
        model,
        model.unet,
        guidance=packed.about["sampler"]["guidance"],
        prompts=condition.prompts,
        null_class=condition.null_class,
        inputs=condition.inputs,
    )
