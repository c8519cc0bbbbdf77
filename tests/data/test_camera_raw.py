"""Camera raw files: a small DNG of a grey ramp, developed; what LibRaw does not know is refused by name."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effcli.core.errors import InputError
from effcli.data.images import check_picture, read_picture, read_rgb
from effcli.data.picture_folders import left_out_text
from effcli.enhance.files.picture_files import write_picture

WIDTH, HEIGHT = 96, 64


def dng(levels: np.ndarray) -> bytes:
    """A DNG [HEIGHT, WIDTH] of uint16 mosaic samples, RGGB, white at 4095, with a camera that sees sRGB's primaries."""
    xyz_to_srgb = [32406, -15372, -4986, -9689, 18758, 415, 557, -2040, 10570]
    rationals = b"".join(struct.pack("<ii", value, 10000) for value in xyz_to_srgb)
    neutral = struct.pack("<6I", 1, 1, 1, 1, 1, 1)
    entries: list[tuple[int, int, int, bytes]] = [  # tag, type, count, value
        (254, 4, 1, struct.pack("<I", 0)),
        (256, 4, 1, struct.pack("<I", WIDTH)),
        (257, 4, 1, struct.pack("<I", HEIGHT)),
        (258, 3, 1, struct.pack("<HH", 16, 0)),
        (259, 3, 1, struct.pack("<HH", 1, 0)),
        (262, 3, 1, struct.pack("<HH", 32803, 0)),
        (271, 2, 5, b"ACME\0"),
        (272, 2, 4, b"One\0"),
        (273, 4, 1, b""),  # the offset of the samples
        (274, 3, 1, struct.pack("<HH", 6, 0)),
        (277, 3, 1, struct.pack("<HH", 1, 0)),
        (278, 4, 1, struct.pack("<I", HEIGHT)),
        (279, 4, 1, struct.pack("<I", 2 * WIDTH * HEIGHT)),
        (33421, 3, 2, struct.pack("<HH", 2, 2)),
        (33422, 1, 4, bytes([0, 1, 1, 2])),
        (50706, 1, 4, bytes([1, 4, 0, 0])),
        (50708, 2, 9, b"ACME One\0"),
        (50717, 4, 1, struct.pack("<I", 4095)),
        (50721, 10, 9, rationals),
        (50728, 5, 3, neutral),
    ]
    values_at = 8 + 2 + 12 * len(entries) + 4
    long_values = b"".join(value for *_, value in entries if len(value) > 4)
    directory = struct.pack("<H", len(entries))
    for tag, kind, count, value in entries:
        if tag == 273:
            value = struct.pack("<I", values_at + len(long_values))
        if len(value) > 4:
            at = values_at + sum(len(one) for other, *_, one in entries if len(one) > 4 and other < tag)
            value = struct.pack("<I", at)
        directory += struct.pack("<HHI", tag, kind, count) + value.ljust(4, b"\0")
    samples = levels.astype("<u2").tobytes()
    return b"II*\0" + struct.pack("<I", 8) + directory + bytes(4) + long_values + samples


@pytest.fixture
def ramp() -> bytes:
    pytest.importorskip("rawpy", reason="camera raw files are in the extra `raw`")
    return dng(np.tile(np.linspace(0, 4095, WIDTH).round(), (HEIGHT, 1)))


def test_it_is_developed_upright_in_16_bits_with_srgb_s_curve(ramp: bytes) -> None:
    picture = read_picture(ramp)
    assert (picture.bit_depth, picture.format, picture.pixels.shape) == (16, "DNG", (WIDTH, HEIGHT, 3))
    assert picture.notes[0] == "developed from camera raw with the camera's white balance"
    linear = np.linspace(0, 1, WIDTH)
    srgb = np.where(linear < 0.0031, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    inner = slice(4, -4)
    np.testing.assert_allclose(picture.pixels[inner, HEIGHT // 2, 1], srgb[inner], atol=0.02)
    assert np.abs(np.ptp(picture.pixels[inner, 4:-4], axis=2)).max() < 0.02  # grey


def test_every_reader_takes_it(ramp: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(ramp)
    assert check_picture(tmp_path / "a.tif") == (WIDTH, HEIGHT)
    rgb = read_rgb(tmp_path / "a.tif")
    assert rgb.shape == (WIDTH, HEIGHT, 3)
    assert rgb[-8, 10, 1] > rgb[8, 10, 1]


def test_what_is_written_is_no_raw_file_any_more(ramp: bytes, tmp_path: Path) -> None:
    write_picture(read_picture(ramp), tmp_path / "out.tif")
    again = read_picture(tmp_path / "out.tif")
    assert (again.format, again.bit_depth) == ("TIFF", 16)
    with Image.open(tmp_path / "out.tif") as image:
        assert image.getexif()[271] == "ACME"


def test_a_damaged_one_is_refused_by_name(ramp: bytes, tmp_path: Path) -> None:
    (tmp_path / "cut.dng").write_bytes(ramp[:600])
    for read in (read_picture, read_rgb):
        with pytest.raises(InputError) as caught:
            read(tmp_path / "cut.dng")
        assert caught.value.place == str(tmp_path / "cut.dng")


def test_one_that_is_too_large_is_refused(ramp: bytes) -> None:
    with pytest.raises(InputError, match="more than the limit"):
        read_picture(ramp, max_pixels=1000)


def test_other_kinds_of_raw_file_are_named_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("effcli.data.images.can_develop", lambda: False)
    for head in (
        b"FUJIFILMCCD-RAW 0201",
        b"\0\0\0\x18ftypcrx \0\0\0\1crx isom",
        b"IIU\0\x18\0\0\0" + bytes(24),
    ):
        with pytest.raises(InputError, match="camera raw file") as caught:
            read_picture(head)
        assert "pip install 'effcli[raw]'" in str(caught.value.hint)
    assert left_out_text({".cr3": 2, ".txt": 1}) == "2 .cr3 (pip install 'effcli[raw]'), 1 .txt"
