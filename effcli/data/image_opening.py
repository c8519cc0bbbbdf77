"""Opening image files: what is not a picture, not whole, too large or not understood is refused by name."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import threading
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from PIL import (
    AvifImagePlugin,  # noqa: F401  registers the format, which otherwise imports every plug-in; so do the others
    Image,
    ImageFile,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
)

from effcli.core.errors import EffcliError, InputError
from effcli.data.camera_raw import INSTALL
from effcli.data.image_codecs import GreyAlpha16Tiff, is_16bit
from effcli.data.stored_files import StoredFile

Source: TypeAlias = Path | StoredFile | bytes
"""An image file, one inside a tar, or the content of one."""

_FORMATS = ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "AVIF", "HEIF"]
_SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"II*\0", b"MM\0*", b"BM", b"GIF8")
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")
_OTHER_FILES = (  # how a file begins -> what it is
    (b"%PDF", "a PDF document"),
    (b"8BPS", "a Photoshop file"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 file"),
    (b"\0\x05\x16\x07", "a file of macOS attributes (AppleDouble)"),
    (b"version https://git-lfs", "a Git LFS pointer; the picture was not downloaded"),
    (b"PK\x03\x04", "a zip archive"),
    (b"<!doctype html", "a web page"),
    (b"<html", "a web page"),
    (b"<svg", "an SVG drawing"),
    (b"<?xml", "an XML file"),
)
_RAW_SIGNATURES = (b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"\0MRM")
"""Of raw files that are no TIFF: Fujifilm, Olympus, Panasonic, Minolta; Canon's CR3 is a kind of MP4."""
_BITS_PER_SAMPLE, _COMPRESSION, _SAMPLES_PER_PIXEL, _PLANAR = 258, 259, 277, 284  # TIFF tags
_SUBFILE_TYPE, _PHOTOMETRIC, _DNG_VERSION = 254, 262, 50706
_RAW_PHOTOMETRICS = (32803, 34892)  # a mosaic of colour filters, linear raw
_SAMPLE_FORMAT = 339
_STRIPS, _TILES = (273, 279), (324, 325)  # TIFF tags of offsets and byte counts
_HINT_SAMPLES = "save it as interleaved 8- or 16-bit RGB or grey"
_TRUNCATED = "truncated image: the file ends before the picture does"
_PILLOW_LIMIT = threading.RLock()  # the limit is a global of Pillow's: one picture is read at a time


class RawFileError(InputError):
    """A camera raw file, which Pillow takes for its thumbnail: it has to be developed (`camera_raw.py`)."""

    def __init__(self) -> None:
        hint = f"{INSTALL}, or develop it to TIFF or JPEG first"
        super().__init__("is a camera raw file: only its thumbnail could be read", hint=hint)


def place_of(source: Source) -> str:
    """How messages name a source."""
    if isinstance(source, StoredFile):
        return source.place
    return str(source) if isinstance(source, Path) else "image data"


@contextlib.contextmanager
def opened(
    source: Source, place: str, max_pixels: int | None
) -> Iterator[tuple[ImageFile.ImageFile, BinaryIO]]:
    """The checked image, not yet decoded, and its file; whatever fails inside becomes an InputError.

    Args:
        source: what to open.
        place: how messages name it.
        max_pixels: the largest picture; None is Pillow's own limit, under which threads read side by side.
    """
    limit = contextlib.nullcontext() if max_pixels is None else _pillow_unlimited()
    try:
        with _open_file(source) as file, limit, _open_image(file) as image:
            _check_size(image, max_pixels)
            _check_tiff(image, file)
            _check_samples(image)
            yield image, file
    except EffcliError as error:
        error.place = error.place or place
        raise
    except MemoryError as error:
        raise InputError("does not fit in memory", place=place) from error
    except Image.DecompressionBombError as error:
        raise InputError(f"too large to be safe: {error}", place=place) from error
    except OSError as error:
        raise InputError(_reason(error), place=place) from error
    except Exception as error:  # Pillow's parsers raise nearly anything on damaged files
        raise InputError(f"damaged image ({' '.join(str(error).split())})", place=place) from error


