"""IPTC, comments and the colour chunks of PNG: kept where the format of the output holds them, else said."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from effcli.data.image_codecs import bits_and_colour
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


@pytest.mark.parametrize("format", ["WEBP", "BMP"])
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


def segment(marker: int, data: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", 2 + len(data)) + data


def with_segments(*segments: bytes) -> bytes:
    file = io.BytesIO()
    PIXELS.save(file, "JPEG")
    return file.getvalue()[:2] + b"".join(segments) + file.getvalue()[2:]


def resource(number: int, data: bytes) -> bytes:
    size = struct.pack(">I", len(data))
    return b"8BIM" + struct.pack(">H", number) + b"\0\0" + size + data + b"\0" * (len(data) % 2)


def test_texts_of_a_png_are_kept_in_png_and_said_elsewhere() -> None:
    texts = (
        (b"tEXt", b"Title\0night"),
        (b"iTXt", "Author\0\0\0de\0\0Jörg".encode()),
        (b"zTXt", b"parameters\0\0" + zlib.compress(b"steps: 20")),
    )
    picture = read_picture(png((b"tEXt", b"Comment\0hello"), *texts))
    data, notes = encode(picture, "PNG", 95, "x")
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        found = {name: str(value) for name, value in image.text.items()}  # type: ignore[attr-defined]
    assert found == {"Title": "night", "Author": "Jörg", "parameters": "steps: 20", "Comment": "hello"}
    assert notes == ()
    _, notes = encode(picture, "JPEG", 95, "x")
    assert notes == ("JPEG holds no texts of PNG (Title, Author, parameters): not kept",)


def test_image_resources_of_several_segments_are_kept_without_previews() -> None:
    prefix = b"Photoshop 3.0\0"
    resources = resource(1028, IPTC) + resource(1036, bytes(901)) + resource(9000, bytes(range(256)) * 400)
    parts = [resources[at : at + 60000] for at in range(0, len(resources), 60000)]
    picture = read_picture(with_segments(*(segment(0xED, prefix + part) for part in parts)))
    kept = resource(1028, IPTC) + resource(9000, bytes(range(256)) * 400)
    assert picture.metadata.iptc == kept
    for format in ("JPEG", "TIFF"):
        data, notes = encode(picture, format, 95, "x")
        assert (read_picture(data).metadata.iptc, notes) == (kept, ()), format


def test_segments_of_a_jpeg_that_are_not_kept_are_said() -> None:
    data = with_segments(segment(0xEB, b"JP\0\1\0c2pa"), segment(0xFE, b"one"), segment(0xFE, b"two"))
    picture = read_picture(data)
    assert picture.notes == ("its JPEG segments APP11 (JP) are not kept",)
    assert picture.metadata.comment == b"one\ntwo"


def test_an_extended_xmp_packet_that_is_not_written_is_not_claimed() -> None:
    packet = b'<x xmlns:xmpNote="http://ns.adobe.com/xmp/note/" xmpNote:HasExtendedXMP="0123"/>'
    picture = read_picture(with_segments(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + packet)))
    assert picture.notes == ("its extended XMP packet is not kept",)
    assert b"HasExtendedXMP" not in (picture.metadata.xmp or b"HasExtendedXMP")


def as_avif(primaries: int, transfer: int, bits: int = 8) -> bytes:
    """An AVIF whose boxes say another encoding than the one that it was saved with."""
    file = io.BytesIO()
    PIXELS.resize((32, 32)).save(file, "AVIF")
    data = bytearray(file.getvalue())
    at = data.index(b"colrnclx") + 8
    data[at : at + 4] = struct.pack(">HH", primaries, transfer)
    at = data.index(b"pixi") + 9
    data[at : at + 3] = bytes([bits] * 3)
    return bytes(data)


def test_avif_says_how_it_encodes_colour() -> None:
    picture = read_picture(as_avif(12, 13))  # Display P3
    assert picture.metadata.png_colour == ((b"cICP", bytes([12, 13, 0, 1])),)
    assert picture.notes == ()
    assert read_picture(as_avif(1, 13)).metadata.png_colour == ()
    assert bits_and_colour(io.BytesIO(as_avif(9, 16, bits=10))) == (10, (9, 16))
