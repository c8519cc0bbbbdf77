"""``effcli continual train-detector`` and ``detect``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from effcli.core.errors import UsageError

from ..common.options import ForceOption, MachineOptions, RunOptions, with_options
from ..common.output import print_bytes, print_json, print_lines, print_note, print_result
from ..common.session import execute, recipe_of_method, runtime_for
from .app import app
from .own_data import parsed_split, with_all_classes


@app.command("train-detector")
@with_options()
def train_detector(
    options: RunOptions,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="PATH|NAME",
            help="Images with boxes: COCO, YOLO or Pascal VOC labels, in a folder, a tar or a file.",
        ),
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            "--tasks", metavar="6+6", help="Split of the classes into groups; the first group is learned."
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option("--epochs", min=1, help="Passes over the training images.")
    ] = None,
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
    places: Annotated[
        list[str],
        typer.Argument(
            metavar="[RUN|FILE] IMAGE|DIR|VIDEO|-...",
            help="Images, folders of them, videos, or - for an image on stdin; before them a run directory with a "
            "detector, its file, or an exported .onnx file (default: builtin:nanodet-m, 80 classes of COCO).",
        ),
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR|FILE|-",
            help="Folder or file to write in the form that --format names; - is stdout.",
        ),
    ] = None,
    score: Annotated[
        float,
        typer.Option("--score", "--threshold", min=0, max=1, help="Lowest score of a box, 0..1."),
    ] = 0.3,
    form: Annotated[
        Literal["drawn", "coco", "yolo"],
        typer.Option(
            "--format",
            help="What to write. drawn: images and videos with boxes drawn on them; coco: one JSON file in "
            "COCO's format; yolo: one text file per image. Without -o, labels go to stdout.",
        ),
    ] = "drawn",
    force: ForceOption = False,
) -> None:
    """Find objects in images and videos: one JSON line per image or frame; with -o, boxes drawn on them."""
    from effcli.continual.egor.detecting.detection import ObjectFinder, detect_all
    from effcli.continual.egor.detecting.inputs import check_outputs, find_inputs

    detector, named = _detector_among(places)
    pipe = sys.stdin.buffer.read() if "-" in named else None
    inputs = find_inputs(named, pipe)
    paths = check_outputs(inputs, output, form, force=force)
    finder = ObjectFinder(detector, score, runtime_for(options))
    is_quiet = output == "-" or (output is None and form != "drawn")
    if is_quiet and options.as_json:
        raise UsageError("--json and what --format says cannot both go to stdout", place="--output")
    lines: list[dict[str, Any]] = []

    def say(line: dict[str, Any]) -> None:
        if options.as_json or is_quiet:
            lines.append(line)
        else:
            print_json(line)

    content = detect_all(finder, inputs, paths, form, say, output=output)
    for line in lines if is_quiet else []:
        if "error" in line:
            print_note(f"error: {line.get('image', line.get('video'))}: {line['error']}")
    if isinstance(content, bytes):
        print_bytes(content)
    elif content is not None:
        print_lines([content.rstrip("\n")] if content else [])
    elif options.as_json:
        result = {"images": lines, "failed": finder.n_failed, "ms_per_image": finder.ms_per_image}
        print_result({"detector": detector, **result}, [], as_json=True)
    if finder.n_failed:
        raise typer.Exit(3 if finder.n_failed < len(inputs) else 1)


def _detector_among(places: list[str]) -> tuple[str, list[str]]:
    """The detector, and what it looks at."""
    from effcli.continual.egor.weights import BUILTIN, is_detector

    first = places[0]
    is_named = is_detector(first) or first.endswith((".safetensors", ".pth", ".pt", ".onnx"))
    detector, named = (first, places[1:]) if is_named else (BUILTIN, places)
    if not named:
        raise UsageError("no images are named", hint=f"effcli continual detect {detector} photo.jpg")
    if (Path(first) / "recipe.yaml").is_file() and not is_named:
        raise UsageError("is a run without a detector", place=first, hint=f"leave it out to use {BUILTIN}")
    return detector, named
