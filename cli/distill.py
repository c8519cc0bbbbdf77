"""``effcli distill``: train."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import (
    DeviceOption,
    DryRunOption,
    JsonOption,
    PrecisionOption,
    QuietOption,
    RecipeOption,
    ResumeOption,
    RunOutputOption,
    SaveEveryOption,
    SeedOption,
    SetOption,
    ThreadsOption,
    VerboseOption,
)
from .session import CommonOptions, execute

if TYPE_CHECKING:
    from effcli.distill.recipe import DistillRecipe

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Models that distillation starts from: a diffusion model, and a classifier whose features compare images.",
)


@app.callback()
def root() -> None:
    """Keep the verbs named even while there is one."""


@app.command()
def train(
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="PATH", help="Folder of pictures or IDX files, or a packed .npz."),
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Optimiser steps.")] = None,
    output: RunOutputOption = None,
    recipe: RecipeOption = "fashion-diffusion",
    sets: SetOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = None,
    seed: SeedOption = None,
    threads: ThreadsOption = None,
    resume: ResumeOption = False,
    save_every: SaveEveryOption = "10min",
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Train a diffusion model (recipe fashion-diffusion) or a classifier (fashion-classifier) on your images."""
    options = CommonOptions(
        recipe,
        sets,
        output,
        device,
        precision,
        seed,
        threads,
        resume,
        save_every,
        dry_run,
        as_json,
        quiet,
        verbose,
    )
    shorthands = {"data.source": ("--data", data), "train.steps": ("--steps", steps)}
    execute("distill", options, shorthands, _plan)


def _plan(recipe: DistillRecipe) -> dict[str, Any]:
    """What `train` would do; reading the images also proves that they are there."""
    from effcli.data.image_sets import load_images

    images = load_images(recipe.data.source, "train", side=recipe.data.side, channels=recipe.data.channels)
    return {
        "train_images": len(images),
        "classes": len(images.classes),
        "steps": recipe.train.steps,
        "epochs": round(recipe.train.steps * recipe.train.batch_size / len(images), 1),
    }
