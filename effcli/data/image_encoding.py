"""From a picture to the content of an image file."""

from __future__ import annotations

import io
import warnings
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from effcli.core.errors import RunError
from effcli.data.image_codecs import encode_png_16, encode_tiff, tiff_directory
from effcli.data.image_metadata import icc_fits
from effcli.data.picture import Metadata, Picture, Samples

_LONGEST_SIDE = {"JPEG": 65535, "WEBP": 16383}
_JPEG_EXIF_BYTES, _JPEG_XMP_BYTES = 65533, 65504  # what one marker segment holds


def encode(picture: Picture, format: str, quality: int, place: str) -> tuple[bytes, tuple[str, ...]]:
    """The content of an image file, and notes on what its format cannot hold."""
    height, width, n_colours = picture.pixels.shape
    longest = _LONGEST_SIDE.get(format)
    if longest and max(width, height) > longest:
        hint = "choose PNG or TIFF"
        raise RunError(f"{format} holds at most {longest} pixels a side", place=place, hint=hint)
    bit_depth = picture.bit_depth if format in ("PNG", "TIFF") else 8
    notes = [] if bit_depth == picture.bit_depth else [f"{format} holds 8 bits: 16-bit samples were rounded"]
    samples = _samples(picture, bit_depth)
    if picture.alpha is not None and format in ("JPEG", "BMP"):
        samples = _over_white(samples)
        notes.append(f"{format} holds no transparency: blended over white")
    metadata, more_notes = _fitting_metadata(picture.metadata, format, 3 if format == "WEBP" else n_colours)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, about EXIF tags of the wrong type
            data = _encode_samples(samples, metadata, format, quality, picture.lossless)
    except MemoryError as error:
        raise RunError("not enough memory to write it", place=place) from error
    except Exception as error:
        raise RunError(f"cannot be encoded as {format}: {error}", place=place) from error
    return data, (*notes, *more_notes)


def _encode_samples(samples: Samples, metadata: Metadata, format: str, quality: int, lossless: bool) -> bytes:
    """Encode samples [H, W, C] that the format can hold."""
    if format == "TIFF":
        return encode_tiff(samples, metadata)
    options: dict[str, Any] = {"dpi": metadata.dpi, "icc_profile": metadata.icc, "exif": metadata.exif}
    options = {name: value for name, value in options.items() if value is not None}
    if format == "PNG":
        if metadata.xmp:
            options["pnginfo"] = PngImagePlugin.PngInfo()
            options["pnginfo"].add_itxt("XML:com.adobe.xmp", metadata.xmp.decode("utf-8", "replace"))
        if samples.dtype == np.uint16:
            return encode_png_16(samples, options)
        options["compress_type"] = zlib.Z_RLE  # photographs: as small as the default, 7 times faster
    elif metadata.xmp:
        options["xmp"] = metadata.xmp
    if format == "JPEG":
        options |= {"quality": quality, "subsampling": 0}
    if format == "WEBP":
        options |= {"lossless": True, "exact": True} if lossless else {"quality": quality}
    file = io.BytesIO()
    Image.fromarray(samples[..., 0] if samples.shape[-1] == 1 else samples).save(file, format, **options)
    return file.getvalue()


def _samples(picture: Picture, bit_depth: int) -> Samples:
    """Quantise to [H, W, C], alpha last; band by band, to spare memory."""
    height, width, n_colours = picture.pixels.shape
    dtype = np.uint16 if bit_depth == 16 else np.uint8
    largest = np.float32(np.iinfo(dtype).max)
    samples = np.empty((height, width, n_colours + (picture.alpha is not None)), dtype)
    n_rows = max(1, (1 << 20) // width)
    for top in range(0, height, n_rows):
        band = picture.pixels[top : top + n_rows] * largest
        samples[top : top + n_rows, :, :n_colours] = np.rint(np.clip(band, 0, largest, out=band), out=band)
    if picture.alpha is not None:
        samples[..., -1] = _alpha_of_depth(picture.alpha, bit_depth)
    return samples


def _alpha_of_depth(alpha: Samples, bit_depth: int) -> NDArray[Any]:
    """Alpha at the given depth; unchanged when it has it already."""
    if alpha.itemsize * 8 == bit_depth:
        return alpha
    return (
        alpha.astype(np.uint16) * np.uint16(257)
        if bit_depth == 16
        else (alpha.astype(np.uint32) + 128) // 257
    )


def _over_white(samples: Samples) -> Samples:
    """Blend 8-bit samples [H, W, C + alpha] over white."""
    alpha = samples[..., -1:].astype(np.uint16)
    blended = (samples[..., :-1] * alpha + 255 * (255 - alpha) + 127) // 255
    return blended.astype(np.uint8)


def _fitting_metadata(metadata: Metadata, format: str, n_colours: int) -> tuple[Metadata, list[str]]:
    """The metadata that the format can hold, and notes on the rest."""
    exif, icc, xmp, notes = metadata.exif, metadata.icc, metadata.xmp, []
    if icc is not None and not icc_fits(icc, n_colours):
        icc = None
        notes.append("its ICC profile is for other channels and not kept")
    if format == "JPEG" and len(exif or b"") > _JPEG_EXIF_BYTES:
        exif = None
        notes.append("its EXIF block is too long for JPEG and not kept")
    if format == "JPEG" and len(xmp or b"") > _JPEG_XMP_BYTES:
        xmp = None
        notes.append("its XMP packet is too long for JPEG and not kept")
    if format == "TIFF" and exif and not _fits_tiff(exif):
        exif = None
        notes.append("its EXIF block is damaged and not kept")
    if format == "BMP" and any((exif, icc, xmp)):
        exif = icc = xmp = None
        notes.append("BMP holds no EXIF, ICC profile or XMP: not kept")
    return Metadata(exif, icc, xmp, metadata.dpi), notes


def _fits_tiff(exif: bytes) -> bool:
    """Whether an EXIF block can be taken apart into TIFF tags, in which the file's own go."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tiff_directory(Metadata(exif)).tobytes()
    except Exception:  # Pillow's EXIF parser raises nearly anything on damaged blocks
        return False
    return True
