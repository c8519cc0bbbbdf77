"""Pictures as RGB for networks: every mode and depth, what is beside the first frame, and what is refused."""

import importlib.util
import io
import logging
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from effcli.core.errors import InputError
from effcli.data import images as readers
from effcli.data.images import check_picture, identify, read_grey_samples, read_image, read_picture, read_rgb
from effcli.data.picture_folders import say_once
from effcli.data.stored_files import index_tar

_HELPERS = Path(__file__).with_name("image_files.py")
_SPEC = importlib.util.spec_from_file_location("image_files", _HELPERS)
assert _SPEC and _SPEC.loader
made = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(made)

RED = (200, 30, 40)
RAMP_16 = np.array([[[0], [255], [256], [4095], [0x80FF], [65535]]], np.uint16)


def encoded(image, format, **options):
    return made.encoded(image, format, **options)


def first_pixel(data, **options):
    return read_rgb(data, **options)[0, 0].tolist()


# Modes


@pytest.mark.parametrize(
    ("mode", "format", "dropped", "on_white"),
    [
        ("1", "PNG", [255] * 3, [255] * 3),
        ("L", "PNG", [77] * 3, [77] * 3),
        ("LA", "PNG", [77] * 3, [166] * 3),
        ("P", "PNG", [200, 30, 40], [200, 30, 40]),
        ("P", "GIF", [200, 30, 40], [200, 30, 40]),
        ("RGB", "BMP", [200, 30, 40], [200, 30, 40]),
        ("RGB", "PPM", [200, 30, 40], [200, 30, 40]),
        ("RGBA", "PNG", [200, 30, 40], [227, 142, 147]),
        ("RGBA", "TIFF", [200, 30, 40], [227, 142, 147]),
        ("CMYK", "TIFF", [200, 30, 40], [200, 30, 40]),
    ],
)
def test_every_8_bit_mode(mode, format, dropped, on_white):
    fill = {"1": 1, "L": 77, "LA": (77, 128), "RGBA": (*RED, 128), "CMYK": (55, 225, 215, 0)}.get(mode, RED)
    image = Image.new("RGB", (4, 3), RED).quantize(2) if mode == "P" else Image.new(mode, (4, 3), fill)  # type: ignore[arg-type]
    data = encoded(image, format)
    found = read_rgb(data)
    assert (found.shape, found.dtype, found.flags.c_contiguous) == ((3, 4, 3), np.uint8, True)
    assert first_pixel(data) == dropped
    assert first_pixel(data, on_white=True) == on_white
    assert torch.equal(read_image(data), torch.from_numpy(found).permute(2, 0, 1))


def test_ycbcr_jpeg_webp_and_avif_are_read_close_to_their_colours():
    flat = Image.new("RGB", (16, 16), RED)
    for format in ("JPEG", "WEBP", "AVIF"):
        assert np.abs(read_rgb(encoded(flat, format)).astype(int) - RED).max() <= 6, format
    ycbcr = encoded(flat.convert("YCbCr"), "TIFF")
    assert np.abs(read_rgb(ycbcr).astype(int) - RED).max() <= 2


def test_a_transparent_palette_entry_is_dropped_or_white():
    indexed = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    indexed.putpalette(bytes([200, 30, 40, 1, 2, 3]))
    data = encoded(indexed, "PNG", transparency=0)
    assert read_rgb(data)[0].tolist() == [[200, 30, 40], [1, 2, 3]]
    assert read_rgb(data, on_white=True)[0].tolist() == [[255, 255, 255], [1, 2, 3]]


# 16 bits


def pgm_16(samples):
    height, width = samples.shape[:2]
    return b"P5 %d %d 65535\n" % (width, height) + samples.astype(">u2").tobytes()


