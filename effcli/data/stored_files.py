"""Encoded files: on the disk, or members of uncompressed tars, which are read in place and never extracted."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, TypeAlias

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from effcli.core.errors import InputError

Split: TypeAlias = Literal["train", "eval"]

SPLITS: tuple[Split, Split] = ("train", "eval")

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm"})


@dataclass(frozen=True)
class StoredFile:
    """One encoded image: a file, or a member of an uncompressed tar given by its place in it."""

    path: Path
    member: str | None = None
    offset_bytes: int = 0
    size_bytes: int = 0

    @property
    def place(self) -> str:
        """The file, and the member inside it, as named in messages."""
        return str(self.path) if self.member is None else f"{self.path}:{self.member}"

    def read(self) -> bytes:
        """Its bytes.

        Raises:
            InputError: it is not there, or cannot be read.
        """
        try:
            with self.path.open("rb") as stream:
                stream.seek(self.offset_bytes)
                return stream.read(-1 if self.member is None else self.size_bytes)
        except OSError as error:
            raise InputError(f"cannot be read: {error.strerror or error}", place=self.place) from None


def is_image_name(name: str) -> bool:
    """Whether a file of this name is taken for an image."""
    return not name.startswith(".") and PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


def index_tar(source: Path) -> list[StoredFile]:
    """The regular files of an uncompressed tar, in its order.

    Raises:
        InputError: it is missing, may not be read, or is no uncompressed tar.
    """
    try:
        with tarfile.open(source, "r:") as archive:
            return [
                StoredFile(source, member.name, member.offset_data, member.size)
                for member in archive.getmembers()
                if member.isreg() and not member.issparse()
            ]
    except (tarfile.TarError, OSError) as error:
        hint = "uncompress a compressed tar first; a single image is no set of pairs"
        raise InputError(f"cannot be read as a tar: {error}", place=str(source), hint=hint) from error


def read_image(file: StoredFile) -> torch.Tensor:
    """Decode an image to uint8 RGB ``[3, H, W]``, turned upright by its orientation tag; alpha is dropped.

    Raises:
        InputError: the file is missing, truncated, no image, too large to be safe, or not of 8 bits a
            channel.
    """
    with _opened(file) as opened:
        if opened.mode == "F" or opened.mode.startswith("I"):
            raise InputError(f"has pixels of type {opened.mode}, not of 8 bits", place=file.place)
        pixels = np.array(ImageOps.exif_transpose(opened).convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def reason_of(error: Exception) -> str:
    """Why an image cannot be decoded, for people."""
    return "it is of no known format" if isinstance(error, UnidentifiedImageError) else str(error)


def decode_rgb(data: bytes, place: str) -> Image.Image:
    """An image from its bytes in RGB, turned upright by its orientation tag, what is transparent on white.

    Raises:
        InputError: it is truncated, no image, or too large to be safe.
    """
    try:
        with Image.open(io.BytesIO(data)) as opened:
            upright = ImageOps.exif_transpose(opened)
            if upright.has_transparency_data:
                layer = upright.convert("RGBA")
                upright = Image.new("RGBA", layer.size, "white")
                upright.alpha_composite(layer)
            return upright.convert("RGB")
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise InputError(f"cannot be read as an image: {reason_of(error)}", place=place) from error


def read_sides(file: StoredFile) -> tuple[int, int]:
    """Height and width from the header alone, before any orientation tag is applied.

    Raises:
        InputError: as :func:`read_image`, as far as the header shows it.
    """
    with _opened(file) as opened:
        return opened.height, opened.width


@contextmanager
def _opened(file: StoredFile) -> Iterator[Image.Image]:
    """The image as Pillow opens it; failures inside the block become an InputError that names the file."""
    try:
        with file.path.open("rb") as stream:
            if file.member is None:
                with Image.open(stream) as image:
                    yield image
            else:
                stream.seek(file.offset_bytes)
                with Image.open(io.BytesIO(stream.read(file.size_bytes))) as image:
                    yield image
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise InputError(f"cannot be read as an image: {reason_of(error)}", place=file.place) from error
