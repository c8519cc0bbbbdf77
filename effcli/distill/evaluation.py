"""Students at their few steps, beside their teacher at as few and at many steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from effcli.core.run import Run
from effcli.core.runtime import Runtime
from effcli.data.image_sets import to_bytes
from effcli.data.picture_grid import save_grid
from effcli.diffusion.autoencoders import Decode, decoder_of
from effcli.diffusion.conditioning import Guided
from effcli.diffusion.sampler_settings import SamplerSettings
from effcli.diffusion.sampling import sample_images
from effcli.diffusion.schedulers import DISTILLED_TIMESTEPS
from effcli.distill.inputs.teacher import DiffusionTeacher, is_told_texts
from effcli.distill.recipe import SAMPLED
from effcli.distill.time_grid import TimeGrid
from effcli.metrics.distance_settings import DistanceSettings
from effcli.metrics.features import choose_features, moments_of, real_features
from effcli.metrics.frechet import frechet_distance

N_PICTURES = 32
Sampled = dict[str, Any]
"""``images``, uint8 ``[N, C, S, S]``, and ``seconds`` per image."""


def compare(
    teacher: DiffusionTeacher,
    students: Mapping[int, Guided],
    teacher_steps: int,
    settings: DistanceSettings,
    runtime: Runtime,
    *,
    stage: Callable[[str, Callable[[], Sampled]], Sampled] = lambda name, compute: compute(),
    check_stop: Callable[[], None] = lambda: None,
    show_progress: bool = False,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Sample from all models with the same noise and compare.

    Args:
        teacher: sampled with DDIM, at ``teacher_steps`` and at each student's number of steps.
        students: steps -> student.
        teacher_steps: of the teacher that the others are compared with.
        settings: images, features, real images.
        runtime: device, precision, seeds.
        stage: computes a value, or finds it where an interrupted run left it.
        check_stop: called before each batch; raises to stop.
        show_progress: whether there are progress bars.

    Returns:
        the metrics: ``fd_by_steps`` and ``fd_ddim_by_steps`` of students and teacher, ``fd_teacher``,
        ``mse_to_teacher_by_steps`` (pixels in -1..1), ``s_per_image_by_steps``, and of images that the settings name
        ``kid_by_steps``, ``precision_by_steps``, ``recall_by_steps`` and the same ``_teacher``; network calls, how many
        fewer of them the last student needs and how much faster it is; and pictures by caption. Distances are None
        without real images.
    """
    guided, decode = teacher.guided, decoder_of(teacher.autoencoder)
    runs = {f"teacher-{teacher_steps}": (_at_steps(guided, teacher_steps), teacher_steps)}
    runs |= {f"ddim-{steps}": (_at_steps(guided, steps), steps) for steps in sorted(students, reverse=True)}
    runs |= {f"student-{steps}": (model, steps) for steps, model in students.items()}
    sampled = {
        name: stage(
            f"evaluate-{name}",
            lambda model=model, name=name: _sample(  # type: ignore[misc]
                model, decode, settings, runtime, name, check_stop=check_stop, show_progress=show_progress
            ),
        )
        for name, (model, _) in runs.items()
    }
    shape = teacher.picture_shape
    return _metrics(sampled, sorted(students), teacher_steps, shape, settings), _pictures(sampled, runs)


def with_real_images(
    settings: DistanceSettings, teacher: DiffusionTeacher, training_images: str
) -> DistanceSettings:
    """Compare with the training images where neither the recipe nor the feature space says otherwise.

    Where the teacher sampled those itself, or they have captions, there is nothing to compare with.
    """
    if settings.data is not None or choose_features(settings, teacher.picture_shape).reference is not None:
        return settings
    if training_images == SAMPLED or is_told_texts(teacher.model):
        return settings
    return settings.model_copy(update={"data": training_images})


def _at_steps(teacher: Guided, steps: int) -> Guided:
    """The teacher as a DDIM sampler at the timesteps that a student of so many steps visits."""
    timesteps = TimeGrid(teacher.scheduler_config, torch.device("cpu")).timesteps(steps)
    return teacher.at({**teacher.scheduler_config, DISTILLED_TIMESTEPS: timesteps})


def _sample(
    guided: Guided,
    decode: Decode,
    settings: DistanceSettings,
    runtime: Runtime,
    name: str,
    *,
    check_stop: Callable[[], None],
    show_progress: bool,
) -> Sampled:
    started = time.perf_counter()
    images = sample_images(
        guided,
        SamplerSettings(),
        settings.n_images,
        settings.batch_size,
        runtime,
        title=f"evaluate, {name}",
        show_progress=show_progress,
        check_stop=check_stop,
    )
    images = torch.cat([to_bytes(decode(part)) for part in images.split(settings.batch_size)])
    seconds = time.perf_counter() - started
    return {"images": images, "seconds": seconds / len(images)}


