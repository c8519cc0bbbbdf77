"""``effcli distill``: run (default), reinforce, sample, eval, train."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import typer

from effcli.core.errors import UsageError
from effcli.core.registry import recipe_of_run

from .common.groups import DefaultVerbGroup
from .common.images_output import ImagesOutputOption, check_images_output, write_images
from .common.options import (
    BatchSizeOption,
    FeatureSpaceOption,
    ForceOption,
    MachineOptions,
    RunOptions,
    with_options,
)
from .common.output import print_metrics, print_result
from .common.session import execute, recipe_of_method, runtime_for

app = typer.Typer(
    cls=DefaultVerbGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Few-step students of a diffusion model, by progressive distillation with relations between "
    "features (RDD); "
    "or a small CLIP from a large one (CLIP-KD). `effcli distill --steps 1` and `effcli distill --method clip-kd` use "
    "the built-in models.",
)

DEFAULT_TRAINING = "fashion-diffusion"
RECIPES_OF_TRAINING = {
    "teacher": DEFAULT_TRAINING,
    "classifier": "fashion-classifier",
    "lit": "twemoji-clip",
}
"""The recipe that `train --method` means where none is named."""

RunArgument = Annotated[
    str,
    typer.Argument(metavar="RUN", help="A run directory of `effcli distill`, or the folder of one student."),
]
PromptsOption = Annotated[
    str | None,
    typer.Option(
        "--prompts",
        metavar="FILE",
        help="Text file with one prompt per line, for text-conditional models (default: eight general "
        "prompts).",
    ),
]
DataOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="PATH",
        help="Training images: a folder of pictures or IDX files, or a packed .npz; for CLIP-KD and "
        "text-conditional teachers a CSV, .tar shards, or a folder with captions; or teacher: images "
        "that the teacher samples itself.",
    ),
]


@app.command("run")
@with_options()
def run(
    options: RunOptions,
    teacher: Annotated[
        str | None,
        typer.Argument(
            metavar="[TEACHER]",
            help="The teacher: a diffusers folder, a Hub id, a run of `effcli distill train`, or "
            "builtin:NAME; "
            "CLIP-KD: NAME:TAG or NAME:CHECKPOINT of open_clip, a folder, or hf-hub:OWNER/NAME.",
            show_default=False,
        ),
    ] = None,
    teacher_option: Annotated[
        list[str] | None,
        typer.Option(
            "--teacher",
            metavar="MODEL",
            help="The same as TEACHER; CLIP-KD: repeatable, for several teachers.",
        ),
    ] = None,
    student: Annotated[
        str | None,
        typer.Option(
            "--student",
            metavar="MODEL",
            help="The students' network: width=0.5, layers=1, both with a comma, or a config.json of a "
            "UNet2DModel (default: the teacher's); CLIP-KD: a model name of open_clip or a .json "
            "configuration, which start from random weights, or NAME:TAG or NAME:CHECKPOINT with "
            "trained ones.",
        ),
    ] = None,
    teacher_cache: Annotated[
        str | None,
        typer.Option(
            "--teacher-cache",
            metavar="on|off|N-views",
            help="CLIP-KD: keep the teacher's embedding of each whole image (on), of N fixed crops of it "
            "(N-views), "
            "or none (off), which runs the teacher in every step.",
        ),
    ] = None,
    method: Annotated[
        Literal["rdd", "rcfd", "pd", "cd", "shortcut", "clip-kd"] | None,
        typer.Option(
            "--method",
            help="What students learn from in the last rounds: features and their relations (rdd), features "
            "(rcfd), "
            "pixels (pd); one training for any number of steps: consistency distillation (cd) or a shortcut model "
            "(shortcut); or clip-kd, a small CLIP.",
        ),
    ] = None,
    data: DataOption = None,
    steps: Annotated[
        int | None,
        typer.Option(
            "--steps",
            min=1,
            help="Sampling steps of the last student, a power of two; fewer are faster, with more loss of "
            "quality.",
        ),
    ] = None,
    teacher_steps: Annotated[
        int | None,
        typer.Option(
            "--teacher-steps",
            min=1,
            help="Sampling steps of the teacher, which the first round halves; a power of two.",
        ),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(
            "--guidance",
            min=0,
            metavar="SCALE",
            help="Classifier-free guidance scale of the teacher, which is built into the students.",
        ),
    ] = None,
    prompts: PromptsOption = None,
    features: Annotated[
        str | None,
        typer.Option(
            "--features",
            metavar="NETWORK",
            help="The network whose features are compared: builtin (grey 16x16 clothes), unet (the teacher's "
            "own), "
            "torchvision:NAME, timm:NAME, or a classifier's file.",
        ),
    ] = None,
    relation: Annotated[
        Literal["pairs", "intra"] | None,
        typer.Option(
            "--relation",
            help="Relate the pixels of all pairs of images (pairs), or of each image by itself (intra).",
        ),
    ] = None,
    head: Annotated[
        Literal["projection", "none"] | None,
        typer.Option(
            "--head",
            help="What the student's feature maps pass through before they are compared with the queue: a "
            "learned projection, or nothing.",
        ),
    ] = None,
    compat_queue: Annotated[
        bool,
        typer.Option(
            "--compat-queue",
            help="Use the queue of RDD's released code, which mixes images and channels; short for -s "
            "relations.queue=mixed.",
        ),
    ] = False,
) -> None:
    """Distill a diffusion model to few steps, or a CLIP to a small one, and measure the students (default)."""
    teachers = [*([] if teacher is None else [teacher]), *(teacher_option or [])]
    shorthands = {
        "method": ("--method", method),
        "model": ("TEACHER" if teacher else "--teacher", teachers[0] if teachers else None),
        "more_teachers": ("--teacher", teachers[1:] or None),
        "student": ("--student", student),
        "teacher_cache": ("--teacher-cache", teacher_cache),
        "data.source": ("--data", data),
        "student_steps": ("--steps", steps),
        "teacher_steps": ("--teacher-steps", teacher_steps),
        "guidance": ("--guidance", guidance),
        "condition.prompts": ("--prompts", prompts),
        "features": ("--features", features),
        "relations.rows": ("--relation", relation),
        "relations.head": ("--head", head),
        "relations.queue": ("--compat-queue", "mixed" if compat_queue else None),
    }
    execute("run", "distill", recipe_of_method("distill", options, method), shorthands)


@app.command()
@with_options(recipe="reinforce")
def reinforce(
    options: RunOptions,
    data: Annotated[
        str | None,
        typer.Argument(metavar="[DATA]", help="Images with captions, as for CLIP-KD.", show_default=False),
    ] = None,
    teacher: Annotated[
        list[str] | None,
        typer.Option(
            "--teacher", metavar="MODEL", help="A CLIP model of open_clip; repeatable, for several teachers."
        ),
    ] = None,
    views: Annotated[
        int | None,
        typer.Option(
            "--views", min=1, help="Crops of each image whose embeddings are stored; 1 is the whole image."
        ),
    ] = None,
) -> None:
    """CLIP-KD: write pairs with the teacher's embeddings as shards, from which students learn without the teacher."""
    teachers = teacher or []
    shorthands = {
        "data.source": ("DATA", data),
        "model": ("--teacher", teachers[0] if teachers else None),
        "more_teachers": ("--teacher", teachers[1:] or None),
        "views": ("--views", views),
    }
    execute("reinforce", "distill", options, shorthands)


