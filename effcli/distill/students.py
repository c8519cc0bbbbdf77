"""Students of a finished run, for the verbs and for Python."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image, fromarray
from torch import Tensor

from effcli.core.errors import InputError
from effcli.core.evidence.result import Result, result_of_verb
from effcli.core.recipe import read_recipe
from effcli.core.registry import recipe_of_run
from effcli.core.runtime import Runtime
from effcli.data.image_sets import to_bytes
from effcli.diffusion.conditioning import Guided
from effcli.diffusion.ddim import ddim_scheduler, sample
from effcli.diffusion.models import DiffusionModel, load_model
from effcli.diffusion.sampler_settings import SamplerSettings
from effcli.diffusion.sampling import draw_images
from effcli.diffusion.schedulers import DISTILLED_TIMESTEPS
from effcli.distill.evaluation import evaluate, with_real_images
from effcli.distill.recipe import ProgressiveRecipe
from effcli.metrics.distance_settings import DistanceSettings

STUDENTS = "students"
"""The folder of a run in which the students are, each in one that is called like its number of steps."""


def load_student(place: str | Path, steps: int | None = None) -> DiffusionModel:
    """A student with its scheduler.

    Args:
        place: a run directory of `effcli distill`, or a folder in it.
        steps: which student of a run; None: the last.

    Raises:
        InputError: it is not there, or no student.
    """
    folder = Path(place)
    if steps is not None:
        folder = folder / STUDENTS / str(steps)
        if not folder.is_dir():
            there = ", ".join(map(str, steps_in(Path(place)))) or "none"
            raise InputError(f"has no student of {steps} steps", place=str(place), hint=f"there are: {there}")
    model = load_model(str(folder))
    if DISTILLED_TIMESTEPS not in model.scheduler_config:
        raise InputError("is not a student of `effcli distill`", place=str(place))
    return model


def steps_in(run: Path) -> list[int]:
    """The numbers of steps of a run's students, the largest first."""
    names = [path.name for path in (run / STUDENTS).glob("*") if (path / "student.json").is_file()]
    return sorted((int(name) for name in names if name.isdecimal()), reverse=True)


class Sampler:
    """Pictures from a student, in its few steps.

    Args:
        place, steps: as of :func:`load_student`.
        device: where to compute.
    """

    def __init__(self, place: str | Path, steps: int | None = None, *, device: str = "cpu") -> None:
        model = load_student(place, steps)
        self._guided = Guided(model, model.unet.to(device))
        self._device = device

    @torch.inference_mode()
    def __call__(
        self,
        n: int = 1,
        *,
        class_labels: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> list[Image]:
        """Draw pictures.

        Args:
            n: how many.
            class_labels: int64 ``[n]``, for class-conditional students; None draws them at random.
            generator: of the noise, on the CPU.
        """
        generator = generator or torch.Generator().manual_seed(torch.seed() % 2**63)
        noise = torch.randn(n, *self._guided.sample_shape, generator=generator).to(self._device)
        condition = self._guided.draw(n, generator)
        if class_labels is not None:
            condition = {"class_labels": class_labels}
        predict = self._guided.predictor(condition)
        images = to_bytes(sample(predict, ddim_scheduler(self._guided.scheduler_config), noise).cpu())
        grey = images.shape[1] == 1
        return [
            fromarray((image[0] if grey else image.permute(1, 2, 0).contiguous()).numpy()) for image in images
        ]


def sample_student(
    place: str | Path,
    n_images: int,
    runtime: Runtime,
    *,
    steps: int | None = None,
    batch_size: int = 64,
    show_progress: bool = False,
) -> Tensor:
    """Images of a student, uint8 ``[n_images, C, S, S]``."""
    model = load_student(place, steps)
    guided = Guided(model, model.unet.to(runtime.device))
    images = draw_images(
        guided, SamplerSettings(), n_images, batch_size, runtime, show_progress=show_progress
    )
    return to_bytes(images)


def evaluate_run(
    run: str | Path,
    settings: DistanceSettings,
    runtime: Runtime,
    *,
    teacher_steps: int | None = None,
    show_progress: bool = False,
) -> Result:
    """All students of a run beside their teacher; see :func:`effcli.distill.evaluation.evaluate`.

    Raises:
        InputError: it is no run of `effcli distill`, or its teacher is not there any more.
    """
    started = time.perf_counter()
    students = {steps: load_student(run, steps) for steps in steps_in(Path(run))}
    if not students:
        raise InputError("holds no students", place=str(run), hint="name a run directory of `effcli distill`")
    recipe: Any = recipe_of_run("distill", run)
    assert isinstance(recipe, ProgressiveRecipe)
    teacher = load_model(recipe.model)
    metrics, _ = evaluate(
        teacher,
        students,
        teacher_steps or recipe.teacher_steps,
        with_real_images(settings, teacher, recipe.data.source),
        runtime,
        show_progress=show_progress,
    )
    return result_of_verb(
        "distill",
        "eval",
        recipe.method,
        recipe=Path(read_recipe("distill", str(run))[1]).parent.name,
        output=str(run),
        metrics=metrics,
        runtime=runtime,
        total_s=time.perf_counter() - started,
    )
