"""``effcli distill``: train."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import RunOptions, with_options
from .session import execute

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
@with_options(recipe="fashion-diffusion")
def train(
    options: RunOptions,
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="PATH", help="Folder of pictures or IDX files, or a packed .npz."),
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Optimiser steps.")] = None,
) -> None:
    """Train a diffusion model (recipe fashion-diffusion) or a classifier (fashion-classifier) on your images."""
    execute("train", "distill", options, {"data.source": ("--data", data), "train.steps": ("--steps", steps)})