@pytest.mark.parametrize(
    "data",
    [
        made.png_16(RAMP_16),
        made.tiff(RAMP_16),
        made.tiff(RAMP_16, order=">"),
        pgm_16(RAMP_16),
        made.png_16(np.repeat(RAMP_16, 3, 2)),
        made.tiff(np.repeat(RAMP_16, 3, 2)),
        made.png_16(np.concatenate([RAMP_16, np.full_like(RAMP_16, 65535)], 2)),
    ],
    ids=["png", "tiff little", "tiff big", "pgm", "rgb png", "rgb tiff", "grey and alpha png"],
)
def test_16_bit_samples_are_scaled_and_neither_clipped_nor_wrapped(data):
    found = read_rgb(data)
    assert found[0].tolist() == [[value] * 3 for value in (0, 0, 1, 15, 128, 255)]
    picture = read_picture(data)
    assert picture.bit_depth == identify(data).bit_depth == 16
    assert np.array_equal(np.rint(picture.pixels[0, :, 0] * 65535), RAMP_16[0, :, 0])


def test_pgm_with_a_smaller_maximum_is_scaled_by_it():
    data = b"P5 3 1 4095\n" + np.array([0, 2048, 4095], ">u2").tobytes()
    assert read_rgb(data)[0, :, 0].tolist() == [0, 128, 255]


def test_a_16_bit_ramp_stays_monotonic():
    ramp = np.arange(0, 65536, 16, dtype=np.uint16).reshape(1, -1, 1)
    found = read_rgb(made.png_16(ramp))[0, :, 0].astype(int)
    assert np.diff(found).min() >= 0 and (found[0], found[-1]) == (0, 255)


def test_samples_that_may_be_of_12_bits_are_said(caplog):
    say_once.cache_clear()
    twelve = made.png_16(np.array([[[0], [4095]]], np.uint16))
    for _ in range(2):
        assert read_rgb(twelve)[0, :, 0].tolist() == [0, 15]
    assert len(caplog.messages) == 1 and "12 bits" in caplog.messages[0]


def test_16_bit_alpha_on_white():
    samples = np.array([[[10000, 20000, 30000, 0], [10000, 20000, 30000, 65535]]], np.uint16)
    assert read_rgb(made.png_16(samples), on_white=True)[0].tolist() == [[255] * 3, [39, 78, 117]]
    keyed = made.png_16(RAMP_16, ((b"tRNS", struct.pack(">H", 4095)),))
    assert read_rgb(keyed, on_white=True)[0, :, 0].tolist() == [0, 0, 1, 255, 128, 255]


def test_depth_maps_keep_their_samples():
    assert np.array_equal(read_grey_samples(made.png_16(RAMP_16)), RAMP_16[..., 0])
    grey = np.array([[3, 200]], np.uint8)
    assert np.array_equal(read_grey_samples(encoded(Image.fromarray(grey), "PNG")), grey)
    with pytest.raises(InputError, match="not a grey picture"):
        read_grey_samples(encoded(Image.new("RGB", (2, 2)), "PNG"))


@pytest.mark.parametrize(
    ("image", "word"),
    [
        (Image.fromarray(np.zeros((4, 5), np.float32)), "32-bit"),
        (Image.fromarray(np.zeros((4, 5), np.int32)), "32-bit"),
        (Image.new("LAB", (4, 5)), "Lab"),
    ],
)
def test_samples_of_unknown_range_are_refused(image, word, tmp_path):
    file = tmp_path / "x.tif"
    file.write_bytes(encoded(image, "TIFF"))
    for read in (read_rgb, read_picture, check_picture):
        with pytest.raises(InputError, match=word) as caught:
            read(file)
        assert caught.value.place == str(file) and caught.value.hint


def test_a_float_pfm_is_refused():
    with pytest.raises(InputError, match="32-bit"):
        read_rgb(b"Pf\n2 1\n-1.0\n" + np.array([0, 1], "<f4").tobytes())


