"""IPTC, comments and the colour chunks of PNG: kept where the format of the output holds them, else said."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from effcli.data.images import read_picture
from effcli.enhance.files.image_encoding import encode

IPTC = b"\x1c\x02\x19\x00\x05night"
APP13 = b"Photoshop 3.0\x008BIM\x04\x04\x00\x00" + struct.pack(">I", len(IPTC)) + IPTC
PIXELS = Image.fromarray(np.full((8, 12, 3), 90, np.uint8))


def jpeg() -> bytes:
    file = io.BytesIO()
    segment = b"\xff\xed" + struct.pack(">H", 2 + len(APP13)) + APP13
    PIXELS.save(file, "JPEG", extra=segment, comment=b"caf\xc3\xa9")
    return file.getvalue()


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    file = io.BytesIO()
    PIXELS.save(file, "PNG")
    data = file.getvalue()
    more = b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )
    return data[:33] + more + data[33:]  # behind the header


def test_a_jpeg_keeps_iptc_and_comment() -> None:
    data, notes = encode(read_picture(jpeg()), "JPEG", 95, "x")
    with Image.open(io.BytesIO(data)) as image:
        assert image.info["photoshop"][0x0404] == IPTC
        assert image.info["comment"] == b"caf\xc3\xa9"
    assert notes == ()


@pytest.mark.parametrize("depth", [8, 16])
def test_a_png_keeps_how_its_samples_encode_colour(depth: int) -> None:
    chunks = (
        (b"cICP", bytes([9, 16, 0, 1])),
        (b"gAMA", struct.pack(">I", 100000)),
        (b"cHRM", struct.pack(">8I", *range(1, 9))),
    )
    picture = read_picture(png(*chunks))
    assert picture.metadata.png_colour == chunks
    if depth == 16:
        from dataclasses import replace

        picture = replace(picture, bit_depth=16)
    data, notes = encode(picture, "PNG", 95, "x")
    assert read_picture(data).metadata.png_colour == chunks
    assert notes == ()


def test_a_comment_travels_between_jpeg_and_png() -> None:
    data, _ = encode(read_picture(jpeg()), "PNG", 95, "x")
    assert read_picture(data).metadata.comment == "café".encode()


@pytest.mark.parametrize("format", ["WEBP", "TIFF", "BMP"])
def test_what_a_format_does_not_hold_is_said(format: str) -> None:
    _, notes = encode(read_picture(jpeg()), format, 95, "x")
    assert f"{format} holds no IPTC: not kept" in notes
    assert f"{format} holds no comment: not kept" in notes
    _, notes = encode(read_picture(png((b"gAMA", struct.pack(">I", 45455)))), format, 95, "x")
    assert f"{format} holds no chunks on colour (gAMA): not kept" in notes


def test_a_gain_map_that_is_not_written_is_not_claimed() -> None:
    file = io.BytesIO()
    xmp = b'<x xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:Version="1.0"/>'
    PIXELS.save(file, "JPEG", xmp=xmp)
    picture = read_picture(file.getvalue())
    assert picture.notes == ("its gain map is not kept",)
    data, _ = encode(picture, "JPEG", 95, "x")
    assert b"hdrgm:Version" not in data


def test_a_damaged_chunk_is_survived() -> None:
    whole = png((b"gAMA", struct.pack(">I", 45455)))
    for cut in (36, 40):
        broken = bytearray(whole)
        broken[cut] ^= 0xFF
        try:
            read_picture(bytes(broken))
        except Exception as error:
            assert type(error).__name__ == "InputError"