@contextlib.contextmanager
def named(place: str) -> Iterator[None]:
    """Errors that are raised inside and have no place get this one."""
    try:
        yield
    except EffcliError as error:
        error.place = error.place or place
        raise
    except MemoryError as error:
        raise InputError("does not fit in memory", place=place) from error


def content_of(source: Source) -> bytes:
    """All bytes of a source."""
    with _open_file(source) as file:
        return file.read()


def frames_left_out(image: ImageFile.ImageFile) -> str | None:
    """What an opened image holds beside the picture that is read, if that is more than previews of it."""
    if not getattr(image, "is_animated", False) or image.format in ("MPO", "HEIF"):
        return None
    if image.format != "TIFF":
        return "is animated"
    return None if _has_thumbnails_only(image) else "has several pages"


def format_name(image: ImageFile.ImageFile) -> str:
    """Name of the format: MPO is a JPEG followed by more of them."""
    return "JPEG" if image.format == "MPO" else str(image.format)


def register_heif() -> bool:
    """Let Pillow read HEIC, where pillow-heif is installed; whether it is."""
    if "HEIF" in Image.OPEN:
        return True
    try:
        importlib.import_module("pillow_heif").register_heif_opener()
    except ImportError:
        return False
    return True


def _open_file(source: Source) -> BinaryIO:
    """A seekable file over the source; what is empty is refused."""
    if isinstance(source, StoredFile):
        source = source.path if source.member is None else source.read()
    file: BinaryIO = io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
    try:
        if not file.seekable():  # a pipe
            with file:
                return _open_file(file.read())
        if file.seek(0, os.SEEK_END) == 0:
            raise InputError("is empty (0 bytes)")
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file


@contextlib.contextmanager
def _pillow_unlimited() -> Iterator[None]:
    """Silence Pillow's warnings and put its pixel limit out of the way of ours."""
    with _PILLOW_LIMIT, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _open_image(file: BinaryIO) -> ImageFile.ImageFile:
    """Open with Pillow, or with our own reader of what Pillow does not know."""
    head = file.read(32)
    file.seek(0)
    if _is_heic(head) and not register_heif():
        hint = "pip install 'effcli[heic]', or convert it to JPEG or PNG"
        raise InputError("is a HEIC picture, which needs pillow-heif", hint=hint)
    if head.startswith(_RAW_SIGNATURES) or head[4:12] == b"ftypcrx ":
        raise RawFileError
    Image.preinit()
    try:
        return Image.open(file, formats=[name for name in _FORMATS if name in Image.OPEN])
    except UnidentifiedImageError:
        file.seek(0)
        if head[:4] in (b"II*\0", b"MM\0*"):
            tags = _first_directory(file)
            if _DNG_VERSION in tags or tags.get(_PHOTOMETRIC) in _RAW_PHOTOMETRICS:
                raise RawFileError from None
            _check_kind(tags)
            with contextlib.suppress(SyntaxError):
                return GreyAlpha16Tiff(file)
        if head.startswith(_SIGNATURES):
            raise InputError("damaged or truncated image, or an unsupported variant of its format") from None
        raise InputError(_not_an_image(head)) from None


def _first_directory(file: BinaryIO) -> dict[int, Any]:
    """The tags of the first directory of a TIFF, none where it is damaged; the file is left at its start."""
    try:
        directory = TiffImagePlugin.ImageFileDirectory_v2(file.read(8))
        file.seek(directory.next)
        directory.load(file)
        return dict(directory.items())
    except Exception:  # Pillow's parser raises nearly anything on damaged files
        return {}
    finally:
        file.seek(0)


def _is_heic(head: bytes) -> bool:
    return head[4:8] == b"ftyp" and head[8:12] in _HEIC_BRANDS and b"avif" not in head


def _not_an_image(head: bytes) -> str:
    """What a file is that begins so."""
    if head[4:8] == b"ftyp":
        is_avif = b"avif" in head[8:] or b"avis" in head[8:]
        return "damaged or truncated AVIF" if is_avif else "not an image but a video (MP4 or MOV)"
    start = head.lstrip(b"\xef\xbb\xbf\r\n\t ") if head[:1] in b"\xef\r\n\t <" else head
    for signature, kind in _OTHER_FILES:
        if start[: len(signature)].lower() == signature.lower():
            return f"not an image but {kind}"
    return "not an image (PNG, JPEG, WebP, TIFF, BMP, GIF, AVIF or PPM)"


