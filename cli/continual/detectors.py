"""``effcli continual train-detector`` and ``detect``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..common.options import ForceOption, MachineOptions, RunOptions, with_options
from ..common.output import print_json, print_result
from ..common.session import execute, recipe_of_method, runtime_for
from .app import app
from .split_option import parsed_split, with_all_classes


@app.command("train-detector")
@with_options()
def train_detector(
    options: RunOptions,
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="PATH|NAME", help="COCO annotations, or a folder or tar with them."),
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            "--tasks", metavar="6+6", help="Split of the classes into groups; the first group is learned."
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="Passes over the images.")] = None,
) -> None:
    """Train a first detector, which can learn new classes later."""
    shorthands: dict[str, tuple[str, Any]] = {
        "data.source": ("--data", data),
        "data.tasks": ("--tasks", None if tasks is None else parsed_split(tasks)),
        "train.epochs": ("--epochs", epochs),
    }
    if data is not None and tasks is None:
        options = with_all_classes(options)
    execute("train-detector", "continual", recipe_of_method("continual", options, "detector"), shorthands)


@app.command()
@with_options()
def detect(
    options: MachineOptions,
    place: Annotated[
        str, typer.Argument(metavar="RUN|FILE", help="Run directory with a detector, or its file.")
    ],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE|DIR", help="Images, or folders of them.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Folder for the images with boxes drawn on them."),
    ] = None,
    threshold: Annotated[
        float, typer.Option("--threshold", min=0, max=1, help="Lowest score of a box, 0..1.")
    ] = 0.3,
    force: ForceOption = False,
) -> None:
    """Find objects in images: one JSON line per image, and images with boxes with -o."""
    from effcli.continual.egor.detection import check_drawn, detect_files, image_files

    files = image_files(images)
    if output is not None:
        check_drawn(output, files, force=force)
    failed = 0
    lines = []
    for line in detect_files(place, files, output, threshold, runtime_for(options)):
        failed += "error" in line
        lines.append(line) if options.as_json else print_json(line)
    if options.as_json:
        print_result({"images": lines, "failed": failed}, [], as_json=True)
    if failed:
        raise typer.Exit(3 if failed < len(files) else 1)
