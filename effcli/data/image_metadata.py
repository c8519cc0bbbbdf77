"""What travels beside the pixels of a picture: EXIF, ICC profile, XMP, IPTC, comment, chunks of PNG and resolution.

EXIF blocks are patched in place rather than parsed and written again, so that maker notes (which hold
absolute offsets) and texts in any encoding survive bit for bit.
"""

from __future__ import annotations

import io
import math
import re
import struct
from collections.abc import Iterator
from typing import BinaryIO

from PIL import ExifTags, Image

from effcli.data.image_codecs import bits_and_colour
from effcli.data.picture import Chunks, Metadata
from effcli.data.xmp import upright_xmp, without_appended_data

EXIF_PREFIX = b"Exif\0\0"
PHOTOSHOP_PREFIX = b"Photoshop 3.0\0"
PNG_COLOUR_CHUNKS = (b"gAMA", b"cHRM", b"cICP", b"mDCV", b"cLLI")
"""Gamma, primaries, coding-independent code points, and the two of high dynamic range."""
_PNG_TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")
_KEPT_ELSEWHERE = re.compile(rb"Comment|XML:com\.adobe\.xmp|Raw profile type (exif|APP1|xmp)", re.I)
"""Keywords of texts that are kept as comment, XMP and EXIF."""
_MOST_CHUNK_BYTES, _MOST_TEXT_BYTES = 64, 1 << 20

_ORIENTATION = ExifTags.Base.Orientation
_THUMBNAIL_OFFSET, _THUMBNAIL_LENGTH = ExifTags.Base.JpegIFOffset, ExifTags.Base.JpegIFByteCount
_EXIF_WIDTH, _EXIF_HEIGHT = ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight
_XMP, _ICC = 700, 34675
_PHOTOSHOP, _PHOTOSHOP_LAYERS = 34377, 37724
_TYPE_SHORT = 3

_PREVIEWS = (1033, 1036)  # resources of Photoshop
_KNOWN_SEGMENTS = {  # of JPEG -> how those begin that are kept, or said elsewhere
    "APP0": (b"JFIF\0", b"JFXX\0"),
    "APP1": (b"Exif\0", b"http://ns.adobe.com/xap/1.0/\0", b"http://ns.adobe.com/xmp/extension/\0"),
    "APP2": (b"ICC_PROFILE\0", b"MPF\0"),
    "APP13": (PHOTOSHOP_PREFIX,),
    "APP14": (b"Adobe",),
}

_CFA_PATTERN_SIZE, _CFA_PATTERN, _DNG = 33421, 33422, range(50706, 52554)

# Tags of a TIFF directory that describe how its pixels are stored (those of raw files, too), or repeat them (previews,
# layers): they belong to one file, not to the picture.
STORAGE_TAGS = frozenset(
    {*range(254, 260), 262, 266, 273, _ORIENTATION, *range(277, 282), 284, 292, 293, 297, *range(317, 324)}
    | {*range(324, 348), *range(512, 522), *range(529, 533), _XMP, _ICC, _PHOTOSHOP, _PHOTOSHOP_LAYERS}
    | {_CFA_PATTERN_SIZE, _CFA_PATTERN, *_DNG}
)


