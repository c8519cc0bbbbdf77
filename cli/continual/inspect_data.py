"""``effcli continual inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from effcli.core.errors import UsageError

from ..common.options import ForceOption, Options, with_options
from ..common.output import print_note, print_result, print_table
from .app import app


@app.command()
@with_options()
def inspect(
    options: Options,
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="Images with boxes: COCO, YOLO or Pascal VOC labels, in a folder, a tar or a file.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE.png",
            help="Contact sheet to write: one picture of several images with their boxes.",
        ),
    ] = None,
    images: Annotated[
        int, typer.Option("--images", "-n", min=1, max=400, help="Number of images on the contact sheet.")
    ] = 16,
    force: ForceOption = False,
) -> None:
    """Say what is in a data set with boxes: images, classes, sizes, and what is wrong; with -o a contact sheet."""
    from effcli.continual.egor.data.inspection import describe, save_sheet
    from effcli.continual.egor.data.sources import load_all
    from effcli.core.files import check_new_file

    if output is not None:
        if output.suffix.lower() != ".png":
            raise UsageError(f"unknown file extension {output.suffix!r}", place=str(output), hint="use .png")
        check_new_file(output, force=force)
    parts = load_all(data)
    described = {part: describe(found) for part, found in parts.items()}
    if output is not None:
        save_sheet(parts, output, images)
    if options.as_json:
        content = {"data": data, "parts": described, "output": None if output is None else str(output)}
        print_result(content, [], as_json=True)
        return
    print_table(_rows(described), ["", *described])
    if output is not None:
        print_note(f"contact sheet: {output}")


def _rows(described: dict[str, dict[str, Any]]) -> list[list[str]]:
    """A line per fact, then one per class."""
    parts = list(described.values())
    names = (
        "labels",
        "images",
        "images_without_boxes",
        "boxes",
        "boxes_small",
        "boxes_medium",
        "boxes_large",
        "crowds",
    )
    rows = [[name.replace("_", " "), *(str(one[name]) for one in parts)] for name in names]
    for side in ("width", "height"):
        ranges = [one[side] for one in parts]
        rows.append([side, *(f"{one['smallest']} to {one['largest']}" for one in ranges)])
    classes = dict.fromkeys(name for one in parts for name in one["classes"])
    return [
        *rows,
        *([f"class {name}", *(str(one["classes"].get(name, 0)) for one in parts)] for name in classes),
    ]
