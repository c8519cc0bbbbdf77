"""Camera raw files: developed to 16-bit sRGB with rawpy (LibRaw), where it is installed."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import warnings
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from effcli.core.errors import InputError
from effcli.data.image_metadata import exif_of_directory, upright_exif
from effcli.data.picture import Metadata

ENDINGS = frozenset(
    {".dng", ".cr2", ".cr3", ".nef", ".nrw", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw", ".3fr", ".iiq"}
)
"""Extensions of raw files of the usual cameras."""

INSTALL = "pip install 'effcli[raw]'"

_SRGB_CURVE = (2.4, 12.92)
"""Power and slope near black, as LibRaw takes them."""


@cache
def can_develop() -> bool:
    """Whether rawpy is installed."""
    return importlib.util.find_spec("rawpy") is not None


def size_of(content: bytes) -> tuple[int, int]:
    """Height and width of what :func:`develop` makes.

    Raises:
        InputError: LibRaw does not know the file, or it is damaged.
    """
    with _opened(content) as raw:
        sides = (raw.sizes.height, raw.sizes.width)
        return sides[::-1] if raw.sizes.flip in (5, 6) else sides


def develop(content: bytes, max_pixels: int | None) -> tuple[NDArray[np.uint16], Metadata, tuple[str, ...]]:
    """Develop a raw file with the camera's white balance, without brightening it.

    Args:
        content: of the file.
        max_pixels: the largest picture; None sets no limit.

    Returns:
        Upright sRGB samples [H, W, 3], the metadata of the file (of kinds built on TIFF), and what is not kept.

    Raises:
        InputError: LibRaw does not know the file, it is damaged, or it is too large.
    """
    height, width = size_of(content)
    if max_pixels is not None and height * width > max_pixels:
        raise InputError(
            f"{width} x {height} pixels are more than the limit of {max_pixels / 1e6:g} megapixels"
        )
    import rawpy

    with _opened(content) as raw:
        samples: NDArray[np.uint16] = raw.postprocess(
            use_camera_wb=True,
            no_auto_bright=True,
            output_bps=16,
            gamma=_SRGB_CURVE,
            output_color=rawpy.ColorSpace.sRGB,
        )
    metadata, notes = _metadata(content, samples.shape[1], samples.shape[0])
    return samples, metadata, ("developed from camera raw with the camera's white balance", *notes)


@contextlib.contextmanager
def _opened(content: bytes) -> Any:
    import rawpy

    try:
        with rawpy.imread(io.BytesIO(content)) as raw:
            yield raw
    except rawpy.LibRawError as error:
        reason = error.args[0].decode() if error.args and isinstance(error.args[0], bytes) else str(error)
        raise InputError(f"is a camera raw file that LibRaw cannot develop ({reason})") from None


def _metadata(content: bytes, width: int, height: int) -> tuple[Metadata, tuple[str, ...]]:
    """EXIF from the first directory of a raw file that is a TIFF inside; of other kinds it is not read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exif = Image.Exif()
            exif.load(content)
            return Metadata(upright_exif(exif_of_directory(exif), width, height)), ()
    except Exception:  # Pillow's EXIF parser raises nearly anything on what is not quite TIFF
        return Metadata(), ("its EXIF block is not read",)
