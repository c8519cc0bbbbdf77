"""The teacher of a run and what its students learn from, checked before any work."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from effcli.core.errors import InputError, UsageError
from effcli.core.run import Run
from effcli.data.image_sets import ImageSet, load_images
from effcli.diffusion.autoencoders import Autoencoder, decoder_of, load_autoencoder
from effcli.diffusion.checking import check_forward
from effcli.diffusion.conditioning import Guided
from effcli.diffusion.configs import config_of
from effcli.diffusion.denoisers.classes import DENOISERS, class_name_of, is_unet, predicts_variances
from effcli.diffusion.denoisers.needs import n_classes_of, needs_of
from effcli.diffusion.denoisers.prompts import PromptEmbedder, load_embedder
from effcli.diffusion.folders import is_latent
from effcli.diffusion.models import DiffusionModel, load_model
from effcli.diffusion.notices import say_once
from effcli.diffusion.processes import process_of
from effcli.diffusion.sampler_settings import SamplerSettings
from effcli.diffusion.sampling import sample_images
from effcli.diffusion.schedulers import DISTILLED_TIMESTEPS, ddim_config
from effcli.distill.clip_kd.inputs import load_pairs
from effcli.distill.clip_kd.recipe import ClipPairsSection
from effcli.distill.inputs.examples import CaptionedExamples, Examples, ImageExamples, SampledExamples
from effcli.distill.recipe import SAMPLED, ProgressiveRecipe, StudentsRecipe
from effcli.distill.rounds import rounds_of
from effcli.distill.time_grid import TimeGrid
from effcli.distill.trained.student import check_student


@dataclass(frozen=True)
class DiffusionTeacher:
    """A model that is distilled.

    Attributes:
        model: its network, which is frozen, and its scheduler.
        guided: the same with its conditions, guided as the recipe says.
        autoencoder: of a latent model.
        embedder: of a text-conditional model whose students learn from images with captions.
    """

    model: DiffusionModel
    guided: Guided
    autoencoder: Autoencoder | None = None
    embedder: PromptEmbedder | None = None

    @cached_property
    def picture_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image; the network's own where it does not denoise latents."""
        if self.autoencoder is None:
            return self.model.sample_shape
        latents = torch.zeros(1, *self.model.sample_shape, device=self.guided.device)
        with torch.no_grad():
            shape = self.autoencoder.decode(latents).shape
        return shape[1], shape[2], shape[3]

    def to(self, device: torch.device) -> DiffusionTeacher:
        """The same, with the networks on ``device``."""
        self.model.unet.to(device)
        if self.autoencoder is not None:
            self.autoencoder.network.to(device)
        if self.embedder is not None:
            self.embedder.to(device)
        return self


def load_teacher(recipe: StudentsRecipe) -> DiffusionTeacher:
    """The teacher with its conditions.

    Raises:
        InputError: it cannot be distilled, or lacks a condition.
        UsageError: the numbers of steps do not fit it.
    """
    model = load_model(recipe.model)
    check_teacher(model)
    settings = recipe.condition
    embedder = None
    if settings.inputs is None and recipe.training_images != SAMPLED and is_told_texts(model):
        embedder = load_embedder(model.unet, model.folder, model.source)
    guided = Guided(
        model,
        model.unet,
        guidance=recipe.guidance,
        prompts=settings.prompts,
        null_class=settings.null_class,
        inputs=settings.inputs,
        embedder=embedder,
    )
    cpu = torch.device("cpu")
    teacher = DiffusionTeacher(model, guided, load_autoencoder(model, cpu), embedder)
    check_forward(model, guided, decode=decoder_of(teacher.autoencoder))
    TimeGrid(model.scheduler_config, cpu).check_steps(recipe.student_steps, recipe.teacher_steps)
    if recipe.student_steps == recipe.teacher_steps and not _converts(recipe, model):
        raise UsageError("the student has as many steps as the teacher: nothing to do", place="student_steps")
    check_student(recipe.student, model)
    return teacher


def is_told_texts(model: DiffusionModel) -> bool:
    """Whether its network is conditioned on prompts."""
    return any(need.source == "text" for need in needs_of(model.unet, model.source))


def load_examples(recipe: StudentsRecipe, teacher: DiffusionTeacher) -> Examples | None:
    """What students learn from; None where the teacher is to sample it (:func:`sample_examples`).

    Raises:
        InputError: the images do not have the teacher's classes, or no captions for one that is told a text.
    """
    source, model = recipe.training_images, teacher.model
    if source == SAMPLED:
        if recipe.data.source is None:
            _say_sampled(recipe, teacher)
        if recipe.augment.flip:
            raise UsageError(
                "images that the teacher samples are not mirrored", place="augment.flip", hint="set 0"
            )
        return None
    sources = {need.source for need in needs_of(model.unet, model.source)}
    if recipe.condition.inputs is not None or "file" in sources:
        raise InputError(
            "images come without the other inputs that its network needs", place=source,
            hint=f"-s data.source={SAMPLED} learns from what the teacher samples with condition.inputs",
        )  # fmt: skip
    channels, height, width = teacher.picture_shape
    if channels not in (1, 3) or height != width:
        raise InputError(
            f"its pictures are {channels}x{height}x{width}, not square grey or RGB images", place=model.source
        )
    if "text" in sources:
        return _captioned(source, teacher, height, channels)
    images = load_images(source, "train", side=height, channels=1 if channels == 1 else 3)
    _check_classes(images, teacher, source)
    return ImageExamples(images, teacher.guided, teacher.autoencoder)


