"""What travels beside the pixels of a picture: EXIF, ICC profile, XMP and resolution.

EXIF blocks are patched in place rather than parsed and written again, so that maker notes (which hold
absolute offsets) and texts in any encoding survive bit for bit.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator

from PIL import ExifTags, Image

from effcli.data.picture import Metadata

EXIF_PREFIX = b"Exif\0\0"

_ORIENTATION = ExifTags.Base.Orientation
_THUMBNAIL_OFFSET, _THUMBNAIL_LENGTH = ExifTags.Base.JpegIFOffset, ExifTags.Base.JpegIFByteCount
_EXIF_WIDTH, _EXIF_HEIGHT = ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight
_XMP, _ICC = 700, 34675
_PHOTOSHOP, _PHOTOSHOP_LAYERS = 34377, 37724
_TYPE_SHORT = 3

_CFA_PATTERN_SIZE, _CFA_PATTERN, _DNG = 33421, 33422, range(50706, 52554)

# Tags of a TIFF directory that describe how its pixels are stored (those of raw files, too), or repeat them (previews,
# layers): they belong to one file, not to the picture.
STORAGE_TAGS = frozenset(
    {*range(254, 260), 262, 266, 273, _ORIENTATION, *range(277, 282), 284, 292, 293, 297, *range(317, 324)}
    | {*range(324, 348), *range(512, 522), *range(529, 533), _XMP, _ICC, _PHOTOSHOP, _PHOTOSHOP_LAYERS}
    | {_CFA_PATTERN_SIZE, _CFA_PATTERN, *_DNG}
)


def read_metadata(image: Image.Image, width: int, height: int) -> tuple[Metadata, tuple[str, ...]]:
    """Collect the metadata of a loaded image for its upright pixels.

    Args:
        image: a loaded Pillow image.
        width: width of the upright picture.
        height: height of the upright picture.

    Returns:
        The metadata, and notes on what is damaged and therefore not kept.
    """
    notes: tuple[str, ...] = ()
    try:
        exif = upright_exif(_exif_block(image), width, height)
    except Exception:  # Pillow's EXIF parser raises nearly anything on damaged blocks
        exif, notes = None, ("its EXIF block is damaged and not kept",)
    icc, xmp = image.info.get("icc_profile"), image.info.get("xmp")
    return Metadata(exif, icc or None, upright_xmp(xmp) if xmp else None, _dpi(image)), notes


def orientation(image: Image.Image) -> int:
    """EXIF orientation of a loaded image, 1..8 (1, upright, when absent or damaged)."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # see read_metadata
        return 1
    return value if value in range(1, 9) else 1


def icc_fits(icc: bytes | None, n_colours: int) -> bool:
    """Whether an ICC profile describes pixels of ``n_colours`` (1 grey, 3 RGB) channels."""
    return icc is not None and icc[16:20] == (b"GRAY" if n_colours == 1 else b"RGB ")


def upright_exif(exif: bytes | None, width: int, height: int) -> bytes | None:
    """Patch an EXIF block for upright pixels: orientation 1, true size, stale thumbnail dropped.

    Args:
        exif: EXIF block, with or without its ``Exif\\0\\0`` prefix.
        width: width of the picture in pixels.
        height: height of the picture in pixels.

    Returns:
        The block with prefix; every other byte is as it was. ``None`` when there is none.

    Raises:
        struct.error, ValueError: the block is damaged.
    """
    body = bytearray(re.sub(rb"^(Exif\0\0)+", b"", exif or b""))
    if not body:
        return None
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(bytes(body[:4]))
    if order is None:
        raise ValueError("not a TIFF directory")
    (first,) = struct.unpack_from(order + "L", body, 4)
    next_pointer = _patch_directory(body, order, first, {_ORIENTATION: 1})
    for tag, at in _entries(body, order, first):
        if tag == ExifTags.IFD.Exif:
            (offset,) = struct.unpack_from(order + "L", body, at + 8)
            _patch_directory(body, order, offset, {_EXIF_WIDTH: width, _EXIF_HEIGHT: height})
    _drop_thumbnail(body, order, next_pointer)
    return EXIF_PREFIX + bytes(body)


def upright_xmp(xmp: bytes | str) -> bytes:
    """Set ``tiff:Orientation`` of an XMP packet to 1."""
    packet = xmp.encode() if isinstance(xmp, str) else bytes(xmp)
    return re.sub(rb"(tiff:Orientation\s*(?:=\s*[\"']|>\s*))[2-8]", rb"\g<1>1", packet)


def _entries(body: bytearray, order: str, offset: int) -> Iterator[tuple[int, int]]:
    """Each (tag, position of its 12-byte entry) of the directory at ``offset``."""
    (n_entries,) = struct.unpack_from(order + "H", body, offset)
    for at in range(offset + 2, offset + 2 + 12 * n_entries, 12):
        yield struct.unpack_from(order + "H", body, at)[0], at


def _patch_directory(body: bytearray, order: str, offset: int, values: dict[int, int]) -> int:
    """Overwrite the given tags where present; the position of the pointer to the next directory."""
    at = offset - 10
    for tag, at in _entries(body, order, offset):
        if tag in values:
            (kind,) = struct.unpack_from(order + "H", body, at + 2)
            struct.pack_into(order + ("H2x" if kind == _TYPE_SHORT else "L"), body, at + 8, values[tag])
    return at + 12


def _drop_thumbnail(body: bytearray, order: str, next_pointer: int) -> None:
    """Unlink the thumbnail directory at ``next_pointer`` and remove (or blank) its picture."""
    (second,) = struct.unpack_from(order + "L", body, next_pointer)
    if second == 0:
        return
    found = {
        tag: struct.unpack_from(order + "L", body, at + 8)[0] for tag, at in _entries(body, order, second)
    }
    start, length = found.get(_THUMBNAIL_OFFSET, 0), found.get(_THUMBNAIL_LENGTH, 0)
    struct.pack_into(order + "L", body, next_pointer, 0)
    if start < 8 or length < 1 or start >= len(body):
        return
    if start + length >= len(body):
        del body[start:]
    else:
        body[start : start + length] = bytes(length)


def _exif_block(image: Image.Image) -> bytes | None:
    """The EXIF block of the file; for TIFF, whose tags are its own directory, one made of them."""
    if raw := image.info.get("exif"):
        return bytes(raw)
    return exif_of_directory(image.getexif())


def exif_of_directory(exif: Image.Exif) -> bytes | None:
    """An EXIF block of the tags of a TIFF directory, without those of its pixels; None where none are left."""
    for tag in STORAGE_TAGS & set(exif):
        del exif[tag]
    if not len(exif):
        return None
    return ascii_as_read(exif).tobytes()


def ascii_as_read(exif: Image.Exif) -> Image.Exif:
    """Turn texts that are not ASCII back into the bytes they were read from: Pillow reads Latin-1 but writes ASCII.

    Directories that are not there are left alone: asking for one makes an empty one, which TIFF does not allow.
    """
    below = [exif.get_ifd(tag) for tag in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo) if tag in exif]
    for directory in (exif, *below):
        for tag, value in list(directory.items()):
            if isinstance(value, str) and not value.isascii():
                directory[tag] = value.encode("latin-1", "replace")
    return exif


def _dpi(image: Image.Image) -> tuple[float, float] | None:
    """Resolution in dots per inch, where the file states a sensible one."""
    try:
        x, y = (float(value) for value in image.info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return (x, y) if all(math.isfinite(v) and 1 < v < 1e6 for v in (x, y)) else None
