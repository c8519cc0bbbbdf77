"""How far a quantized model is from the full-precision one, and from the data."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from effcli.core.progress import progress_bar
from effcli.core.run import Run
from effcli.core.runtime import Runtime
from effcli.data.image_sets import check_images, load_images, to_bytes
from effcli.diffusion.conditioning import Guided
from effcli.diffusion.ddim import ddim_scheduler, sample
from effcli.diffusion.models import Decode
from effcli.diffusion.sampler_settings import SamplerSettings
from effcli.metrics.features import FeatureSpace, Moments, load_features
from effcli.metrics.frechet import frechet_distance
from effcli.quantize.recipe import EvalSection


@torch.inference_mode()
def draw_images(
    guided: Guided,
    sampler: SamplerSettings,
    n_images: int,
    batch_size: int,
    runtime: Runtime,
    *,
    title: str = "sample",
    show_progress: bool = False,
    check_stop: Callable[[], None] = lambda: None,
) -> Tensor:
    """Images ``[N, C, H, W]``, float32 on the CPU; the same noise and conditions for every model and batch size.

    With several ranks each draws its share of the batches, and all get all images.

    Args:
        guided: the model.
        sampler: the settings.
        n_images, batch_size: how many, and how many at a time.
        runtime: seed and precision.
        title: of the progress bar.
        show_progress: whether there is one.
        check_stop: called before each batch; raises to stop.
    """
    scheduler = ddim_scheduler(guided.scheduler_config, sampler.steps)
    generator = runtime.generator("noise")
    noise = torch.randn(n_images, *guided.sample_shape, generator=generator)
    condition = guided.draw(n_images, runtime.generator("condition"))
    parts: list[tuple[int, Tensor]] = []
    starts = range(0, n_images, batch_size)
    n_rounds = math.ceil(len(starts) / runtime.world)
    with progress_bar(title, n_rounds, unit="batches", show=show_progress) as advance:
        for turn in range(n_rounds):
            check_stop()  # in all ranks equally often
            start = (turn * runtime.world + runtime.rank) * batch_size
            if start >= n_images:
                continue
            rows = slice(start, start + batch_size)
            predict = guided.predictor({name: value[rows] for name, value in condition.items()})
            fresh = runtime.generator("fresh", start) if sampler.eta > 0 else None
            with runtime.autocast():
                images = sample(
                    predict, scheduler, noise[rows].to(guided.device), eta=sampler.eta, generator=fresh
                )
            parts.append((start, images.float().cpu()))
            advance()
    every = [part for share in runtime.gather(parts) for part in share]
    return torch.cat([images for _, images in sorted(every, key=lambda part: part[0])])


def measure(
    images: Tensor, reference: Tensor, settings: EvalSection, space: FeatureSpace, decode: Decode
) -> dict[str, Any]:
    """Distances of a quantized model's images from the full-precision model's and from real ones.

    Args:
        images: of the quantized model, ``[N, C, H, W]``.
        reference: of the full-precision model from the same noise.
        settings: where real images come from.
        space: the features.
        decode: to images in -1..1, in which all but ``mse_to_fp`` is measured.

    Returns:
        ``mse_to_fp``, the same over the variance of the reference; ``feature_mse_to_fp``, the mean squared distance of
        an image pair's features over their variance; ``fd_fp``; ``fd`` and ``fd_full_precision``,
        None where there are no real images.
    """
    decoded = to_bytes(decode(images))
    ours, theirs = space.features(decoded), space.features(to_bytes(decode(reference)))
    error = (images - reference).square().mean()
    metrics: dict[str, Any] = {
        "mse_to_fp": float(error),
        "mse_to_fp_relative": float(error / reference.var(0).mean()),
        "feature_mse_to_fp": float((ours - theirs).square().sum(1).mean() / theirs.var(0).sum()),
        "fd_fp": frechet_distance(ours, theirs),
        "fd_features": space.name,
        "eval_images": len(images),
    }
    real = _real_moments(settings, space, decoded)
    metrics["fd"] = None if real is None else frechet_distance(ours, real)
    metrics["fd_full_precision"] = None if real is None else frechet_distance(theirs, real)
    return metrics


def choose_features(settings: EvalSection, sample_shape: tuple[int, int, int]) -> FeatureSpace:
    """The recipe's feature space; ``auto`` takes the built-in one for grey 16x16 images, else the pixels.

    Raises:
        InputError: there is no such space, or ``data`` holds no images.
    """
    if settings.data is not None:
        check_images(settings.data, "train")
    if settings.features != "auto":
        return load_features(settings.features)
    return load_features("builtin:fashion-features" if sample_shape == (1, 16, 16) else "pixels")


def _real_moments(settings: EvalSection, space: FeatureSpace, like: Tensor) -> Moments | None:
    if settings.data is None:
        return space.reference
    channels, side = like.shape[1], like.shape[-1]
    real = load_images(settings.data, "train", side=side, channels=1 if channels == 1 else 3)
    return Moments.of(space.features(real.images))


def evaluate(
    teacher: Guided,
    student: nn.Module,
    sampler: SamplerSettings,
    settings: EvalSection,
    decode: Decode,
    run: Run,
) -> tuple[dict[str, Any], Tensor, Tensor]:
    """Draw from both models and measure; returns the metrics, the student's images and the teacher's."""
    space = choose_features(settings, teacher.sample_shape)
    images = {}
    for name, unet in (("full precision", teacher.unet), ("quantized", student)):
        images[name] = run.stage(
            f"evaluate {name}".replace(" ", "-"),
            lambda unet=unet, name=name: draw_images(
                teacher.with_unet(unet),
                sampler,
                settings.n_images,
                settings.batch_size,
                run.runtime,
                title=f"evaluate, {name}",
                show_progress=run.show_progress,
                check_stop=run.check_stop,
            ),
        )
    ours, theirs = images["quantized"], images["full precision"]
    return measure(ours, theirs, settings, space, decode), ours, theirs
