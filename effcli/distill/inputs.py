"""The teacher of a run and images for it, checked before any work."""

from __future__ import annotations

import torch

from effcli.core.errors import InputError, UsageError
from effcli.data.image_sets import ImageSet, load_images
from effcli.diffusion.checking import check_forward
from effcli.diffusion.configs import config_of
from effcli.diffusion.denoisers.classes import predicts_variances
from effcli.diffusion.models import DiffusionModel, load_model
from effcli.diffusion.processes import process_of
from effcli.diffusion.schedulers import DISTILLED_TIMESTEPS, ddim_config
from effcli.distill.recipe import ProgressiveRecipe, StudentsRecipe
from effcli.distill.rounds import rounds_of
from effcli.distill.time_grid import TimeGrid
from effcli.distill.trained.student import check_student


def load_teacher(recipe: StudentsRecipe) -> tuple[DiffusionModel, ImageSet]:
    """The model and images of its size.

    Raises:
        InputError: it is not a pixel-space UNet, or the images do not have its classes.
        UsageError: the numbers of steps do not fit it.
    """
    model = load_model(recipe.model)
    check_teacher(model)
    check_forward(model)
    channels, side, _ = model.sample_shape
    TimeGrid(model.scheduler_config, torch.device("cpu")).check_steps(
        recipe.student_steps, recipe.teacher_steps
    )
    if recipe.student_steps == recipe.teacher_steps and not _converts(recipe, model):
        raise UsageError("the student has as many steps as the teacher: nothing to do", place="student_steps")
    check_student(recipe.student, model)
    images = load_images(recipe.data.source, "train", side=side, channels=1 if channels == 1 else 3)
    n_classes = config_of(model.unet).get("num_class_embeds")
    if n_classes is not None:
        _check_classes(images, n_classes, recipe.data.source)
    return model, images


def _converts(recipe: StudentsRecipe, model: DiffusionModel) -> bool:
    return isinstance(recipe, ProgressiveRecipe) and bool(rounds_of(recipe, model))


def _check_classes(images: ImageSet, n_classes: int, place: str) -> None:
    """Refuse images whose labels cannot be the teacher's: labels are the numbers of classes in order."""
    n = len(images.classes)
    if n == n_classes:
        return
    if images.classes == ("",):
        raise InputError(
            f"has no classes, the teacher knows {n_classes}", place=place, hint="one sub-folder per class"
        )
    guided = "; a teacher whose last label means no class (for guidance) cannot be distilled"
    raise InputError(
        f"has {n} classes, the teacher knows {n_classes}",
        place=place,
        hint="labels are the numbers of the classes in order, so there must be as many"
        + (guided if n == n_classes - 1 else ""),
    )


def check_teacher(model: DiffusionModel) -> None:
    """Refuse what cannot be distilled here.

    Raises:
        InputError: with the reason.
    """
    if type(model.unet).__name__ == "UNet2DConditionModel":
        raise InputError(
            "is text-conditioned; only unconditional and class-conditional models can be distilled",
            place=model.source,
            hint="the losses compare images with a classifier, and the data come without prompts",
        )
    if type(model.unet).__name__ != "UNet2DModel":
        raise InputError(
            f"is a {type(model.unet).__name__}; only a UNet2DModel can be distilled", place=model.source
        )
    if predicts_variances(model.unet):
        raise InputError(
            "its UNet predicts variances beside the noise, which students would have to learn; such models cannot be "
            "distilled",
            place=model.source,
        )
    kind = config_of(model.unet).get("class_embed_type")
    if kind is not None:
        raise InputError(
            f"its UNet's class_embed_type is {kind!r}; only classes of a table (num_class_embeds) can be distilled",
            place=model.source,
        )
    folder = model.folder
    channels, height, width = model.sample_shape
    if folder is not None and any((folder / name).is_dir() for name in ("vae", "vqvae")):
        raise InputError(
            "is a latent model; only models that denoise pixels can be distilled",
            place=model.source,
            hint="its students would have to be decoded at every step",
        )
    if channels not in (1, 3) or height != width:
        raise InputError(
            f"denoises {channels}x{height}x{width}, not square grey or RGB images", place=model.source
        )
    _check_clipping(model)
    if DISTILLED_TIMESTEPS in model.scheduler_config:
        n = len(model.scheduler_config[DISTILLED_TIMESTEPS])
        raise InputError(f"is already a student of {n} steps; distill its teacher", place=model.source)


def _check_clipping(model: DiffusionModel) -> None:
    """Refuse clipping other than that of the targets, which are clipped to -1..1 or not at all."""
    if process_of(model.scheduler_config) is not None:
        return
    settings = ddim_config(model.scheduler_config)
    if settings["thresholding"]:
        raise InputError(
            "its scheduler's thresholding is true, which distillation does not do", place=model.source
        )
    if settings["clip_sample"] and settings["clip_sample_range"] != 1:
        raise InputError(
            f"its scheduler's clip_sample_range is {settings['clip_sample_range']}; "
            "distillation clips to -1..1 or not at all",
            place=model.source,
        )