# Orientation, frames and pages


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_pictures_are_turned_upright(format, orientation):
    image = Image.fromarray(np.kron(np.array([[0, 90], [180, 250]], np.uint8), np.ones((8, 16), np.uint8)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = {1: [0, 90], 2: [90, 0], 3: [250, 180], 4: [180, 250], 5: [0, 180], 6: [180, 0], 7: [250, 90]}
    found = read_rgb(encoded(image.convert("RGB"), format, exif=exif))
    assert found.shape[:2] == ((16, 32) if orientation < 5 else (32, 16))
    first_row = [int(found[2, 2, 0]), int(found[2, -3, 0])]
    assert np.abs(np.subtract(first_row, upright.get(orientation, [90, 250]))).max() <= 3


def frames(*colours, format, **options):
    first, *others = (Image.new("RGB", (8, 8), colour) for colour in colours)
    return encoded(first, format, save_all=True, append_images=others, **options)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_the_first_frame_is_read_and_this_is_said_once(format, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(readers, "_said", set())
    file = tmp_path / "x"
    file.write_bytes(frames(RED, "blue", format=format))
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert np.abs(np.subtract(first_pixel(file), RED)).max() <= 4
    assert [record.message.endswith("only the first picture is used") for record in caplog.records] == [True]
    with pytest.raises(InputError, match=r"animated|pages"):
        read_picture(file)


def test_of_many_animations_a_few_are_named(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(readers, "_said", set())
    for number in range(9):
        (tmp_path / f"{number}.gif").write_bytes(frames(RED, "blue", format="GIF"))
        read_rgb(tmp_path / f"{number}.gif")
    assert len(caplog.records) == 4 and "further" in caplog.records[-1].message


def test_phone_pictures_and_thumbnail_pages_are_not_animations(caplog):
    phone = frames(RED, "blue", format="MPO")
    assert np.abs(np.subtract(first_pixel(phone), RED)).max() <= 4
    thumbnail = Image.new("RGB", (20, 13), "blue")
    paged = encoded(Image.new("RGB", (80, 53), RED), "TIFF", save_all=True, append_images=[thumbnail])
    assert first_pixel(paged) == list(RED) and not caplog.records
    assert read_picture(paged).notes == ("only the main picture is kept, not its thumbnails",)
    assert read_picture(encoded(Image.new("P", (4, 4), 1), "GIF")).format == "GIF"


def test_a_raw_file_is_refused_whatever_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr("effcli.data.images.can_develop", lambda: False)
    directory = Image.Exif()
    directory[50706] = b"\1\4\0\0"
    (tmp_path / "raw.tif").write_bytes(encoded(Image.new("RGB", (48, 32)), "TIFF", tiffinfo=directory))
    for read in (read_rgb, read_picture):
        with pytest.raises(InputError, match="camera raw file") as caught:
            read(tmp_path / "raw.tif")
        assert "TIFF or JPEG" in str(caught.value.hint)


# Where pictures are


def test_files_tars_and_bytes_give_the_same(tmp_path):
    data = encoded(Image.fromarray(made.random_samples((5, 7, 3))), "PNG")
    (tmp_path / "a.png").write_bytes(data)
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(tmp_path / "a.png", "deep/a.png")
    (member,) = index_tar(tmp_path / "x.tar")
    for source in (tmp_path / "a.png", member):
        assert np.array_equal(read_rgb(source), read_rgb(data))
        assert check_picture(source) == (5, 7)
    (tmp_path / "x.tar").write_bytes((tmp_path / "x.tar").read_bytes().replace(b"\x89PNG", b"\x00PNG"))
    with pytest.raises(InputError, match=r"x\.tar:deep/a\.png: not an image"):
        read_rgb(member)


# Refusals


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"hello, world", r"not an image \(PNG"),
        (b"\n<!DOCTYPE html><p>404", "web page"),
        (b"<html>", "web page"),
        (b"<svg xmlns=''/>", "SVG"),
        (b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X", "macOS attributes"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer"),
        (b"%PDF-1.7", "PDF"),
        (b"\0\0\0\x20ftypisom\0\0\2\0", "video"),
        (b"\x89PNG\r\n\x1a\n", "truncated"),
    ],
)
def test_what_is_no_picture_is_named(data, message, tmp_path):
    file = tmp_path / "x.jpg"
    file.write_bytes(data)
    for read in (read_rgb, read_picture, check_picture, identify):
        with pytest.raises(InputError, match=message) as caught:
            read(file)
        assert caught.value.place == str(file) and "\n" not in str(caught.value)


def test_heic_names_the_package_that_reads_it(monkeypatch):
    monkeypatch.setattr("effcli.data.image_opening.register_heif", lambda: False)
    with pytest.raises(InputError, match="HEIC") as caught:
        read_rgb(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    assert "pip install 'effcli[heic]'" in str(caught.value.hint)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "PPM"])
