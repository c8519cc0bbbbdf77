"""What Pillow does not read by itself: 16-bit colour, and how AVIF and HEIC encode theirs.

Pillow holds colour in 8 bits and keeps the high byte of each 16-bit sample. Its decoders take the byte order
as a setting, though: decoded once in the file's order and once in the other, a picture yields its high and
its low bytes, which together are every bit of it.
"""

from __future__ import annotations

import re
import sys
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, TiffImagePlugin

_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLES_PER_PIXEL = 258, 262, 277
_PLANAR, _EXTRA_SAMPLES = 284, 338
_OTHER_ORDER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
_COLOUR_16 = re.compile(r";16[BLN]$")  # BGR;16 are 16 bits per pixel
_MOST_META_BYTES = 1 << 24


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
    colour = image.mode in ("RGB", "RGBA") and _COLOUR_16.search(rawmode(image)) is not None
    return colour or is_grey_16(image) or is_grey_alpha_16(image) or _is_ppm_16(image)


def is_grey_16(image: ImageFile.ImageFile) -> bool:
    """Whether an opened image is 16-bit grey; of PGM, whose samples Pillow scales to 65535, more than 8 bits."""
    return image.mode.startswith("I;16") or (image.format == "PPM" and image.mode == "I")


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
    if _is_ppm_16(image):
        return _read_ppm_16(image, file)
    if is_grey_alpha_16(image):
        order = "<u2" if isinstance(image, GreyAlpha16Tiff) and _little_endian(image) else ">u2"
        pairs: NDArray[np.uint16] = _decode(image, "RGBA").view(np.dtype(order)).astype(np.uint16)
        return pairs
    if is_grey_16(image):
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


def bits_and_colour(file: BinaryIO) -> tuple[int, tuple[int, int] | None]:
    """What the boxes of an AVIF or HEIC file say of its samples.

    Returns:
        Bits per sample (8 where it does not say), and colour primaries and transfer characteristics by their
        numbers in ITU-T H.273; None where these are sRGB's, unspecified, or differ between the parts of the file.
    """
    meta = _meta_box(file)
    pixi = [meta[at.end() + 5 : at.end() + 5 + meta[at.end() + 4]] for at in re.finditer(b"pixi", meta[:-9])]
    colours = {(meta[at.end() + 1], meta[at.end() + 3]) for at in re.finditer(b"colrnclx", meta[:-4])}
    primaries, transfer = colours.pop() if len(colours) == 1 else (1, 13)
    is_srgb = primaries in (1, 2) and transfer in (1, 2, 6, 13, 14, 15)
    return max((bits for one in pixi for bits in one), default=8), None if is_srgb else (primaries, transfer)


def _meta_box(file: BinaryIO) -> bytes:
    """Content of the box that describes the pictures of an AVIF or HEIC file; empty where there is none."""
    at = 0
    while file.seek(at) == at and len(header := file.read(16)) >= 8:
        size = int.from_bytes(header[:4], "big")
        size = int.from_bytes(header[8:], "big") if size == 1 else size
        if header[4:8] == b"meta":
            file.seek(at + 8)
            return file.read(min(size or _MOST_META_BYTES, _MOST_META_BYTES))
        if size < 8:
            break
        at += size
    return b""


def _is_ppm_16(image: ImageFile.ImageFile) -> bool:
    """Whether an opened image is a colour PPM of more than 8 bits, of which Pillow keeps 8."""
    args = image.tile[0].args if image.format == "PPM" and image.mode == "RGB" and image.tile else None
    return isinstance(args, tuple) and len(args) == 2 and int(args[1]) > 255


def _read_ppm_16(image: ImageFile.ImageFile, file: BinaryIO) -> NDArray[np.uint16]:
    """Samples [H, W, 3] of a PPM with a largest value above 255, scaled so that this becomes 65535."""
    tile = image.tile[0]
    assert isinstance(tile.args, tuple)
    largest, n_samples = int(tile.args[1]), 3 * image.width * image.height
    file.seek(tile.offset)
    if tile.codec_name == "ppm_plain":
        words = re.sub(rb"#[^\r\n]*", b" ", file.read()).split()[:n_samples]
        samples = np.array(words, np.int64)
    else:
        data = file.read(2 * n_samples)
        samples = np.frombuffer(data[: len(data) // 2 * 2], ">u2").astype(np.int64)
    if samples.size < n_samples:
        raise OSError("image file is truncated")
    if samples.min() < 0 or samples.max() > largest:
        raise OSError("samples above the largest value that its header states")
    scaled = (samples * 65535 + largest // 2) // largest
    return scaled.astype(np.uint16).reshape(image.height, image.width, 3)


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
