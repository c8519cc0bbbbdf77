"""Writing pictures: to PNG, JPEG, WebP, TIFF and BMP, with all that belongs to them.

Writing a picture whose pixels were not touched gives the samples that were read, bit for bit (JPEG and lossy
WebP apart).
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from effcli.core.errors import UsageError
from effcli.core.files import atomic_path, write_error
from effcli.data.picture import Picture
from effcli.enhance.files.image_encoding import encode
from effcli.enhance.files.remote import Location

FORMATS = {  # file extension -> format that is written
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
}


def format_of(path: Location) -> str | None:
    """Format that is written to a file of this name, or None when its extension is not in :data:`FORMATS`."""
    return FORMATS.get(path.suffix.lower())


def write_picture(
    picture: Picture,
    destination: Path | BinaryIO,
    *,
    format: str | None = None,
    quality: int = 95,
    place: str | None = None,
) -> tuple[str, ...]:
    """Write a picture; a file appears whole or not at all.

    Args:
        picture: what to write; pixels outside 0..1 are clipped.
        destination: a path, whose folder exists, or a stream.
        format: a value of :data:`FORMATS`; by default what the path's extension says, for a stream
            ``picture.format``, or PNG where that is only read (GIF, AVIF, HEIF, PPM).
        quality: 1..100 for JPEG (always 4:4:4) and for WebP unless ``picture.lossless``.
        place: how messages name it; by default the path, or "output".

    Returns:
        Notes on what the format could not hold, one sentence each.

    Raises:
        UsageError: the extension or format is not supported.
        RunError: the disk is full, the destination cannot be written, or the format cannot hold the picture.
    """
    place = place or (str(destination) if isinstance(destination, Path) else "output")
    readable = picture.format if picture.format in FORMATS.values() else "PNG"
    own = format_of(destination) if isinstance(destination, Path) else readable
    format = format or own or "unknown"
    if format not in FORMATS.values():
        raise UsageError(f"not a supported image format, use {' '.join(FORMATS)}", place=place)
    data, notes = encode(picture, format, quality, place)
    if isinstance(destination, Path):
        with atomic_path(destination) as temporary:
            temporary.write_bytes(data)
        return notes
    try:
        destination.write(data)
        destination.flush()
    except OSError as error:
        raise write_error(error, Path(place)) from error
    return notes
