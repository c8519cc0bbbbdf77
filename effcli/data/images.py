"""Reading pictures: PNG, JPEG, WebP, TIFF, BMP, GIF, AVIF, PPM, with pillow-heif HEIC, with rawpy camera raw.

:func:`read_picture` keeps what people expect back: bit depth, grey, alpha, EXIF, ICC profile, XMP, resolution.
:func:`read_rgb` gives 8-bit RGB for networks. Both turn pictures upright, scale 16-bit samples, never clip them, and
refuse what is damaged, truncated, too large, or has samples whose range is unknown.
"""

from __future__ import annotations

import contextlib
import io
import logging
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageFile

from effcli.core.errors import InputError
from effcli.core.text import counted
from effcli.data.camera_raw import can_develop, develop, size_of
from effcli.data.image_codecs import bits_and_colour, is_16bit, is_grey_16, is_grey_alpha_16, read_samples_16
from effcli.data.image_metadata import orientation, read_metadata
from effcli.data.image_opening import (
    RawFileError,
    Source,
    content_of,
    format_name,
    frames_left_out,
    named,
    opened,
    place_of,
)
from effcli.data.picture import Metadata, Picture, PictureInfo, Samples
from effcli.data.picture_folders import say_once

__all__ = [
    "MAX_PIXELS",
    "Metadata",
    "Picture",
    "PictureInfo",
    "check_picture",
    "identify",
    "read_grey_samples",
    "read_image",
    "read_picture",
    "read_rgb",
    "read_sizes",
]

log = logging.getLogger(__name__)

MAX_PIXELS = 400_000_000
_ENDS = {"PNG": b"IEND", "JPEG": b"\xff\xd9", "MPO": b"\xff\xd9"}
_END_BYTES = 16
_MOST_SAID = 3
_SAMPLES_PER_PIXEL, _LAYERS = 277, 37724  # TIFF tags
_said: set[str] = set()


def identify(source: Source, *, max_pixels: int = MAX_PIXELS) -> PictureInfo:
    """Read an image file's header only.

    Raises:
        InputError: as :func:`read_picture`, for what the header shows.
    """
    with opened(source, place_of(source), max_pixels) as (image, _):
        _check_still(image)
        depth = 16 if is_16bit(image) else 8
        if is_grey_alpha_16(image):
            n_channels = 2
        else:
            n_colours = 1 if image.mode in ("1", "L", "LA") or is_grey_16(image) else 3
            n_channels = n_colours + image.has_transparency_data
        return PictureInfo(*image.size, n_channels, depth, format_name(image))


def read_picture(source: Source, *, max_pixels: int = MAX_PIXELS) -> Picture:
    """Read a still picture.

    Args:
        source: a file, or the content of one.
        max_pixels: the largest picture to decode, checked in the header.

    Returns:
        The upright picture: EXIF orientation is applied to the pixels. Palette and CMYK pictures become RGB,
        1-bit ones grey.

    Raises:
        InputError: missing, unreadable, empty, not an image, damaged, truncated, animated, too large, or of a
            kind that is not supported (32-bit samples, Lab; camera raw without rawpy).
    """
    try:
        return _read_still(source, max_pixels)
    except RawFileError:
        if not can_develop():
            raise
    deep, metadata, notes = _developed(source, place_of(source), max_pixels)
    pixels = np.divide(deep, np.float32(65535), dtype=np.float32)
    return Picture(pixels, bit_depth=16, format="DNG", metadata=metadata, notes=notes)


def _read_still(source: Source, max_pixels: int) -> Picture:
    """What Pillow can read."""
    with opened(source, place_of(source), max_pixels) as (image, file):
        _check_still(image)
        lossless = _is_lossless(image, file)
        bit_depth = 16 if is_16bit(image) else 8
        notes = _notes_on_frames(image) + _notes_on_samples(image, file)
        samples: Samples
        if bit_depth == 16:
            samples = _key_to_alpha(read_samples_16(image, file), image)
        else:
            samples, more_notes = _read_samples_8(image)
            notes += more_notes
        samples = _upright(samples, orientation(image))
        height, width, n_channels = samples.shape
        n_colours = n_channels - 1 if n_channels in (2, 4) else n_channels
        metadata, more_notes = read_metadata(image, file, width, height)
        largest = np.float32(np.iinfo(samples.dtype).max)
        return Picture(
            pixels=np.divide(samples[..., :n_colours], largest, dtype=np.float32, order="C"),
            alpha=samples[..., -1].copy() if n_channels > n_colours else None,
            bit_depth=bit_depth,
            format=format_name(image),
            metadata=metadata,
            lossless=lossless,
            notes=notes + more_notes,
        )


