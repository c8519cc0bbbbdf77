"""From a picture to the content of an image file; 16-bit PNG and TIFF are written with numpy and zlib."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from dataclasses import replace
from itertools import accumulate
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, PngImagePlugin, TiffImagePlugin

from effcli.core.errors import RunError
from effcli.data.image_metadata import PHOTOSHOP_PREFIX, STORAGE_TAGS, ascii_as_read, icc_fits
from effcli.data.picture import Metadata, Picture, Samples

_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLES_PER_PIXEL = 258, 262, 277  # TIFF tags
_PREDICTOR, _EXTRA_SAMPLES = 317, 338
_STRIP_BYTES = 1 << 20
_LONGEST_SIDE = {"JPEG": 65535, "WEBP": 16383}
_JPEG_EXIF_BYTES, _JPEG_XMP_BYTES, _JPEG_RESOURCE_BYTES = 65533, 65504, 65519  # what one marker segment holds
_PHOTOSHOP = 34377  # TIFF tag


def encode(picture: Picture, format: str, quality: int, place: str) -> tuple[bytes, tuple[str, ...]]:
    """The content of an image file, and notes on what its format cannot hold."""
    height, width, n_colours = picture.pixels.shape
    longest = _LONGEST_SIDE.get(format)
    if longest and max(width, height) > longest:
        hint = "choose PNG or TIFF"
        raise RunError(f"{format} holds at most {longest} pixels per side", place=place, hint=hint)
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
        options["pnginfo"] = _png_chunks(metadata)
        if samples.dtype == np.uint16:
            return encode_png_16(samples, options)
        options["compress_type"] = zlib.Z_RLE  # photographs: as small as the default, 7 times faster
    elif metadata.xmp:
        options["xmp"] = metadata.xmp
    if format == "JPEG":
        options |= {"quality": quality, "subsampling": 0}
        if metadata.comment:
            options["comment"] = metadata.comment
        if metadata.iptc:
            options["extra"] = _resource_segments(metadata.iptc)
    if format == "WEBP":
        options |= {"lossless": True, "exact": True} if lossless else {"quality": quality}
    file = io.BytesIO()
    Image.fromarray(samples[..., 0] if samples.shape[-1] == 1 else samples).save(file, format, **options)
    return file.getvalue()


def _png_chunks(metadata: Metadata) -> PngImagePlugin.PngInfo:
    """What Pillow writes into a PNG beside EXIF, ICC profile and resolution."""
    chunks = PngImagePlugin.PngInfo()
    for name, data in (*metadata.png_colour, *metadata.png_text):
        chunks.add(name, data)
    if metadata.xmp:
        chunks.add_itxt("XML:com.adobe.xmp", metadata.xmp.decode("utf-8", "replace"))
    if metadata.comment:
        chunks.add_text("Comment", metadata.comment.decode("utf-8", "replace"))
    return chunks


def _resource_segments(resources: bytes) -> bytes:
    """Image resources of Photoshop as segments of a JPEG; long ones go on in the next segment."""
    parts = [
        PHOTOSHOP_PREFIX + resources[at : at + _JPEG_RESOURCE_BYTES]
        for at in range(0, len(resources), _JPEG_RESOURCE_BYTES)
    ]
    return b"".join(b"\xff\xed" + struct.pack(">H", 2 + len(part)) + part for part in parts)


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
    iptc, comment = metadata.iptc, metadata.comment
    if iptc and format not in ("JPEG", "TIFF"):
        iptc = None
        notes.append(f"{format} holds no IPTC: not kept")
    if comment and format not in ("JPEG", "PNG"):
        comment = None
        notes.append(f"{format} holds no comment: not kept")
    if format != "PNG":
        notes += _lost_chunks(metadata, format)
    return replace(metadata, exif=exif, icc=icc, xmp=xmp, iptc=iptc, comment=comment), notes


def _lost_chunks(metadata: Metadata, format: str) -> list[str]:
    """Notes on the chunks of a PNG that another format does not hold."""
    notes = []
    if names := ", ".join(name.decode() for name, _ in metadata.png_colour):
        notes.append(f"{format} holds no chunks on colour ({names}): not kept")
    words = [data.split(b"\0")[0].decode("latin-1") for _, data in metadata.png_text]
    if names := ", ".join(dict.fromkeys(words)):
        notes.append(f"{format} holds no texts of PNG ({names}): not kept")
    return notes


def _fits_tiff(exif: bytes) -> bool:
    """Whether an EXIF block can be taken apart into TIFF tags, in which the file's own go."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tiff_directory(Metadata(exif)).tobytes()
    except Exception:  # Pillow's EXIF parser raises nearly anything on damaged blocks
        return False
    return True


