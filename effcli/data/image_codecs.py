"""What Pillow does not read or write by itself: 16-bit colour, and lossless TIFF of either depth.

Pillow holds colour in 8 bits and keeps the high byte of each 16-bit sample. Its decoders take the byte order
as a setting, though: decoded once in the file's order and once in the other, a picture yields its high and
its low bytes, which together are every bit of it. Files are written here with numpy and zlib.
"""

from __future__ import annotations

import io
import struct
import sys
import zlib
from itertools import accumulate
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, PngImagePlugin, TiffImagePlugin

from effcli.data.image_metadata import STORAGE_TAGS, ascii_as_read
from effcli.data.picture import Metadata, Samples

_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLES_PER_PIXEL = 258, 262, 277
_PLANAR, _PREDICTOR, _EXTRA_SAMPLES = 284, 317, 338
_STRIP_BYTES = 1 << 20
_OTHER_ORDER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}


class GreyAlpha16Tiff(TiffImagePlugin.TiffImageFile):
    """A 16-bit grey + alpha TIFF, presented as 8-bit RGBA: the same four bytes a pixel."""

    def _setup(self) -> None:
        tags = self.tag_v2
        if tags.get(_BITS_PER_SAMPLE) != (16, 16) or tags.get(_PHOTOMETRIC) != 1 or tags.get(_PLANAR) == 2:
            raise SyntaxError("not a 16-bit grey + alpha TIFF")
        tags[_BITS_PER_SAMPLE], tags[_SAMPLES_PER_PIXEL] = (8, 8, 8, 8), 4
        tags[_PHOTOMETRIC], tags[_EXTRA_SAMPLES] = 2, (2,)
        super()._setup()


def rawmode(image: ImageFile.ImageFile) -> str:
    """How the samples lie in the file of an opened, not yet loaded image, in Pillow's notation."""
    if not image.tile:
        return image.mode
    args = image.tile[0].args
    return str(args[0] if isinstance(args, tuple) else args)


def is_grey_alpha_16(image: ImageFile.ImageFile) -> bool:
    """Whether an opened image is 16-bit grey + alpha."""
    return isinstance(image, GreyAlpha16Tiff) or rawmode(image) == "LA;16B"


def is_16bit(image: ImageFile.ImageFile) -> bool:
    """Whether an opened image holds 16-bit grey or RGB samples, with or without alpha."""
    colour = image.mode in ("RGB", "RGBA") and ";16" in rawmode(image)
    return colour or image.mode.startswith("I;16") or is_grey_alpha_16(image)


def read_samples_16(image: ImageFile.ImageFile, file: BinaryIO) -> NDArray[np.uint16]:
    """Decode a 16-bit picture exactly.

    Args:
        image: the opened image, for which :func:`is_16bit` holds; it is loaded.
        file: the seekable file it was opened from.

    Returns:
        Samples [H, W, C] with C 1 grey, 2 grey + alpha, 3 RGB, 4 RGBA.

    Raises:
        OSError: the file is truncated or damaged.
    """
    raw = rawmode(image)
    if is_grey_alpha_16(image):
        order = "<u2" if isinstance(image, GreyAlpha16Tiff) and _little_endian(image) else ">u2"
        pairs: NDArray[np.uint16] = _decode(image, "RGBA").view(np.dtype(order)).astype(np.uint16)
        return pairs
    if image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.uint16)[..., None]
        inverted = getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0
        return np.invert(grey) if inverted else grey
    straight = raw.replace("RGBa", "RGBA")
    high = _decode(image, straight)
    file.seek(0)
    with Image.open(file, formats=[str(image.format)]) as again:
        low = _decode(again, straight[:-1] + _OTHER_ORDER[straight[-1]])
    samples = (high.astype(np.uint16) << np.uint16(8)) | low.astype(np.uint16)
    return _divide_by_alpha(samples) if straight != raw else samples


def _decode(image: ImageFile.ImageFile, raw: str) -> NDArray[np.uint8]:
    """Load the image with its samples read as ``raw``."""
    image.tile = [
        tile._replace(args=(raw, *tile.args[1:]) if isinstance(tile.args, tuple) else raw)
        for tile in image.tile
    ]
    return np.asarray(image)


def _little_endian(image: TiffImagePlugin.TiffImageFile) -> bool:
    """Byte order of decoded TIFF samples: libtiff returns the machine's, the raw decoder the file's."""
    if image.tile[0].codec_name == "libtiff":
        return sys.byteorder == "little"
    return bool(image.tag_v2.prefix == b"II")


def _divide_by_alpha(samples: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Turn premultiplied RGBA into straight RGBA."""
    alpha = np.maximum(samples[..., 3:].astype(np.float64), 1)
    colour = np.minimum(np.rint(samples[..., :3] * (65535 / alpha)), 65535)
    return np.concatenate([colour.astype(np.uint16), samples[..., 3:]], axis=-1)


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
