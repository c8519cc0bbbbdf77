"""How far a quantized model is from the full-precision one, and from the data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from effcli.core.runtime import Runtime
from effcli.data.image_sets import to_bytes
from effcli.diffusion.autoencoders import Decode
from effcli.diffusion.conditioning import Guided
from effcli.diffusion.sampler_settings import SamplerSettings
from effcli.diffusion.sampling import sample_images
from effcli.metrics.distance_settings import DistanceSettings
from effcli.metrics.features import FeatureSpace, choose_features, real_moments
from effcli.metrics.frechet import frechet_distance


def compare(
    teacher: Guided,
    student: nn.Module,
    sampler: SamplerSettings,
    settings: DistanceSettings,
    decode: Decode,
    runtime: Runtime,
    *,
    stage: Callable[[str, Callable[[], Tensor]], Tensor] = lambda name, compute: compute(),
    check_stop: Callable[[], None] = lambda: None,
    show_progress: bool = False,
) -> tuple[dict[str, Any], Tensor, Tensor]:
    """Sample from both models with the same noise and measure.

    Args:
        teacher: the full-precision model.
        student: its quantized UNet.
        sampler: how both sample.
        settings: number of images, features, real images.
        decode: to images in -1..1.
        runtime: device, precision, seeds.
        stage: computes a value, or finds it where an interrupted run left it.
        check_stop: called before each batch; raises to stop.
        show_progress: whether there are progress bars.

    Returns:
        the metrics of :func:`measure`, the student's images and the teacher's, ``[N, C, H, W]``.
    """
    space = choose_features(settings, teacher.sample_shape)

    def images_of(name: str, unet: nn.Module) -> Tensor:
        return stage(
            f"evaluate {name}".replace(" ", "-"),
            lambda: sample_images(
                teacher.with_unet(unet),
                sampler,
                settings.n_images,
                settings.batch_size,
                runtime,
                title=f"evaluate, {name}",
                show_progress=show_progress,
                check_stop=check_stop,
            ),
        )

    theirs, ours = images_of("full precision", teacher.unet), images_of("quantized", student)
    return measure(ours, theirs, settings, space, decode), ours, theirs


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
        ``mse_to_fp``; ``mse_to_fp_relative``, the same over the variance of the reference; ``feature_mse_to_fp``, the
        mean squared distance between the features of an image pair over their variance; ``fd_fp``; ``fd`` and
        ``fd_full_precision``, None where there are no real images.
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
