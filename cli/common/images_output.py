"""Where verbs that sample images put them: one picture, a folder, or stdout."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from effcli.core.errors import UsageError

from .output import print_bytes, print_result

if TYPE_CHECKING:
    from torch import Tensor

ImagesOutputOption = Annotated[
    str,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE|DIR|-",
        help="Where the images go: a grid in one .png file, a folder with one PNG per image, or - for a grid on "
        "stdout.",
    ),
]


def check_images_output(output: str, *, force: bool, as_json: bool) -> None:
    """Make sure, before any work starts, that images can go to ``output``.

    Raises:
        UsageError: they cannot, or something is there already.
    """
    from effcli.core.files import check_new_file, check_new_folder

    if output == "-":
        if as_json:
            raise UsageError("--json and a picture cannot both go to stdout", place="-o -")
    elif _is_file_name(output):
        check_new_file(Path(output), force=force)
    else:
        check_new_folder(Path(output), force=force)


def write_images(images: Tensor, output: str, *, as_json: bool) -> None:
    """Write uint8 images ``[N, C, H, W]`` to ``output`` and print where they are."""
    from effcli.core.files import make_folder
    from effcli.data.picture_grid import encode_png, grid, save_grid

    if output == "-":
        print_bytes(encode_png(grid(images)))
        return
    if _is_file_name(output):
        save_grid(images, make_folder(Path(output).parent) / Path(output).name)
    else:
        make_folder(Path(output))
        for i, image in enumerate(images):
            save_grid(image[None], Path(output) / f"{i:05d}.png", zoom=1, border=0)
    print_result({"output": output, "images": len(images)}, [output], as_json=as_json)


def _is_file_name(output: str) -> bool:
    suffix = Path(output).suffix.lower()
    if suffix in {".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"}:
        raise UsageError("images are written as PNG", place=output, hint="name a .png file or a folder")
    return suffix == ".png"
