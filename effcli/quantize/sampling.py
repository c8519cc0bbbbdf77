"""Images from a packed model, and measurements of it, for the verbs that start from a packed file."""

from __future__ import annotations

import time
from pathlib import Path

from torch import Tensor

from effcli.core.errors import InputError
from effcli.core.evidence.result import Result, result_of_verb
from effcli.core.runtime import Runtime
from effcli.data.image_sets import to_bytes
from effcli.diffusion.conditioning import Guided
from effcli.diffusion.models import DiffusionModel, load_decoder, load_model
from effcli.diffusion.sampler_settings import SamplerSettings
from effcli.diffusion.sampling import draw_images
from effcli.metrics.distance_settings import DistanceSettings
from effcli.metrics.features import choose_features
from effcli.quantize.evaluation import measure
from effcli.quantize.loading import Backend, unet_of
from effcli.quantize.recipe import ConditionSection
from effcli.quantize.weights import PackedModel, load_packed


def sample_packed(
    place: str | Path,
    n_images: int,
    runtime: Runtime,
    *,
    backend: Backend = "auto",
    batch_size: int = 64,
    show_progress: bool = False,
) -> Tensor:
    """Images of a packed model, uint8 ``[n_images, C, H, W]``, with the sampler it was made for."""
    packed = load_packed(place)
    unet = unet_of(packed, backend, device=runtime.device, dtype=runtime.dtype)
    model = DiffusionModel(unet, packed.scheduler_config, str(place))
    if packed.unet_class != "UNet2DModel":
        model = load_model(packed.about["source"]["id"])  # for its text encoder and its decoder
    guided = _guided(model, packed).with_unet(unet)
    sampler = SamplerSettings(**packed.about["sampler"])
    images = draw_images(guided, sampler, n_images, batch_size, runtime, show_progress=show_progress)
    return to_bytes(load_decoder(model, runtime.device)(images))


def evaluate_packed(
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
    model = load_model(full_precision or source["id"])
    if source["sha256"] is not None and model.sha256 != source["sha256"]:
        raise InputError("has other weights than the model that was quantized", place=model.source)
    teacher = _guided(model, packed).with_unet(model.unet.to(runtime.device))
    space = choose_features(settings, teacher.sample_shape)
    sampler = SamplerSettings(**packed.about["sampler"])
    ours, theirs = (
        draw_images(
            teacher.with_unet(unet),
            sampler,
            settings.n_images,
            settings.batch_size,
            runtime,
            title=title,
            show_progress=show_progress,
        )
        for title, unet in (
            ("quantized", unet_of(packed, backend, device=runtime.device, dtype=runtime.dtype)),
            ("full precision", teacher.unet),
        )
    )
    metrics = {
        **packed.sizes(),
        **measure(ours, theirs, settings, space, load_decoder(model, runtime.device)),
    }
    return result_of_verb(
        "quantize",
        "eval",
        packed.about["method"],
        recipe=packed.about["bits"],
        output=str(place),
        metrics=metrics,
        runtime=runtime,
        total_s=time.perf_counter() - started,
    )


def _guided(model: DiffusionModel, packed: PackedModel) -> Guided:
    condition = ConditionSection(**packed.about["condition"])
    return Guided(
        model,
        model.unet,
        guidance=packed.about["sampler"]["guidance"],
        prompts=condition.prompts,
        null_class=condition.null_class,
    )