def _say_sampled(recipe: StudentsRecipe, teacher: DiffusionTeacher) -> None:
    """Say that no images were named; a few general prompts are too little to learn from."""
    if is_told_texts(teacher.model) and recipe.condition.prompts is None and recipe.condition.inputs is None:
        raise InputError(
            "is conditioned on text, and no images with captions are named", place=recipe.model,
            hint=f"--data, or -s data.source={SAMPLED} for images that the teacher samples of condition.prompts",
        )  # fmt: skip
    say_once(
        recipe.model,
        f"students learn from {recipe.data.sampled} images that the teacher samples, as none are named (--data)",
    )


def _captioned(source: str, teacher: DiffusionTeacher, side: int, channels: int) -> CaptionedExamples:
    model = teacher.model
    assert teacher.embedder is not None
    try:
        pairs = load_pairs(ClipPairsSection(source=source))
    except InputError as error:
        raise InputError(
            f"{model.source} is conditioned on text, so its students learn from images with captions: {error.args[0]}",
            place=source,
            hint=f"-s data.source={SAMPLED} learns from what the teacher samples of condition.prompts",
        ) from None
    texts = [caption for captions in pairs.captions for caption in captions]
    teacher.embedder.say_cut(texts, source, "caption")
    return CaptionedExamples(
        pairs, side, 1 if channels == 1 else 3, teacher.guided, teacher.embedder, teacher.autoencoder
    )


def sample_examples(recipe: StudentsRecipe, teacher: DiffusionTeacher, run: Run) -> SampledExamples:
    """What the teacher samples, in its ``teacher_steps``; found again where an interrupted run left it."""
    n, guided = recipe.data.sampled, teacher.guided

    def sample() -> torch.Tensor:
        return sample_images(
            guided,
            SamplerSettings(steps=recipe.teacher_steps),
            n,
            recipe.train.batch_size,
            run.runtime,
            title="the teacher samples",
            show_progress=run.show_progress,
            check_stop=run.check_stop,
        )

    x = run.stage("teacher-samples", sample)
    return SampledExamples(x, guided.random_condition(n, run.runtime.generator("condition")))


def _converts(recipe: StudentsRecipe, model: DiffusionModel) -> bool:
    return isinstance(recipe, ProgressiveRecipe) and bool(rounds_of(recipe, model))


def _check_classes(images: ImageSet, teacher: DiffusionTeacher, place: str) -> None:
    """Refuse images whose labels cannot be the teacher's: labels are the numbers of classes in order."""
    n, n_classes = len(images.classes), n_classes_of(teacher.model.unet)
    if n_classes is None or n == n_classes - (teacher.guided.null_class == n_classes - 1):
        return
    if images.classes == ("",):
        raise InputError(
            f"has no classes, the teacher has {n_classes}", place=place, hint="one sub-folder per class"
        )
    one_less = f"; or -s condition.null_class={n}, if the last label means no class"
    raise InputError(
        f"has {n} classes, the teacher has {n_classes}",
        place=place,
        hint="labels are the numbers of the classes in order, so there must be as many"
        + (one_less if n == n_classes - 1 else ""),
    )


def check_teacher(model: DiffusionModel) -> None:
    """Refuse what cannot be distilled here.

    Raises:
        InputError: with the reason.
    """
    if class_name_of(model.unet) not in DENOISERS:
        raise InputError(
            f"is a {class_name_of(model.unet)}, and effcli does not know how to call it",
            place=model.source,
            hint=f"supported: {', '.join(DENOISERS)}",
        )
    if is_unet(model.unet) and predicts_variances(model.unet):  # pipelines of transformers leave them out
        raise InputError(
            "its UNet predicts variances beside the noise, which students would have to learn; such models cannot "
            "be distilled",
            place=model.source,
        )
    kind = config_of(model.unet).get("class_embed_type")
    if kind is not None:
        raise InputError(
            f"its UNet's class_embed_type is {kind!r}; only classes of a table (num_class_embeds) can be distilled",
            place=model.source,
        )
    channels, height, width = model.sample_shape
    decoded = model.folder is not None and is_latent(model.folder)
    if not decoded and (channels not in (1, 3) or height != width):
        raise InputError(
            f"denoises {channels}x{height}x{width}, not square grey or RGB images, and has no vae/ or "
            "vqvae/ that decodes it to such images",
            place=model.source,
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
            "its scheduler's thresholding is true, which distillation does not support", place=model.source
        )
    if settings["clip_sample"] and settings["clip_sample_range"] != 1:
        raise InputError(
            f"its scheduler's clip_sample_range is {settings['clip_sample_range']}; "
            "distillation clips to -1..1 or not at all",
            place=model.source,
        )
