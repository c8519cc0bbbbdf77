"""A contact sheet of pictures and their results, side by side: contact_sheet.py BEFORE/ AFTER/ SHEET.jpg."""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image, ImageOps

GAP = 8


def pair(before: Path, after: Path, width: int) -> Image.Image:
    """A picture and its result, each ``width`` pixels wide, side by side."""
    pictures = []
    for path in (before, after):
        with Image.open(path) as opened:
            picture = ImageOps.exif_transpose(opened).convert("RGB")
        height = round(picture.height * width / picture.width)
        pictures.append(picture.resize((width, height), Image.Resampling.LANCZOS))
    sheet = Image.new("RGB", (2 * width + GAP // 2, pictures[0].height), "white")
    sheet.paste(pictures[0], (0, 0))
    sheet.paste(pictures[1], (width + GAP // 2, 0))
    return sheet


def main() -> None:
    """Write the sheet and print its path."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before", type=Path, help="folder of pictures")
    parser.add_argument("after", type=Path, help="folder of their results, with the same names")
    parser.add_argument("sheet", type=Path, help="file to write")
    parser.add_argument("--width", type=int, default=640, help="width of one picture in pixels")
    arguments = parser.parse_args()
    pairs = [
        pair(path, arguments.after / path.name, arguments.width)
        for path in sorted(arguments.before.iterdir())
        if path.suffix == ".jpg" and (arguments.after / path.name).exists()
    ]
    if not pairs:
        parser.error(f"no .jpg of {arguments.before} has a result in {arguments.after}")
    height = sum(one.height + GAP for one in pairs) - GAP
    sheet = Image.new("RGB", (pairs[0].width, height), "white")
    top = 0
    for one in pairs:
        sheet.paste(one, (0, top))
        top += one.height + GAP
    sheet.save(arguments.sheet, quality=88, optimize=True)
    print(arguments.sheet)


if __name__ == "__main__":
    main()