def read_metadata(
    image: Image.Image, file: BinaryIO, width: int, height: int
) -> tuple[Metadata, tuple[str, ...]]:
    """Collect the metadata of a loaded image for its upright pixels.

    Args:
        image: a loaded Pillow image.
        file: its file.
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
    xmp = image.info.get("xmp") or None
    if xmp:
        xmp, more_notes = without_appended_data(upright_xmp(xmp, width, height))
        notes += more_notes
    colour, texts = _png_chunks(file) if image.format == "PNG" else ((), ())
    metadata = Metadata(
        exif=exif,
        icc=image.info.get("icc_profile") or None,
        xmp=xmp,
        dpi=_dpi(image),
        iptc=_without_previews(_image_resources(image)) or None,
        comment=_comment(image),
        png_colour=colour or _coded_colour(image, file),
        png_text=texts,
    )
    return metadata, notes + _unknown_segments(image)


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


def _image_resources(image: Image.Image) -> bytes:
    """The image resources, in which Photoshop and others keep IPTC: in segments of a JPEG, in a tag of a TIFF."""
    if "APP13" in dict(getattr(image, "applist", [])):
        segments = [data for name, data in image.applist if name == "APP13"]  # type: ignore[attr-defined]
        return b"".join(
            data[len(PHOTOSHOP_PREFIX) :] for data in segments if data.startswith(PHOTOSHOP_PREFIX)
        )
    found = getattr(image, "tag_v2", {}).get(_PHOTOSHOP, b"")
    return found if isinstance(found, bytes) else b""


def _without_previews(resources: bytes) -> bytes:
    """Image resources without previews of the picture; what cannot be taken apart stays as it is."""
    kept, at = [], 0
    while len(resources) - at >= 12 and resources[at : at + 4] == b"8BIM":
        after_name = at + 6 + (resources[at + 6] + 2) // 2 * 2
        size = int.from_bytes(resources[after_name : after_name + 4], "big")
        end = after_name + 4 + size + size % 2
        if int.from_bytes(resources[at + 4 : at + 6], "big") not in _PREVIEWS:
            kept.append(resources[at:end])
        at = end
    return b"".join(kept) + resources[at:]


def _unknown_segments(image: Image.Image) -> tuple[str, ...]:
    """A note on the segments of a JPEG that are not kept, by their names and how they begin."""
    names = []
    for name, data in getattr(image, "applist", []):
        if name != "COM" and not data.startswith(_KNOWN_SEGMENTS.get(name, ())):
            word = re.match(rb"[\w./:-]{2,30}", data)
            names.append(name + (f" ({word[0].decode()})" if word else ""))
    unknown = list(dict.fromkeys(names))
    return (f"its JPEG segments {', '.join(unknown)} are not kept",) if unknown else ()


def _comment(image: Image.Image) -> bytes | None:
    if comments := [data for name, data in getattr(image, "applist", []) if name == "COM"]:
        return b"\n".join(comments)
    comment = image.info.get("comment" if image.format in ("JPEG", "MPO", "GIF") else "Comment")
    return comment.encode() if isinstance(comment, str) else comment or None


def _png_chunks(file: BinaryIO) -> tuple[Chunks, Chunks]:
    """The chunks of a PNG that say how its samples encode colour, and its texts."""
    file.seek(8)
    colour, texts, n_left = [], [], _MOST_TEXT_BYTES
    while len(header := file.read(8)) == 8 and header[4:] != b"IEND":
        name, size = header[4:], int.from_bytes(header[:4], "big")
        is_colour = name in PNG_COLOUR_CHUNKS and size <= _MOST_CHUNK_BYTES
        data = file.read(size) if is_colour or (name in _PNG_TEXT_CHUNKS and size <= n_left) else b""
        file.seek(size - len(data) + 4, io.SEEK_CUR)
        if is_colour:
            colour.append((name, data))
        elif data and not _KEPT_ELSEWHERE.fullmatch(data.split(b"\0")[0]):
            texts.append((name, data))
            n_left -= size
    return tuple(colour), tuple(texts)


def _coded_colour(image: Image.Image, file: BinaryIO) -> Chunks:
    """How an AVIF or HEIC without an ICC profile encodes colour, as PNG says it; empty where as sRGB."""
    if image.format not in ("AVIF", "HEIF") or image.info.get("icc_profile"):
        return ()
    _, code = bits_and_colour(file)
    return ((b"cICP", bytes([*code, 0, 1])),) if code else ()


def _dpi(image: Image.Image) -> tuple[float, float] | None:
    """Resolution in dots per inch, where the file states a sensible one."""
    try:
        x, y = (float(value) for value in image.info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return (x, y) if all(math.isfinite(v) and 1 < v < 1e6 for v in (x, y)) else None
