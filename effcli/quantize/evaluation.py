"""How far a quantized model is from the full-precision one, and from the data."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from effcli.core.run import Run
from effcli.data.image_sets import to_bytes
from effcli.diffusion.conditioning import Guided
from effcli.diffusion.models import Decode
from effcli.diffusion.sampler_settings import SamplerSettings
from effcli.diffusion.sampling import draw_images
from effcli.metrics.distance_settings import DistanceSettings
from effcli.metrics.features import FeatureSpace, choose_features, real_moments
from effcli.metrics.frechet import frechet_distance


def measure(
    images: Tensor, reference: Tensor, settings: DistanceSettings, space: FeatureSpace, decode: Decode
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
    real = real_moments(settings, space, decoded)
    metrics["fd"] = None if real is None else frechet_distance(ours, real)
    metrics["fd_full_precision"] = None if real is None else frechet_distance(theirs, real)
    return metrics


def evaluate(
    teacher: Guided,
    student: nn.Module,
    sampler: SamplerSettings,
    settings: DistanceSettings,
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
