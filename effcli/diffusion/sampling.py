"""Many images of a model, in batches that the ranks share."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from effcli.core.progress import progress_bar
from effcli.core.runtime import Runtime
from effcli.core.tensor_file import require_finite_output
from effcli.diffusion.conditioning import Guided
from effcli.diffusion.ddim import ddim_scheduler, needs_noise, sample
from effcli.diffusion.sampler_settings import SamplerSettings


@torch.inference_mode()
def sample_images(
    guided: Guided,
    sampler: SamplerSettings,
    n_images: int,
    batch_size: int,
    runtime: Runtime,
    *,
    labels: Tensor | None = None,
    title: str = "sample",
    show_progress: bool = False,
    check_stop: Callable[[], None] = lambda: None,
) -> Tensor:
    """Images ``[N, C, H, W]``, float32 on the CPU; the same noise and conditions for every model and batch size.

    With several ranks each samples its share of the batches, and all get all images.

    Args:
        guided: the model.
        sampler: the settings.
        n_images, batch_size: number of images, in all and at a time.
        runtime: seed and precision.
        labels: classes, int64 ``[N]``; None: random ones.
        title: of the progress bar.
        show_progress: whether there is one.
        check_stop: called before each batch; raises to stop.

    Raises:
        InputError: the model does not have the classes.
    """
    scheduler = ddim_scheduler(guided.scheduler_config, sampler.steps)
    generator = runtime.generator("noise")
    noise = torch.randn(n_images, *guided.sample_shape, generator=generator)
    condition = guided.random_condition(n_images, runtime.generator("condition"))
    if labels is not None:
        condition = guided.with_labels(condition, labels)
    parts: list[tuple[int, Tensor]] = []
    starts = range(0, n_images, batch_size)
    tuner = runtime.tuner("sample")
    n_rounds = math.ceil(len(starts) / runtime.world)
    with progress_bar(title, n_rounds, unit="batches", show=show_progress) as advance:
        for turn in range(n_rounds):
            check_stop()  # in all ranks equally often
            start = (turn * runtime.world + runtime.rank) * batch_size
            if start >= n_images:
                continue
            rows = slice(start, start + batch_size)
            predict = guided.predictor({name: value[rows] for name, value in condition.items()})
            fresh = runtime.generator("fresh", start) if needs_noise(scheduler, sampler.eta) else None
            with tuner.step(len(noise[rows])), runtime.autocast():
                images = sample(
                    predict, scheduler, noise[rows].to(guided.device), eta=sampler.eta, generator=fresh
                )
            parts.append((start, require_finite_output(images.float().cpu(), "the sampled images")))
            advance()
    every = [part for share in runtime.gather(parts) for part in share]
    return torch.cat([images for _, images in sorted(every, key=lambda part: part[0])])
