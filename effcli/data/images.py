"""Image files in and out: PNG, JPEG, WebP, TIFF and BMP, of 8 or 16 bits, with all that belongs to a picture.

A :class:`Picture` keeps what people expect back: bit depth, grey, alpha, EXIF, ICC profile, XMP, resolution.
Writing a picture whose pixels were not touched gives the samples that were read, bit for bit (JPEG and lossy
WebP apart). Damaged, truncated, animated and too large files are refused.
"""

from __future__ import annotations

import contextlib
import io
import os
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import (
    Image,
    ImageCms,
    ImageFile,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401  registers the format, which otherwise imports every plug-in
)

from effcli.core.errors import EffcliError, InputError, UsageError
from effcli.core.files import atomic_path, write_error
from effcli.data.image_codecs import GreyAlpha16Tiff, is_16bit, is_grey_alpha_16, read_samples_16
from effcli.data.image_encoding import encode
from effcli.data.image_metadata import orientation, read_metadata
from effcli.data.picture import FORMATS, Metadata, Picture, PictureInfo, Samples, format_of

__all__ = [
    "FORMATS",
    "MAX_PIXELS",
    "Metadata",
    "Picture",
    "PictureInfo",
    "format_of",
    "identify",
    "read_picture",
    "write_picture",
]

MAX_PIXELS = 400_000_000
_OPENED = ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"]  # GIF to name it in the refusal
_SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"II*\0", b"MM\0*", b"BM", b"GIF8")
_BITS_PER_SAMPLE, _COMPRESSION, _SAMPLES_PER_PIXEL, _PLANAR = 258, 259, 277, 284  # TIFF tags
_STRIPS, _TILES = (273, 279), (324, 325)  # TIFF tags of offsets and byte counts
_HINT_SAMPLES = "save it as interleaved 8- or 16-bit RGB or grey"
_TRUNCATED = "truncated image: the file ends before the picture does"
_PILLOW_LIMIT = threading.RLock()  # the limit is a global of Pillow's: one picture is read at a time


def identify(source: Path | bytes, *, max_pixels: int = MAX_PIXELS) -> PictureInfo:
    """Read an image file's header only.

    Raises:
        InputError: as :func:`read_picture`, for what the header shows.
    """
    with _opened(source, max_pixels) as (image, _):
        depth = 16 if is_16bit(image) else 8
        if is_grey_alpha_16(image):
            n_channels = 2
        else:
            n_colours = 1 if image.mode in ("1", "L", "LA", "I;16", "I;16B") else 3
            n_channels = n_colours + image.has_transparency_data
        return PictureInfo(*image.size, n_channels, depth, _format(image))


def read_picture(source: Path | bytes, *, max_pixels: int = MAX_PIXELS) -> Picture:
    """Read a still picture.

    Args:
        source: a file, or the content of one.
        max_pixels: the largest picture to decode, checked in the header.

    Returns:
        The upright picture: EXIF orientation is applied to the pixels. Palette and CMYK pictures become RGB,
        1-bit ones grey.

    Raises:
        InputError: missing, unreadable, empty, not an image, damaged, truncated, animated, too large, or of a
            kind that is not supported (32-bit samples, Lab).
    """
    with _opened(source, max_pixels) as (image, file):
        lossless = _is_lossless(image, file)
        bit_depth = 16 if is_16bit(image) else 8
        notes: tuple[str, ...] = ()
        samples: Samples
        if bit_depth == 16:
            samples = _key_to_alpha(read_samples_16(image, file), image)
        else:
            samples, notes = _read_samples_8(image)
        samples = _upright(samples, orientation(image))
        height, width, n_channels = samples.shape
        n_colours = n_channels - 1 if n_channels in (2, 4) else n_channels
        metadata, more_notes = read_metadata(image, width, height)
        largest = np.float32(np.iinfo(samples.dtype).max)
        return Picture(
            pixels=np.divide(samples[..., :n_colours], largest, dtype=np.float32, order="C"),
            alpha=samples[..., -1].copy() if n_channels > n_colours else None,
            bit_depth=bit_depth,
            format=_format(image),
            metadata=metadata,
            lossless=lossless,
            notes=notes + more_notes,
        )


def write_picture(
    picture: Picture, destination: Path | BinaryIO, *, format: str | None = None, quality: int = 95
) -> tuple[str, ...]:
    """Write a picture; a file appears whole or not at all.

    Args:
        picture: what to write; pixels outside 0..1 are clipped.
        destination: a path, whose folder exists, or a stream.
        format: a value of :data:`FORMATS`; by default what the path's suffix says, else ``picture.format``.
        quality: 1..100 for JPEG (always 4:4:4) and for WebP unless ``picture.lossless``.

    Returns:
        Notes on what the format could not hold, one sentence each.

    Raises:
        UsageError: the suffix or format is not supported.
        RunError: the disk is full, the destination cannot be written, or the format cannot hold the picture.
    """
    place = str(destination) if isinstance(destination, Path) else "output"
    own = format_of(destination) if isinstance(destination, Path) else picture.format
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