def _metrics(
    sampled: Mapping[str, Sampled],
    few: list[int],
    teacher_steps: int,
    picture_shape: tuple[int, int, int],
    settings: DistanceSettings,
) -> dict[str, Any]:
    space = choose_features(settings, picture_shape)
    reference = sampled[f"teacher-{teacher_steps}"]
    features = {name: space.features(one["images"]) for name, one in sampled.items()}
    real = real_features(settings, space, reference["images"])
    moments = moments_of(real, settings, space)

    def fd(name: str) -> float | None:
        return None if moments is None else frechet_distance(features[name], moments)

    def mse(name: str) -> float:
        difference = sampled[name]["images"].float() - reference["images"].float()
        return float((difference / 127.5).square().mean())

    last = min(few)
    compared = {} if real is None else _against_images(features, real, few, teacher_steps)
    return compared | {
        "fd_by_steps": {str(steps): fd(f"student-{steps}") for steps in few},
        "fd_ddim_by_steps": {str(steps): fd(f"ddim-{steps}") for steps in few},
        "fd_teacher": fd(f"teacher-{teacher_steps}"),
        "fd_features": space.name,
        "mse_to_teacher_by_steps": {str(steps): mse(f"student-{steps}") for steps in few},
        "mse_ddim_to_teacher_by_steps": {str(steps): mse(f"ddim-{steps}") for steps in few},
        "network_calls": last,
        "network_calls_teacher": teacher_steps,
        "fewer_calls": teacher_steps / last,
        "s_per_image_by_steps": {str(steps): sampled[f"student-{steps}"]["seconds"] for steps in few},
        "s_per_image_teacher": reference["seconds"],
        "faster": reference["seconds"] / sampled[f"student-{last}"]["seconds"],
        "eval_images": len(reference["images"]),
    }


def _against_images(
    features: Mapping[str, Tensor], real: Tensor, few: list[int], teacher_steps: int
) -> dict[str, Any]:
    """``kid``, ``precision`` and ``recall`` ``_by_steps`` of students and ``_teacher``, against features ``[N, D]``."""
    chosen = torch.randperm(len(real), generator=torch.Generator().manual_seed(0))
    real = real[chosen[: len(next(iter(features.values())))]]
    own = {str(steps): features[f"student-{steps}"] for steps in few}
    of_teacher = features[f"teacher-{teacher_steps}"]
    measures: dict[str, Callable[[Tensor, Tensor], float | None]] = {
        "kid": kernel_distance,
        "precision": share_within,
        "recall": lambda one, other: share_within(other, one),
    }
    found: dict[str, Any] = {}
    for name, measure in measures.items():
        found[f"{name}_by_steps"] = {steps: measure(one, real) for steps, one in own.items()}
        found[f"{name}_teacher"] = measure(of_teacher, real)
    return found


def kernel_distance(features: Tensor, others: Tensor) -> float | None:
    """KID without subsets: unbiased MMD^2 with the kernel (x . y / D + 1)^3 (Binkowski et al., ICLR 2018).

    Args:
        features, others: ``[N, D]``; of the larger set as many rows are used as the smaller has.

    Returns:
        None for sets of one.
    """
    from torchmetrics.image.kid import poly_mmd

    n = min(len(features), len(others))
    return None if n < 2 else float(poly_mmd(features[:n].double(), others[:n].double()))


def share_within(features: Tensor, others: Tensor, k: int = 3) -> float:
    """Share of ``features`` within the manifold of ``others``, 0 to 1 (Kynkaanniemi et al., NeurIPS 2019, Algorithm 1).

    Of samples in the manifold of real images that is precision; of real images in that of samples, recall.

    Args:
        features: ``[N, D]``.
        others: ``[M, D]``; each is the centre of a ball that reaches its ``k``-th neighbour.
        k: at most M - 1 neighbours are used.
    """
    k = min(k, len(others) - 1)
    radii = torch.cdist(others, others).kthvalue(k + 1, dim=1).values  # the nearest is the point itself
    return float((torch.cdist(features, others) <= radii).any(1).float().mean())


def _pictures(sampled: Mapping[str, Sampled], runs: Mapping[str, tuple[Guided, int]]) -> dict[str, Tensor]:
    pictures = {}
    for name, (_, steps) in runs.items():
        who, how = ("Student", "step") if name.startswith("student") else ("Teacher", "DDIM step")
        caption = f"{who}, {steps} {how}{'' if steps == 1 else 's'}"
        pictures[caption] = sampled[name]["images"][:N_PICTURES]
    return pictures


def save_pictures(pictures: Mapping[str, Tensor], run: Run) -> dict[str, str]:
    """Write one grid per model, all from the same noise; returns caption -> file."""
    figures = {}
    for caption, images in pictures.items():
        name = "pictures/" + caption.lower().replace(",", "").replace(" ", "-") + ".png"
        save_grid(images, run.file(name), n_columns=8)
        figures[caption] = name
    return figures
