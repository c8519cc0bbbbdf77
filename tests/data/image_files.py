"""Image files made by hand, from the format's specification rather than by the code under test."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image


def random_samples(shape: tuple[int, ...], dtype: type = np.uint8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)


def png_16(
    samples: np.ndarray, extra: tuple[tuple[bytes, bytes], ...] = (), claim: tuple[int, int] | None = None
) -> bytes:
    """A 16-bit PNG of samples [H, W, C], unfiltered, with extra chunks; it may claim another (W, H)."""
    n_channels = samples.shape[2]
    width, height = claim or (samples.shape[1], samples.shape[0])
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[n_channels]
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    chunks = [(b"IHDR", header), *extra, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def tiff(
    samples: np.ndarray,
    *,
    order: str = "<",
    photometric: int | None = None,
    extra_samples: int | None = None,
    planar: int = 1,
    sample_format: int = 1,
) -> bytes:
    """An uncompressed one-strip TIFF of samples [H, W, C] in the given byte order."""
    height, width, n_channels = samples.shape
    data = samples if planar == 1 else samples.transpose(2, 0, 1)
    data_bytes = data.astype(samples.dtype.newbyteorder(order)).tobytes()  # type: ignore[arg-type]
    bits = samples.itemsize * 8
    strips = 1 if planar == 1 else n_channels
    tags: dict[int, tuple[str, list[int]]] = {
        256: ("L", [width]),
        257: ("L", [height]),
        258: ("H", [bits] * n_channels),
        259: ("H", [1]),
        262: ("H", [photometric if photometric is not None else (2 if n_channels > 2 else 1)]),
        273: ("L", [0] * strips),
        277: ("H", [n_channels]),
        278: ("L", [height]),
        279: ("L", [len(data_bytes) // strips] * strips),
        284: ("H", [planar]),
        339: ("H", [sample_format] * n_channels),
    }
    if extra_samples is not None:
        tags[338] = ("H", [extra_samples])
    length = 8 + 2 + 12 * len(tags) + 4
    sizes = [len(values) * struct.calcsize("<" + kind) for kind, values in tags.values()]
    tail = sum(size for size in sizes if size > 4)
    start = length + tail
    tags[273] = ("L", [start + i * (len(data_bytes) // strips) for i in range(strips)])
    entries, rest = b"", b""
    for tag, (kind, values) in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(values)}{kind}", *values)
        if len(packed) > 4:
            value = struct.pack(order + "L", length + len(rest))
            rest += packed
        else:
            value = packed.ljust(4, b"\0")
        entries += struct.pack(order + "HHL", tag, 3 if kind == "H" else 4, len(values)) + value
    mark = b"II*\0" if order == "<" else b"MM\0*"
    count = struct.pack(order + "H", len(tags))
    return mark + struct.pack(order + "L", 8) + count + entries + bytes(4) + rest + data_bytes


def exif_with_thumbnail(order: str = "<", orientation: int = 6) -> bytes:
    """An EXIF block with make, orientation, maker note, sizes and a thumbnail, its texts in UTF-8."""
    artist = "© Zoë\0".encode()
    maker_note = bytes(range(40))
    thumbnail = b"\xff\xd8" + b"stale thumbnail" + b"\xff\xd9"

    def entry(tag: int, kind: int, count: int, value: int) -> bytes:
        data = struct.pack(order + "H2x", value) if kind == 3 else struct.pack(order + "L", value)
        return struct.pack(order + "HHL", tag, kind, count) + data

    ifd0, sub = 8, 8 + 2 + 3 * 12 + 4
    ifd1 = sub + 2 + 3 * 12 + 4
    texts = ifd1 + 2 + 2 * 12 + 4
    notes = texts + len(artist)
    picture = notes + len(maker_note)
    body = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "L", ifd0)
    body += struct.pack(order + "H", 3) + entry(0x0112, 3, 1, orientation)
    body += entry(0x013B, 2, len(artist), texts) + entry(0x8769, 4, 1, sub) + struct.pack(order + "L", ifd1)
    body += struct.pack(order + "H", 3) + entry(0x927C, 7, len(maker_note), notes)
    body += entry(0xA002, 4, 1, 4000) + entry(0xA003, 4, 1, 3000) + bytes(4)
    body += struct.pack(order + "H", 2) + entry(0x0201, 4, 1, picture)
    body += entry(0x0202, 4, 1, len(thumbnail)) + bytes(4)
    return b"Exif\0\0" + body + artist + maker_note + thumbnail


def icc(space: bytes = b"RGB ") -> bytes:
    """The start of an ICC profile; enough for a reader that only carries it along."""
    return struct.pack(">L", 200).ljust(16, b"\0") + space + bytes(16) + b"acsp" + bytes(160)


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()