@contextlib.contextmanager
def _opened(source: Path | bytes, max_pixels: int) -> Iterator[tuple[ImageFile.ImageFile, BinaryIO]]:
    """The checked image, not yet decoded, and its file; whatever fails inside becomes an InputError."""
    place = str(source) if isinstance(source, Path) else "image data"
    try:
        with _open_file(source) as file, _pillow_unlimited(), _open_image(file) as image:
            _check_header(image, max_pixels)
            _check_tiff(image, file)
            yield image, file
    except EffcliError as error:
        error.place = error.place or place
        raise
    except MemoryError as error:
        raise InputError("does not fit in memory", place=place) from error
    except OSError as error:
        raise InputError(_reason(error), place=place) from error
    except Exception as error:  # Pillow's parsers raise nearly anything on damaged files
        raise InputError(f"damaged image ({' '.join(str(error).split())})", place=place) from error


def _open_file(source: Path | bytes) -> BinaryIO:
    """A seekable file over the source; what is empty is refused."""
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
    try:
        return Image.open(file, formats=_OPENED)
    except UnidentifiedImageError:
        file.seek(0)
        signature = file.read(4)
        file.seek(0)
        if signature in (b"II*\0", b"MM\0*"):
            with contextlib.suppress(SyntaxError):
                return GreyAlpha16Tiff(file)
        if signature.startswith(_SIGNATURES):
            raise InputError("damaged or truncated image, or a kind of it that is not supported") from None
        raise InputError("not an image (PNG, JPEG, WebP, TIFF or BMP)") from None


def _check_header(image: ImageFile.ImageFile, max_pixels: int) -> None:
    """Refuse what is too large, not a still picture, or has 32-bit or Lab samples."""
    width, height = image.size
    if width * height > max_pixels:
        limit = f"{max_pixels / 1e6:g} megapixels"
        raise InputError(f"{width} x {height} pixels are more than the limit of {limit}")
    if getattr(image, "is_animated", False) and image.format != "MPO":
        several = "has several pages" if image.format == "TIFF" else "is animated"
        raise InputError(f"{several}: only still pictures are supported", hint="extract one of them first")
    if image.format == "GIF":
        raise InputError("GIF is not supported", hint="convert it to PNG")
    if image.mode in ("I", "F", "LAB"):
        kind = "Lab colours" if image.mode == "LAB" else "32-bit samples"
        raise InputError(f"{kind} are not supported", hint=_HINT_SAMPLES)


def _check_tiff(image: ImageFile.ImageFile, file: BinaryIO) -> None:
    """Refuse TIFFs with samples that would be misread, or whose compressed data lie beyond the end."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return
    tags = image.tag_v2
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
    text = str(error)
    if "truncated" in text.lower():
        return _TRUNCATED
    return f"damaged or truncated image ({text})"


def _format(image: ImageFile.ImageFile) -> str:
    """Our name of the format: MPO is a JPEG followed by more of them."""
    return "JPEG" if image.format == "MPO" else str(image.format)


def _is_lossless(image: ImageFile.ImageFile, file: BinaryIO) -> bool:
    """Whether the file holds its samples exactly; WebP says so by its VP8L chunk."""
    if image.format != "WEBP":
        return _format(image) != "JPEG"
    file.seek(12)
    while len(header := file.read(8)) == 8:
        if header[:4] in (b"VP8 ", b"VP8L"):
            return header[:4] == b"VP8L"
        size = int.from_bytes(header[4:], "little")
        file.seek(size + size % 2, os.SEEK_CUR)
    return False


def _read_samples_8(image: ImageFile.ImageFile) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Samples [H, W, C] of any 8-bit picture as grey, grey + alpha, RGB or RGBA, and what was lost."""
    notes: list[str] = []
    if image.format == "MPO" and getattr(image, "is_animated", False):
        notes.append("only the first of the pictures in the file (no depth or gain map) is kept")
    image.load()
    converted: Image.Image = image
    if image.mode == "CMYK":
        converted = _cmyk_to_rgb(image)
        notes.append("CMYK colours were converted to 8-bit RGB")
    elif image.mode not in ("L", "LA", "RGB", "RGBA") or image.has_transparency_data:
        grey = image.mode in ("1", "L", "LA", "La")
        converted = image.convert(("L" if grey else "RGB") + ("A" if image.has_transparency_data else ""))
    samples = np.asarray(converted)
    return samples[..., None] if samples.ndim == 2 else samples, tuple(notes)


def _cmyk_to_rgb(image: Image.Image) -> Image.Image:
    """CMYK to sRGB by the embedded profile, else by the plain formula."""
    icc = image.info.get("icc_profile")
    if icc:
        with contextlib.suppress(ImageCms.PyCMSError, OSError):
            srgb = ImageCms.createProfile("sRGB")
            if out := ImageCms.profileToProfile(image, io.BytesIO(icc), srgb, outputMode="RGB"):
                return out
    return image.convert("RGB")


def _key_to_alpha(samples: NDArray[np.uint16], image: ImageFile.ImageFile) -> NDArray[np.uint16]:
    """Turn a PNG's transparent colour, if it names one, into an alpha channel."""
    key = image.info.get("transparency")
    if image.format != "PNG" or key is None or samples.shape[-1] not in (1, 3):
        return samples
    opaque = (samples != np.asarray(key, np.uint16)).any(axis=-1, keepdims=True)
    return np.concatenate([samples, opaque.astype(np.uint16) * np.uint16(65535)], axis=-1)


def _upright(samples: Samples, exif_orientation: int) -> Samples:
    """Apply an EXIF orientation 1..8 to samples [H, W, C]."""
    if exif_orientation in (5, 6, 7, 8):
        samples = samples.swapaxes(0, 1)
    if exif_orientation in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    if exif_orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    return samples