def test_truncated_files_are_refused(format, tmp_path):
    data = encoded(Image.fromarray(made.random_samples((40, 60, 3))), format)
    assert read_rgb(data).shape == (40, 60, 3)
    file = tmp_path / "x"
    for part in (0.1, 0.5, 0.9):
        file.write_bytes(data[: int(len(data) * part)])
        with pytest.raises(InputError) as caught:
            read_rgb(file)
        assert caught.value.place == str(file)


def test_missing_files_and_folders_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_rgb(tmp_path / "missing.png")
    with pytest.raises(InputError, match="folder"):
        read_rgb(tmp_path)


def test_bombs_are_refused_by_their_header():
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b"")]
    bomb = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )
    for read in (read_rgb, check_picture, read_picture):
        with pytest.raises(InputError, match=r"too large|more than the limit"):
            read(bomb)


def test_no_decoder_speaks_to_the_terminal(capfd):
    data = encoded(Image.fromarray(made.random_samples((40, 60, 3))), "TIFF", compression="tiff_lzw")
    with pytest.raises(InputError):
        read_rgb(data[:3000])
    assert capfd.readouterr() == ("", "")
    assert read_rgb(io.BytesIO(data).getvalue()).shape == (40, 60, 3)


# Kinds of samples


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("largest", [65535, 1023, 300])
def test_colour_ppm_of_more_than_8_bits_keeps_them(plain, largest):
    samples = np.random.default_rng(0).integers(0, largest + 1, (3, 5, 3))
    body = " ".join(map(str, samples.ravel())).encode() if plain else samples.astype(">u2").tobytes()
    data = f"P{3 if plain else 6}\n# dcraw -6\n5 3\n{largest}\n".encode() + body
    picture = read_picture(data)
    assert picture.bit_depth == identify(data).bit_depth == 16
    assert np.abs(picture.pixels * largest - samples).max() < 0.51
    with pytest.raises(InputError, match="truncated"):
        read_picture(data[:-9])


def test_bitmaps_of_16_bits_per_pixel_are_8_bit_colours():
    header = struct.pack("<IiiHHIIiiII", 40, 2, 1, 1, 16, 3, 4, 0, 0, 0, 0)
    data = header + struct.pack("<III", 0xF800, 0x7E0, 0x1F) + struct.pack("<HH", 0xF800, 0x07FF)
    data = b"BM" + struct.pack("<IHHI", 14 + len(data), 0, 0, 14 + len(data) - 4) + data
    assert read_rgb(data).tolist() == [[[255, 0, 0], [0, 255, 255]]]
    assert read_picture(data).bit_depth == 8


@pytest.mark.parametrize(
    ("dtype", "kind", "channels", "message"),
    [
        (np.uint8, 2, 1, "8-bit signed"),
        (np.uint16, 2, 1, "16-bit signed"),
        (np.float16, 3, 1, "16-bit floating-point"),
        (np.float32, 3, 3, "32-bit floating-point"),
    ],
)
def test_tiff_samples_that_are_no_natural_numbers_are_refused(dtype, kind, channels, message):
    data = made.tiff(np.ones((4, 4, channels), dtype), sample_format=kind)
    for read in (read_rgb, read_picture, check_picture):
        with pytest.raises(InputError, match=f"{message} samples are not supported"):
            read(data)


def test_channels_that_are_not_read_are_said():
    data = made.tiff(np.full((4, 4, 4), 90, np.uint8), photometric=2, extra_samples=0)
    assert read_picture(data).notes == ("1 further channel of its pixels is not kept",)
    with_alpha = made.tiff(np.full((4, 4, 4), 90, np.uint8), photometric=2, extra_samples=2)
    grey_alpha = made.tiff(np.full((4, 4, 2), 90, np.uint16), photometric=1, extra_samples=2)
    for whole in (with_alpha, grey_alpha, made.tiff(np.full((4, 4, 1), 90, np.uint16))):
        assert read_picture(whole).notes == ()