def read_rgb(source: Source, *, on_white: bool = False, place: str | None = None) -> NDArray[np.uint8]:
    """Read a picture as 8-bit RGB, turned upright by its orientation tag.

    Of 16-bit samples the high byte is kept, 0..65535 becoming 0..255. Of an animation or a file of several pages the
    first is read, which the log says.

    Args:
        source: a file, one inside a tar, or the content of one.
        on_white: blend what is transparent over white; otherwise alpha is dropped.
        place: how messages name it; by default as it names itself.

    Returns:
        uint8 ``[H, W, 3]``.

    Raises:
        InputError: missing, unreadable, empty, not an image, damaged, truncated, too large to be safe, or of a kind
            that is not supported (32-bit samples, Lab; camera raw without rawpy).
    """
    place = place or place_of(source)
    try:
        return _read_still_rgb(source, on_white, place)
    except RawFileError:
        if not can_develop():
            raise
    return (_developed(source, place, MAX_PIXELS)[0] >> 8).astype(np.uint8)


def _read_still_rgb(source: Source, on_white: bool, place: str) -> NDArray[np.uint8]:
    with opened(source, place, None) as (image, file):
        _say_first_frame(image, place)
        rgb = _over_white(_as_8_bits(image, file)) if on_white else _as_8_bits(image, file).convert("RGB")
        return np.array(_upright(np.asarray(rgb), orientation(image)), np.uint8, order="C")


def read_image(source: Source, *, place: str | None = None) -> torch.Tensor:
    """As :func:`read_rgb`, as a tensor, uint8 ``[3, H, W]``; alpha is dropped."""
    return torch.from_numpy(read_rgb(source, place=place)).permute(2, 0, 1).contiguous()


def check_picture(source: Source) -> tuple[int, int]:
    """Make sure that a picture can be read, by its header and its end; it is decoded only where these do not tell.

    Returns:
        Height and width, before any orientation tag is applied.

    Raises:
        InputError: as :func:`read_rgb`; damage in the middle of a file may go unseen.
    """
    try:
        return _check_still_picture(source)
    except RawFileError:
        if not can_develop():
            raise
    with named(place_of(source)):
        return size_of(content_of(source))


def read_sizes(source: Source) -> tuple[tuple[int, int], tuple[int, int]]:
    """Height and width of a picture as its file stores it, and upright, as :func:`read_rgb` gives it.

    Raises:
        InputError: as :func:`read_rgb`, for what the header shows.
    """
    try:
        with opened(source, place_of(source), None) as (image, _):
            stored, turn = (image.height, image.width), orientation(image)
    except RawFileError:
        if not can_develop():
            raise
        _, height, width = read_image(source).shape
        return (height, width), (height, width)
    return stored, (stored if turn < 5 else (stored[1], stored[0]))


def _check_still_picture(source: Source) -> tuple[int, int]:
    with opened(source, place_of(source), None) as (image, file):
        sides = image.height, image.width
        end, at = _ENDS.get(str(image.format)), file.tell()
        file.seek(max(0, file.seek(0, io.SEEK_END) - _END_BYTES))
        is_whole = end is not None and end in file.read()
        file.seek(at)
        if not is_whole:
            image.load()
        return sides


def read_grey_samples(source: Source) -> Samples:
    """The samples of a grey file as they are stored, for measurements that come as pictures, such as depth.

    Returns:
        uint8 or uint16 ``[H, W]``; no orientation tag is applied.

    Raises:
        InputError: as :func:`read_rgb`; or the file is not grey.
    """
    with opened(source, place_of(source), None) as (image, file):
        if is_grey_16(image):
            return read_samples_16(image, file)[..., 0]
        if image.mode != "L":
            raise InputError(f"is not a grey picture (its mode is {image.mode})")
        return np.asarray(image)


def _developed(
    source: Source, place: str, max_pixels: int
) -> tuple[NDArray[np.uint16], Metadata, tuple[str, ...]]:
    with named(place):
        return develop(content_of(source), max_pixels)


