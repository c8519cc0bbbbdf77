"""``effcli distill``: run (default), sample, eval, train."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from .groups import DefaultVerbGroup
from .images_output import ImagesOutputOption, check_images_output, write_images
from .options import (
    BatchSizeOption,
    FeatureSpaceOption,
    ForceOption,
    MachineOptions,
    RealImagesOption,
    RunOptions,
    with_options,
)
from .output import print_metrics, print_result
from .session import execute, recipe_of_method, runtime_for

app = typer.Typer(
    cls=DefaultVerbGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Few-step students of a diffusion model: progressive distillation with relations between features (RDD). "
    "`effcli distill --steps 1` takes the built-in model.",
)

RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="Run directory of `effcli distill`, or one student's folder.")
]
DataOption = Annotated[
    str | None,
    typer.Option("--data", metavar="PATH", help="Folder of pictures or IDX files, or a packed .npz."),
]


@app.command("run")
@with_options()
def run(
    options: RunOptions,
    teacher: Annotated[
        str | None,
        typer.Argument(
            metavar="[TEACHER]",
            help="A diffusers folder, a hub id, a run of `effcli distill train`, or builtin:NAME.",
            show_default=False,
        ),
    ] = None,
    method: Annotated[
        Literal["rdd", "rcfd", "pd"] | None,
        typer.Option("--method", help="Relations of features, features, or pixels in the last rounds."),
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
    """Distill a diffusion model to few steps and measure the students (default)."""
    shorthands = {
        "method": ("--method", method),
        "model": ("TEACHER", teacher),
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
    n: Annotated[int, typer.Option("-n", "--images", min=2, help="Images drawn by each model.")] = 2048,
    teacher_steps: Annotated[
        int | None,
        typer.Option("--teacher-steps", min=1, help="DDIM steps of the teacher (default: the run's)."),
    ] = None,
    features: FeatureSpaceOption = None,
    data: RealImagesOption = None,
    batch_size: BatchSizeOption = 64,
) -> None:
    """Measure: Frechet distance, network calls and seconds by steps, of the students and of their teacher."""
    from effcli.distill.students import evaluate_run
    from effcli.metrics.distance_settings import DistanceSettings

    settings = DistanceSettings(n_images=n, batch_size=batch_size, features=features or "auto", data=data)
    result = evaluate_run(
        run, settings, runtime_for(options), teacher_steps=teacher_steps, show_progress=not options.quiet
    )
    if options.as_json:
        print_result(result.to_json(), [], as_json=True)
    else:
        print_metrics(result.metrics)


@app.command()
@with_options(recipe="fashion-diffusion")
def train(
    options: RunOptions,
    data: DataOption = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Optimiser steps.")] = None,
) -> None:
    """Train a diffusion model (recipe fashion-diffusion) or a classifier (fashion-classifier) on your images."""
    execute("train", "distill", options, {"data.source": ("--data", data), "train.steps": ("--steps", steps)})
