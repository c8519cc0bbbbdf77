"""A picture in memory: its pixels and all that belongs to them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.uint8] | NDArray[np.uint16]
Chunks = tuple[tuple[bytes, bytes], ...]
"""Chunks of a PNG, each (name, data)."""


@dataclass(frozen=True)
class Metadata:
    """Metadata of a picture in upright orientation; ``None`` for what the file did not have.

    Attributes:
        exif: EXIF block starting with ``Exif\\0\\0``; orientation 1, no thumbnail.
        icc: ICC profile.
        xmp: XMP packet (XML).
        dpi: dots per inch, horizontal and vertical.
        iptc: image resources of Photoshop, each from ``8BIM`` on, IPTC among them; without previews.
        comment: of a JPEG, PNG or GIF.
        png_colour: chunks of a PNG that say how its samples encode colour, each (name, data).
        png_text: chunks of a PNG that hold texts other than comment, XMP and EXIF, each (name, data).
    """

    exif: bytes | None = None
    icc: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    iptc: bytes | None = None
    comment: bytes | None = None
    png_colour: Chunks = ()
    png_text: Chunks = ()


@dataclass(frozen=True, eq=False)
class Picture:
    """A still picture, upright.

    Attributes:
        pixels: float32 [H, W, 3] (RGB) or [H, W, 1] (grey) in 0..1, in the file's own colour encoding.
        alpha: uint8 or uint16 [H, W] exactly as in the file, or None.
        bit_depth: 8 or 16.
        format: "PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "HEIF", "PPM" or "DNG" (any camera raw).
        metadata: EXIF, ICC profile, XMP and resolution.
        lossless: whether the file held the samples exactly (decides how WebP is written).
        notes: what of the file could not be kept, one sentence each.
    """

    pixels: NDArray[np.float32]
    alpha: NDArray[np.uint8] | NDArray[np.uint16] | None = None
    bit_depth: int = 8
    format: str = "PNG"
    metadata: Metadata = field(default_factory=Metadata)
    lossless: bool = True
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class PictureInfo:
    """What the header of an image file says: size as stored, channels (alpha included), bits a sample."""

    width: int
    height: int
    n_channels: int
    bit_depth: int
    format: str