@app.command()
@with_options()
def sample(
    options: MachineOptions,
    run: RunArgument,
    steps: Annotated[
        int | None,
        typer.Option("--steps", min=1, help="Which student, by its sampling steps (default: the last)."),
    ] = None,
    n: Annotated[int, typer.Option("-n", "--images", min=1, help="Number of images.")] = 64,
    classes: Annotated[
        list[int] | None,
        typer.Option(
            "--class",
            metavar="N",
            min=0,
            help="Class of the images of a class-conditional student, by its number from 0; repeatable: "
            "several classes take turns (default: random classes).",
        ),
    ] = None,
    prompts: PromptsOption = None,
    output: ImagesOutputOption = "samples.png",
    force: ForceOption = False,
    batch_size: BatchSizeOption = 64,
) -> None:
    """Sample images from a student in its few steps."""
    check_images_output(output, force=force, as_json=options.as_json)
    from effcli.distill.pipeline import sample as sample_student

    runtime = runtime_for(options)
    images = sample_student(
        run,
        n,
        runtime,
        steps=steps,
        classes=classes or (),
        prompts=prompts,
        batch_size=batch_size,
        show_progress=not options.quiet,
    )
    if runtime.is_main:
        write_images(images, output, as_json=options.as_json)


@app.command("eval")
@with_options()
def evaluate(
    options: MachineOptions,
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run directory of `effcli distill`.")],
    n: Annotated[
        int | None, typer.Option("-n", "--images", min=2, help="Images sampled by each model (default 2048).")
    ] = None,
    teacher_steps: Annotated[
        int | None,
        typer.Option(
            "--teacher-steps",
            min=1,
            help="DDIM steps of the teacher that students are compared with (default: the run's).",
        ),
    ] = None,
    features: FeatureSpaceOption = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="PATH",
            help="Real images for the Frechet distance; CLIP-KD: pairs for retrieval.",
        ),
    ] = None,
    zero_shot: Annotated[
        str | None,
        typer.Option(
            "--zero-shot",
            metavar="PATH",
            help="CLIP-KD: images with classes, a folder with one sub-folder per class or an .npz.",
        ),
    ] = None,
    template: Annotated[
        list[str] | None,
        typer.Option(
            "--template",
            metavar="TEXT",
            help="CLIP-KD: a sentence about a class, such as 'a photo of a {}', repeatable; openai: 80 "
            "sentences; "
            "simple: 7.",
        ),
    ] = None,
    captions: Annotated[
        Literal["first", "all"] | None,
        typer.Option(
            "--captions", help="CLIP-KD: captions of each image that retrieval uses, the first or all."
        ),
    ] = None,
    batch_size: BatchSizeOption = 64,
) -> None:
    """Measure students beside their teacher: distances and time by steps; CLIP-KD: retrieval, zero-shot and size."""
    from effcli.distill.clip_kd.pipeline import evaluate as evaluate_clip
    from effcli.distill.clip_kd.recipe import ClipRecipe
    from effcli.distill.pipeline import evaluate as evaluate_students

    of_clip = {"--zero-shot": zero_shot, "--template": template, "--captions": captions}
    of_diffusion = {"--images": n, "--teacher-steps": teacher_steps, "--features": features}
    is_clip = isinstance(recipe_of_run("distill", run), ClipRecipe)
    for flag, value in (of_diffusion if is_clip else of_clip).items():
        if value is not None:
            raise UsageError(
                f"does not apply to a run of {'CLIP-KD' if is_clip else 'a diffusion model'}", place=flag
            )
    if is_clip:
        given = {
            "data": data,
            "zero_shot": zero_shot,
            "captions": captions,
            "templates": templates_of(template),
        }
        changes = {key: value for key, value in given.items() if value is not None}
        result = evaluate_clip(run, {**changes, "batch_size": batch_size}, runtime_for(options))
    else:
        from effcli.metrics.distance_settings import DistanceSettings

        settings = DistanceSettings(
            n_images=n or 2048, batch_size=batch_size, features=features or "auto", data=data
        )
        result = evaluate_students(
            run, settings, runtime_for(options), teacher_steps=teacher_steps, show_progress=not options.quiet
        )
    if options.as_json:
        print_result(result.to_json(), [], as_json=True)
    else:
        print_metrics(result.metrics)


def templates_of(given: list[str] | None) -> str | tuple[str, ...] | None:
    """The recipe's value for ``--template``."""
    if not given or given in (["openai"], ["simple"]):
        return given[0] if given else None
    return tuple(given)


@app.command()
@with_options(recipe=DEFAULT_TRAINING)
def train(
    options: RunOptions,
    method: Annotated[
        Literal["teacher", "classifier", "lit"] | None,
        typer.Option(
            "--method",
            help="What to train: a diffusion model (teacher), a classifier, or a CLIP on a trained image "
            "trunk (lit).",
        ),
    ] = None,
    data: DataOption = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Optimiser steps.")] = None,
) -> None:
    """Train a diffusion model, a classifier or a CLIP (recipes fashion-diffusion, fashion-classifier, twemoji-clip)."""
    if method is not None and options.recipe == DEFAULT_TRAINING:
        options = replace(options, recipe=RECIPES_OF_TRAINING[method])
    shorthands = {
        "method": ("--method", method),
        "data.source": ("--data", data),
        "train.steps": ("--steps", steps),
    }
    execute("train", "distill", options, shorthands)