def _check_size(image: ImageFile.ImageFile, max_pixels: int | None) -> None:
    """Refuse what is too large."""
    width, height = image.size
    if max_pixels is not None and width * height > max_pixels:
        limit = f"{max_pixels / 1e6:g} megapixels"
        raise InputError(f"{width} x {height} pixels are more than the limit of {limit}")


def _check_samples(image: ImageFile.ImageFile) -> None:
    """Refuse samples whose range is unknown (32 bits) or that are not RGB or grey."""
    if image.mode in ("I", "F", "LAB") and not is_16bit(image):
        kind = "Lab colours" if image.mode == "LAB" else "32-bit samples"
        raise InputError(f"{kind} are not supported", hint=_HINT_SAMPLES)


def _check_tiff(image: ImageFile.ImageFile, file: BinaryIO) -> None:
    """Refuse TIFFs with samples that would be misread, or whose compressed data lie beyond the end, and raw files."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return
    tags = image.tag_v2
    if _DNG_VERSION in tags or (int(tags.get(_SUBFILE_TYPE, 0)) & 1 and not getattr(image, "is_animated", 0)):
        raise RawFileError
    _check_kind(tags)
    bits = {int(value) for value in np.atleast_1d(tags.get(_BITS_PER_SAMPLE, 1))}
    if not bits <= {1, 2, 4, 8, 16}:
        raise InputError(f"{max(bits)}-bit samples are not supported", hint=_HINT_SAMPLES)
    if bits == {16} and tags.get(_PLANAR) == 2 and tags.get(_SAMPLES_PER_PIXEL, 1) > 1:
        raise InputError("16-bit colours in separate planes are not supported", hint=_HINT_SAMPLES)
    n_bytes = file.seek(0, os.SEEK_END)
    for offsets, counts in (_STRIPS, _TILES):
        pieces = zip(np.atleast_1d(tags.get(offsets, 0)), np.atleast_1d(tags.get(counts, 0)), strict=False)
        if tags.get(_COMPRESSION, 1) != 1 and any(int(at) + int(size) > n_bytes for at, size in pieces):
            raise InputError(_TRUNCATED)


def _check_kind(tags: Mapping[int, Any]) -> None:
    """Refuse samples of a TIFF that are no natural numbers."""
    bits = {int(value) for value in np.atleast_1d(tags.get(_BITS_PER_SAMPLE, 1))}
    kinds = {int(value) for value in np.atleast_1d(tags.get(_SAMPLE_FORMAT, 1))}
    if not kinds <= {1, 4}:  # 4 is undefined, as opposed to signed, floating-point or complex
        kind = "signed" if kinds == {2} else "floating-point" if 3 in kinds else "complex"
        raise InputError(f"{max(bits)}-bit {kind} samples are not supported", hint=_HINT_SAMPLES)


def _has_thumbnails_only(image: ImageFile.ImageFile) -> bool:
    """Whether all further pages of a TIFF are marked as previews, or are its first page at half its size or less."""
    width, height = image.size
    try:
        for number in range(1, image.n_frames):  # type: ignore[attr-defined]
            image.seek(number)
            across, down = image.size
            is_marked = int(image.tag_v2.get(_SUBFILE_TYPE, 0)) & 1  # type: ignore[attr-defined]
            is_same_shape = abs(across * height - down * width) <= max(width, height)
            if not is_marked and not (2 * max(across, down) <= max(width, height) and is_same_shape):
                return False
    finally:
        image.seek(0)
    return True


def _reason(error: OSError) -> str:
    """One line for what the system or Pillow says."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, IsADirectoryError):
        return "is a folder, not an image"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if error.errno is not None:
        return f"cannot be read: {error.strerror}"
    text = " ".join(str(error).split())
    if "truncated" in text.lower():
        return _TRUNCATED
    return f"damaged or truncated image ({text})"