def encode_png_16(samples: Samples, chunks_of: dict[str, Any]) -> bytes:
    """Encode a 16-bit PNG.

    Args:
        samples: uint16 [H, W, C] with C 1 grey, 2 grey + alpha, 3 RGB, 4 RGBA.
        chunks_of: metadata as keyword arguments of Pillow's PNG writer.
    """
    height, width, n_channels = samples.shape
    rows = samples.astype(">u2").view(np.uint8).reshape(height, -1)
    step = 2 * n_channels
    filtered = np.empty((height, 1 + rows.shape[1]), np.uint8)
    filtered[:, 0] = 1  # the "Sub" filter: difference to the pixel on the left
    filtered[:, 1 : 1 + step] = rows[:, :step]
    np.subtract(rows[:, step:], rows[:, :-step], out=filtered[:, 1 + step :])
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[n_channels]
    ours = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0),
        b"IDAT": _deflate(filtered),
    }
    file = io.BytesIO()
    file.write(b"\x89PNG\r\n\x1a\n")
    for name, data, _ in PngImagePlugin.getchunks(Image.new("L", (1, 1)), **chunks_of):
        PngImagePlugin.putchunk(file, name, ours.get(name, data))
    return file.getvalue()


def encode_tiff(samples: Samples, metadata: Metadata) -> bytes:
    """Encode a deflated little-endian TIFF of 8 or 16 bits.

    Args:
        samples: [H, W, C] with C 1 grey, 2 grey + alpha, 3 RGB, 4 RGBA.
        metadata: what to embed.
    """
    height, width, n_channels = samples.shape
    rows_per_strip = max(1, _STRIP_BYTES // (width * n_channels * samples.itemsize))
    strips = [
        _deflate(_predict(samples[top : top + rows_per_strip])) for top in range(0, height, rows_per_strip)
    ]
    sizes = [len(strip) for strip in strips]
    directory = tiff_directory(metadata)
    directory[_BITS_PER_SAMPLE] = (8 * samples.itemsize,) * n_channels
    directory[_PHOTOMETRIC] = 2 if n_channels >= 3 else 1
    directory[_SAMPLES_PER_PIXEL] = n_channels
    directory[_PREDICTOR] = 2
    if n_channels in (2, 4):
        directory[_EXTRA_SAMPLES] = 2  # straight alpha
    directory[TiffImagePlugin.IMAGEWIDTH] = width
    directory[TiffImagePlugin.IMAGELENGTH] = height
    directory[TiffImagePlugin.COMPRESSION] = 8  # Adobe deflate
    directory[TiffImagePlugin.ROWSPERSTRIP] = rows_per_strip
    for tag, values in (
        (TiffImagePlugin.STRIPBYTECOUNTS, sizes),
        (TiffImagePlugin.STRIPOFFSETS, [0, *accumulate(sizes[:-1])]),  # counted from the directory's end
    ):
        directory.tagtype[tag] = 4  # LONG
        directory[tag] = tuple(values)
    file = io.BytesIO()
    directory.save(file)
    file.writelines(strips)
    return file.getvalue()


def tiff_directory(metadata: Metadata) -> TiffImagePlugin.ImageFileDirectory_v2:
    """The TIFF tags that hold a picture's metadata; on damaged EXIF nearly any exception is raised."""
    directory = TiffImagePlugin.ImageFileDirectory_v2(prefix=b"II")
    exif = Image.Exif()
    exif.load(metadata.exif or b"")
    for tag in set(ascii_as_read(exif)) - STORAGE_TAGS:
        value = exif[tag]
        if tag in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
            value = dict(exif.get_ifd(tag))
            if ExifTags.IFD.Interop in value:
                value[ExifTags.IFD.Interop] = exif.get_ifd(ExifTags.IFD.Interop)
        directory[tag] = value
    if metadata.dpi:
        directory[TiffImagePlugin.X_RESOLUTION], directory[TiffImagePlugin.Y_RESOLUTION] = metadata.dpi
        directory[TiffImagePlugin.RESOLUTION_UNIT] = 2
    if metadata.icc:
        directory[TiffImagePlugin.ICCPROFILE] = metadata.icc
    if metadata.xmp:
        directory[TiffImagePlugin.XMP] = metadata.xmp
    if metadata.iptc:
        directory[_PHOTOSHOP] = metadata.iptc
    return directory


def _predict(rows: Samples) -> Samples:
    """Horizontal differences (TIFF predictor 2), little-endian."""
    differences = rows.copy()
    differences[:, 1:] -= rows[:, :-1]
    return cast(Samples, differences.astype(differences.dtype.newbyteorder("<"), copy=False))


def _deflate(data: Samples) -> bytes:
    """Deflate with run lengths only: differences of photographs come out as small, five times faster."""
    packer = zlib.compressobj(6, zlib.DEFLATED, 15, 9, zlib.Z_RLE)
    return packer.compress(np.ascontiguousarray(data).data) + packer.flush()