def _check_still(image: ImageFile.ImageFile) -> None:
    if several := frames_left_out(image):
        raise InputError(f"{several}: only still pictures are supported", hint="extract one of them first")


def _say_first_frame(image: ImageFile.ImageFile, place: str) -> None:
    """Say of a few files, each once, that only their first frame or page is used."""
    if (several := frames_left_out(image)) and place not in _said and len(_said) <= _MOST_SAID:
        _said.add(place)
        if len(_said) <= _MOST_SAID:
            log.warning("%s: %s: only the first picture is used", place, several)
        else:
            log.warning(
                "of further animations and files of several pages, too, only the first picture is used"
            )


def _notes_on_frames(image: ImageFile.ImageFile) -> tuple[str, ...]:
    if not getattr(image, "is_animated", False):
        return ()
    if image.format == "TIFF":
        return ("only the main picture is kept, not its thumbnails",)
    return ("only the first of the pictures in the file (no depth or gain map) is kept",)


def _notes_on_samples(image: ImageFile.ImageFile, file: BinaryIO) -> tuple[str, ...]:
    """What of the samples is not read: bits of AVIF and HEIC, channels of TIFF beside colours and alpha, layers."""
    if image.format in ("AVIF", "HEIF"):
        bits, _ = bits_and_colour(file)
        return (f"its {bits}-bit samples were rounded to 8 bits",) if bits > 8 else ()
    tags = getattr(image, "tag_v2", {})
    is_grey = image.mode in ("1", "L", "LA") or is_grey_16(image) or is_grey_alpha_16(image)
    n_read = 1 if is_grey or image.mode == "P" else 4 if image.mode == "CMYK" else 3
    n_more = int(tags.get(_SAMPLES_PER_PIXEL, 0)) - n_read - image.has_transparency_data
    n_more = 0 if is_grey_alpha_16(image) else n_more
    channels = f"{counted(n_more, 'further channel')} of its pixels {'is' if n_more == 1 else 'are'} not kept"
    return ((channels,) if n_more > 0 else ()) + (
        ("its layers are not kept, only what they look like together",) if _LAYERS in tags else ()
    )


def _as_8_bits(image: ImageFile.ImageFile, file: BinaryIO) -> Image.Image:
    """The loaded picture in any 8-bit mode of Pillow's."""
    if is_16bit(image):
        deep = read_samples_16(image, file)
        if 255 < deep.max() < 4096:
            say_once(
                "16-bit pictures whose samples are all below 4096 are read as they are, which is dark;"
                " if they hold 12 bits, multiply them by 16 first"
            )
        samples = (_key_to_alpha(deep, image) >> 8).astype(np.uint8)
        return Image.fromarray(samples[..., 0] if samples.shape[-1] == 1 else samples)
    image.load()
    return image.convert("LA") if image.mode == "La" else image


def _over_white(image: Image.Image) -> Image.Image:
    """RGB, what is transparent blended over white."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image.convert("RGBA"))
    return white.convert("RGB")


def _is_lossless(image: ImageFile.ImageFile, file: BinaryIO) -> bool:
    """Whether the file holds its samples exactly; WebP says so by its VP8L chunk."""
    if image.format != "WEBP":
        return format_name(image) not in ("JPEG", "AVIF", "HEIF")
    file.seek(12)
    while len(header := file.read(8)) == 8:
        if header[:4] in (b"VP8 ", b"VP8L"):
            return header[:4] == b"VP8L"
        size = int.from_bytes(header[4:], "little")
        file.seek(size + size % 2, io.SEEK_CUR)
    return False


def _read_samples_8(image: ImageFile.ImageFile) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Samples [H, W, C] of any 8-bit picture as grey, grey + alpha, RGB or RGBA, and what was lost."""
    notes: tuple[str, ...] = ()
    image.load()
    converted: Image.Image = image
    if image.mode == "CMYK":
        converted = _cmyk_to_rgb(image)
        notes = ("CMYK colours were converted to 8-bit RGB",)
    elif image.mode not in ("L", "LA", "RGB", "RGBA") or image.has_transparency_data:
        grey = image.mode in ("1", "L", "LA", "La")
        converted = image.convert(("L" if grey else "RGB") + ("A" if image.has_transparency_data else ""))
    samples = np.asarray(converted)
    return samples[..., None] if samples.ndim == 2 else samples, notes


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
