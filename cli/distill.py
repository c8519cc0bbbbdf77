"""``effcli distill``: run (default), sample, eval, train."""

from __future__ import annotations

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
    help="Few-step students of a diffusion model: progressive distillation with relations between features (RDD); or "
    "a small CLIP from a large one (CLIP-KD). `effcli distill --steps 1` and `effcli distill --method clip-kd` take "
    "the built-in models.",
)

RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="Run directory of `effcli distill`, or one student's folder.")
]
DataOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="PATH",
        help="Folder of pictures or IDX files, or a packed .npz; CLIP-KD: a CSV, .tar shards, a folder with captions.",
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
            help="A diffusers folder, a hub id, a run of `effcli distill train`, or builtin:NAME; of CLIP-KD NAME:TAG, "
            "NAME:CHECKPOINT, a folder, or hf-hub:OWNER/NAME.",
            show_default=False,
        ),
    ] = None,
    teacher_option: Annotated[
        str | None, typer.Option("--teacher", metavar="MODEL", help="The same as TEACHER.")
    ] = None,
    student: Annotated[
        str | None,
        typer.Option(
            "--student", metavar="MODEL", help="CLIP-KD: a model name of open_clip, or a .json configuration."
        ),
    ] = None,
    teacher_cache: Annotated[
        str | None,
        typer.Option(
            "--teacher-cache",
            metavar="on|off|N-views",
            help="CLIP-KD: keep what the teacher embeds of each whole image, of N crops of it, or nothing.",
        ),
    ] = None,
    method: Annotated[
        Literal["rdd", "rcfd", "pd", "clip-kd"] | None,
        typer.Option(
            "--method",
            help="Of a diffusion model: relations of features, features, or pixels in the last rounds; or a CLIP.",
        ),
    ] = None,
    data: DataOption = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Sampling steps of the last student: 1, 2, 4, ...")
    ] = None,
    teacher_steps: Annotated[
        int | None, typer.Option("--teacher-steps", min=1, help="Sampling steps that the first round halves.")
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            "--features",
            metavar="NETWORK",
            help="builtin, unet, torchvision:NAME, timm:NAME, or a classifier's file.",
        ),
    ] = None,
    relation: Annotated[
        Literal["pairs", "intra"] | None,
        typer.Option("--relation", help="Relate the pixels of all pairs of images, or of each image."),
    ] = None,
    head: Annotated[
        Literal["projection", "none"] | None,
        typer.Option("--head", help="A learnt projection of the student's maps before the queue, or none."),
    ] = None,
    compat_queue: Annotated[
        bool, typer.Option("--compat-queue", help="The queue as in RDD's released code, which scrambles it.")
    ] = False,
) -> None:
    """Distill a diffusion model to few steps, or a CLIP to a small one, and measure the students (default)."""
    shorthands = {
        "method": ("--method", method),
        "model": ("--teacher", teacher_option) if teacher is None else ("TEACHER", teacher),
        "student": ("--student", student),
        "teacher_cache": ("--teacher-cache", teacher_cache),
        "data.source": ("--data", data),
        "steps": ("--steps", steps),
        "teacher_steps": ("--teacher-steps", teacher_steps),
        "features": ("--features", features),
        "relations.rows": ("--relation", relation),
        "relations.head": ("--head", head),
        "relations.queue": ("--compat-queue", "released" if compat_queue else None),
    }
    execute("run", "distill", recipe_of_method("distill", options, method), shorthands)


@app.command()
@with_options()
def sample(
    options: MachineOptions,
    run: RunArgument,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Which student (default: the last).")
    ] = None,
    n: Annotated[int, typer.Option("-n", "--images", min=1, help="How many.")] = 64,
    output: ImagesOutputOption = "samples.png",
    force: ForceOption = False,
    batch_size: BatchSizeOption = 64,
) -> None:
    """Draw images from a student in its few steps."""
    check_images_output(output, force=force, as_json=options.as_json)
    from effcli.distill.students import sample_student

    runtime = runtime_for(options)
    images = sample_student(
        run, n, runtime, steps=steps, batch_size=batch_size, show_progress=not options.quiet
    )
    if runtime.is_main:
        write_images(images, output, as_json=options.as_json)


@app.command("eval")
@with_options()
def evaluate(
    options: MachineOptions,
    run: Annotated[str, typer.Argument(metavar="RUN", help="Run directory of `effcli distill`.")],
    n: Annotated[
        int | None, typer.Option("-n", "--images", min=2, help="Images drawn by each model (default 2048).")
    ] = None,
    teacher_steps: Annotated[
        int | None,
        typer.Option("--teacher-steps", min=1, help="DDIM steps of the teacher (default: the run's)."),
    ] = None,
    features: FeatureSpaceOption = None,
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="PATH", help="Real images for fd; CLIP-KD: pairs for retrieval."),
    ] = None,
    zero_shot: Annotated[
        str | None,
        typer.Option(
            "--zero-shot", metavar="PATH", help="CLIP-KD: a folder with a sub-folder a class, or an .npz."
        ),
    ] = None,
    template: Annotated[
        list[str] | None,
        typer.Option(
            "--template",
            metavar="TEXT",
            help="CLIP-KD: a sentence about a class, such as 'a photo of a {}'; repeatable. openai: its 80; simple: 7.",
        ),
    ] = None,
    captions: Annotated[
        Literal["first", "all"] | None,
        typer.Option("--captions", help="CLIP-KD: retrieval with each image's first caption, or with all."),
    ] = None,
    batch_size: BatchSizeOption = 64,
) -> None:
    """Measure students beside their teacher: distances and time by steps; of a CLIP retrieval, zero-shot and size."""
    from effcli.distill.clip_kd.evaluation import evaluate_run as evaluate_clip_run
    from effcli.distill.clip_kd.recipe import ClipRecipe
    from effcli.distill.students import evaluate_run

    of_clip = {"--zero-shot": zero_shot, "--template": template, "--captions": captions}
    of_diffusion = {"--images": n, "--teacher-steps": teacher_steps, "--features": features}
    is_clip = isinstance(recipe_of_run("distill", run), ClipRecipe)
    for flag, value in (of_diffusion if is_clip else of_clip).items():
        if value is not None:
            raise UsageError(
                f"is not for a run of {'CLIP-KD' if is_clip else 'a diffusion model'}", place=flag
            )
    if is_clip:
        given = {
            "source": data,
            "zero_shot": zero_shot,
            "captions": captions,
            "templates": templates_of(template),
        }
        asked = {key: value for key, value in given.items() if value is not None}
        result = evaluate_clip_run(run, {**asked, "batch_size": batch_size}, runtime_for(options))
    else:
        from effcli.metrics.distance_settings import DistanceSettings

        settings = DistanceSettings(
            n_images=n or 2048, batch_size=batch_size, features=features or "auto", data=data
        )
        result = evaluate_run(
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
@with_options(recipe="fashion-diffusion")
def train(
    options: RunOptions,
    data: DataOption = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Optimiser steps.")] = None,
) -> None:
    """Train a diffusion model (recipe fashion-diffusion), a classifier (fashion-classifier), a CLIP (twemoji-clip)."""
    execute("train", "distill", options, {"data.source": ("--data", data), "train.steps": ("--steps", steps)})
