from __future__ import annotations

import dataclasses
import importlib.util
import io
import os
import resource
import struct
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from effcli.core.errors import InputError, RunError, UsageError
from effcli.data.images import (
    MAX_PIXELS,
    Metadata,
    Picture,
    PictureInfo,
    identify,
    read_picture,
)
from effcli.enhance.files.picture_files import write_picture

_HELPERS = Path(__file__).parents[2] / "data" / "image_files.py"
_SPEC = importlib.util.spec_from_file_location("image_files", _HELPERS)
assert _SPEC and _SPEC.loader
made = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(made)

MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def samples_of(picture: Picture) -> np.ndarray:
    """The file's integer samples [H, W, C], alpha last."""
    dtype = np.uint16 if picture.bit_depth == 16 else np.uint8
    colours = np.rint(picture.pixels.astype(np.float64) * np.iinfo(dtype).max).astype(dtype)
    return colours if picture.alpha is None else np.dstack([colours, picture.alpha])


def image_of(samples: np.ndarray) -> Image.Image:
    return Image.fromarray(samples[..., 0] if samples.shape[-1] == 1 else samples)


def written(picture: Picture, format: str | None = None, **options: Any) -> bytes:
    file = io.BytesIO()
    write_picture(picture, file, format=format, **options)
    return file.getvalue()


def refusal(source: Path | bytes, **options: int) -> InputError:
    with pytest.raises(InputError) as caught:
        read_picture(source, **options)
    assert "\n" not in str(caught.value) and caught.value.place
    return caught.value


# Round trips


@settings(max_examples=60, deadline=None)
@given(
    format=st.sampled_from(["PNG", "TIFF"]),
    dtype=st.sampled_from([np.uint8, np.uint16]),
    n_channels=st.integers(1, 4),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    seed=st.integers(0, 999),
)
def test_untouched_samples_survive_writing_and_reading(format, dtype, n_channels, height, width, seed):
    samples = made.random_samples((height, width, n_channels), dtype, seed)
    n_colours = 1 if n_channels < 3 else 3
    picture = Picture(
        pixels=samples[..., :n_colours].astype(np.float32) / np.float32(np.iinfo(dtype).max),
        alpha=samples[..., -1] if n_channels in (2, 4) else None,
        bit_depth=samples.itemsize * 8,
        format=format,
    )
    data = written(picture)
    again = read_picture(data)
    assert np.array_equal(samples_of(again), samples)
    assert (again.bit_depth, again.format, again.notes) == (picture.bit_depth, format, ())
    assert identify(data) == PictureInfo(width, height, n_channels, picture.bit_depth, format)
    if dtype is np.uint8:  # a reader that is not ours agrees
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))).reshape(samples.shape), samples)


@pytest.mark.parametrize("n_channels", [1, 2, 3, 4])
def test_16bit_png_is_read_exactly(n_channels):
    samples = made.random_samples((9, 7, n_channels), np.uint16)
    picture = read_picture(made.png_16(samples))
    assert picture.bit_depth == 16 and picture.pixels.dtype == np.float32
    assert picture.pixels.shape == (9, 7, 1 if n_channels < 3 else 3)
    assert np.array_equal(samples_of(picture), samples)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("n_channels", [1, 2, 3, 4])
def test_16bit_tiff_of_either_byte_order_is_read_exactly(n_channels, order):
    samples = made.random_samples((9, 7, n_channels), np.uint16)
    data = made.tiff(samples, order=order, extra_samples=2 if n_channels in (2, 4) else None)
    picture = read_picture(data)
    assert np.array_equal(samples_of(picture), samples)
    assert identify(data) == PictureInfo(7, 9, n_channels, 16, "TIFF")


def test_16bit_grey_tiff_with_white_as_zero_is_inverted():
    samples = made.random_samples((4, 5, 1), np.uint16)
    assert np.array_equal(samples_of(read_picture(made.tiff(samples, photometric=0))), 65535 - samples)


def test_16bit_tiff_with_premultiplied_alpha_is_divided():
    samples = np.array([[[1000, 2000, 3000, 32768], [0, 0, 0, 0]]], np.uint16)
    picture = read_picture(made.tiff(samples, extra_samples=1))
    assert samples_of(picture)[0].tolist() == [[2000, 4000, 6000, 32768], [0, 0, 0, 0]]


def test_transparent_colour_of_a_16bit_png_becomes_alpha():
    samples = made.random_samples((3, 4, 3), np.uint16)
    key = struct.pack(">HHH", *samples[1, 2])
    picture = read_picture(made.png_16(samples, ((b"tRNS", key),)))
    expected = np.full((3, 4), 65535, np.uint16)
    expected[1, 2] = 0
    assert picture.alpha is not None and np.array_equal(picture.alpha, expected)


@pytest.mark.parametrize("n_channels", [3, 4])
def test_webp_keeps_lossless_lossless_and_hidden_colours(n_channels):
    samples = made.random_samples((20, 30, n_channels))
    lossless = made.encoded(image_of(samples), "WEBP", lossless=True, exact=True)
    picture = read_picture(lossless)
    assert picture.lossless and np.array_equal(samples_of(picture), samples)
    assert np.array_equal(samples_of(read_picture(written(picture))), samples)
    lossy = read_picture(made.encoded(image_of(samples), "WEBP", quality=80))
    assert not lossy.lossless and not read_picture(written(lossy)).lossless
    if n_channels == 4:
        assert lossy.alpha is not None and np.array_equal(lossy.alpha, samples[..., 3])
        assert (read_picture(written(lossy)).alpha == samples[..., 3]).all()


def test_jpeg_stays_grey_or_444_and_close():
    smooth = np.linspace(0, 255, 64 * 48).reshape(48, 64).astype(np.uint8)
    grey = read_picture(made.encoded(Image.fromarray(smooth), "JPEG", quality=95))
    assert grey.pixels.shape == (48, 64, 1) and grey.format == "JPEG" and not grey.lossless
    assert Image.open(io.BytesIO(written(grey))).mode == "L"
    checks = np.zeros((16, 16, 3), np.uint8)
    checks[:, ::2, 0] = checks[:, 1::2, 2] = 200
    colour = read_picture(made.encoded(Image.fromarray(checks), "PNG"))
    again = read_picture(written(colour, "JPEG"))
    assert np.abs(again.pixels - colour.pixels).mean() < 0.02  # 4:2:0 would average the columns
    assert len(written(colour, "JPEG", quality=30)) < len(written(colour, "JPEG"))


def test_pixels_outside_the_range_are_clipped_and_rounded_once():
    pixels = np.array([[[-0.5], [0.4999], [0.5], [7.0]]], np.float32)
    assert samples_of(read_picture(written(Picture(pixels)))).ravel().tolist() == [0, 127, 128, 255]


# Modes


def test_palette_becomes_rgb_and_keeps_its_transparency():
    rgba = np.array([[[255, 0, 0, 255], [0, 255, 0, 128], [0, 0, 255, 0]]], np.uint8)
    opaque = Image.fromarray(rgba[..., :3]).quantize(4)
    assert np.array_equal(samples_of(read_picture(made.encoded(opaque, "PNG"))), rgba[..., :3])
    indexed = Image.fromarray(np.array([[0, 1, 2]], np.uint8)).convert("P")
    indexed.putpalette(rgba[0, :, :3].tobytes())
    data = made.encoded(indexed, "PNG", transparency=bytes(rgba[0, :, 3]))
    assert np.array_equal(samples_of(read_picture(data)), rgba)
    assert identify(data).n_channels == 4
    assert Image.open(io.BytesIO(written(read_picture(data)))).mode == "RGBA"


def test_one_bit_and_low_bit_pictures_become_grey():
    bits = np.array([[0, 255, 255], [255, 0, 0]], np.uint8)
    for format in ("PNG", "TIFF", "BMP"):
        picture = read_picture(
            made.encoded(Image.fromarray(bits).convert("1", dither=Image.Dither.NONE), format)
        )
        assert np.array_equal(samples_of(picture)[..., 0], bits), format


def test_transparent_grey_of_an_8bit_png_becomes_alpha():
    grey = np.array([[10, 20, 30]], np.uint8)
    picture = read_picture(made.encoded(Image.fromarray(grey), "PNG", transparency=20))
    assert samples_of(picture)[0].tolist() == [[10, 255], [20, 0], [30, 255]]


def test_cmyk_jpeg_becomes_rgb_and_says_so():
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    picture = read_picture(made.encoded(cmyk, "JPEG", icc_profile=made.icc(b"CMYK")))
    assert picture.pixels.shape == (8, 8, 3) and "CMYK" in picture.notes[0]
    assert picture.pixels[4, 4, 0] > 0.9 and picture.pixels[4, 4, 1:].max() < 0.2
    assert read_picture(written(picture)).metadata.icc is None  # a CMYK profile on RGB would be wrong


def test_phone_picture_with_a_second_one_inside_reads_as_its_first():
    first, second = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    picture = read_picture(made.encoded(first, "MPO", save_all=True, append_images=[second]))
    assert picture.format == "JPEG" and picture.pixels[0, 0, 0] > 0.9 and picture.notes


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (300, 1)])
def test_thin_pictures(size):
    samples = made.random_samples((size[1], size[0], 3))
    for format in ("PNG", "TIFF", "BMP", "WEBP"):
        picture = read_picture(made.encoded(image_of(samples), format, **{"lossless": True}))
        assert np.array_equal(samples_of(read_picture(written(picture))), samples), format


# Metadata


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once(format, orientation):
    colours = np.kron(np.array([[0, 80, 160], [240, 40, 120]], np.uint8), np.ones((8, 8), np.uint8))
    image = Image.fromarray(np.dstack([colours, colours, 255 - colours]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = made.encoded(image, format, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))), np.int16)
    picture = read_picture(data)
    assert picture.pixels.flags.c_contiguous
    assert np.abs(samples_of(picture).astype(np.int16) - expected).max() <= 1
    again = Image.open(io.BytesIO(written(picture)))
    assert again.getexif().get(0x0112, 1) == 1 and again.size == expected.shape[1::-1]


def test_orientation_of_16bit_files():
    samples = made.random_samples((3, 4, 3), np.uint16)
    exif = made.exif_with_thumbnail(orientation=6)
    picture = read_picture(made.png_16(samples, ((b"eXIf", exif[6:]),)))
    assert np.array_equal(samples_of(picture), np.rot90(samples, -1))
    assert np.array_equal(samples_of(read_picture(written(picture, "TIFF"))), np.rot90(samples, -1))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_exif_is_kept_byte_for_byte_but_for_orientation_size_and_thumbnail(format, order):
    exif = made.exif_with_thumbnail(order)
    data = made.encoded(Image.new("RGB", (12, 10)), format, exif=exif)
    picture = read_picture(data)
    kept = read_picture(written(picture)).metadata.exif or b""
    assert kept == picture.metadata.exif
    assert b"stale" in exif and b"stale" not in kept and "© Zoë".encode() in kept and bytes(range(40)) in kept
    read = Image.Exif()
    read.load(kept)
    sizes = read.get_ifd(0x8769)
    assert (read[0x0112], sizes[0xA002], sizes[0xA003]) == (1, 10, 12)  # turned by 90 degrees
    assert not read.get_ifd(1)
    changed = sum(a != b for a, b in zip(exif, kept, strict=False))
    assert len(exif) - len(kept) == len(b"\xff\xd8stale thumbnail\xff\xd9") and changed < 14


def test_exif_travels_into_and_out_of_tiff():
    exif = made.exif_with_thumbnail()
    picture = read_picture(made.encoded(Image.new("RGB", (12, 10)), "PNG", exif=exif))
    through = read_picture(written(picture, "TIFF"))
    back = Image.open(io.BytesIO(written(through, "JPEG"))).getexif()
    assert back[0x013B].encode("latin-1").decode() == "© Zoë" and back.get_ifd(0x8769)[0x927C] == bytes(
        range(40)
    )
    assert 273 not in back and 0x0112 not in back


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("bit_depth", [8, 16])
def test_profile_xmp_and_resolution_are_kept(format, bit_depth):
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6" dc:title="\xc3\xa9"/></x:xmpmeta>'
    metadata = Metadata(icc=made.icc(), xmp=xmp, dpi=(300.0, 200.0))
    picture = Picture(np.zeros((2, 3, 3), np.float32), bit_depth=bit_depth, format=format, metadata=metadata)
    kept = read_picture(written(picture)).metadata
    assert kept.icc == metadata.icc
    assert kept.xmp and b'dc:title="\xc3\xa9"' in kept.xmp and b'"6"' not in kept.xmp
    if format != "WEBP":
        assert kept.dpi == pytest.approx((300, 200), abs=0.1)


def test_a_profile_of_other_channels_is_not_written():
    grey = Picture(np.zeros((2, 3, 1), np.float32), metadata=Metadata(icc=made.icc(b"GRAY")))
    assert read_picture(written(grey)).metadata.icc == made.icc(b"GRAY")
    assert read_picture(written(grey, "WEBP")).metadata.icc is None  # WebP makes it RGB


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\x7f", b"Exif\0\0nonsense", b"x"])
def test_damaged_exif_costs_only_itself(exif):
    picture = read_picture(made.encoded(Image.new("RGB", (4, 4), "red"), "PNG", exif=exif))
    assert picture.metadata.exif is None and picture.pixels[0, 0].tolist() == [1, 0, 0]


@settings(max_examples=100, deadline=None)
@given(position=st.integers(6, 200), value=st.integers(0, 255))
def test_any_broken_byte_in_exif_is_survived(position, value):
    exif = bytearray(made.exif_with_thumbnail())
    exif[position % len(exif)] = value
    picture = read_picture(made.encoded(Image.new("RGB", (4, 4)), "PNG", exif=bytes(exif)))
    for format in ("PNG", "TIFF"):
        assert read_picture(written(picture, format)).pixels.shape == (4, 4, 3)


# What a format cannot hold


def test_what_a_format_cannot_hold_is_noted(tmp_path):
    alpha = np.array([[0, 65535]], np.uint16)
    picture = Picture(np.zeros((1, 2, 3), np.float32), alpha=alpha, bit_depth=16)
    notes = write_picture(picture, tmp_path / "a.jpg")
    assert ["8 bits" in notes[0], "transparency" in notes[1]] == [True, True]
    jpeg = read_picture(tmp_path / "a.jpg").pixels
    assert jpeg[0, 0].min() > jpeg[0, 1].max()  # blended over white
    assert write_picture(picture, tmp_path / "a.png") == ()
    assert np.asarray(read_picture(written(picture, "WEBP")).alpha).tolist() == [[0, 255]]
    too_long = dataclasses.replace(picture, alpha=None, metadata=Metadata(exif=b"Exif\0\0" + bytes(70_000)))
    assert any("EXIF" in note for note in write_picture(too_long, tmp_path / "b.jpg"))
    with pytest.raises(RunError, match="16383"):
        write_picture(Picture(np.zeros((1, 16384, 3), np.float32)), tmp_path / "wide.webp")
    with pytest.raises(UsageError, match=r"\.png .*\.webp"):
        write_picture(picture, tmp_path / "a.gif")


def test_bit_depth_can_be_raised():
    picture = read_picture(made.encoded(Image.fromarray(made.random_samples((5, 6, 4))), "PNG"))
    deep = read_picture(written(dataclasses.replace(picture, bit_depth=16)))
    assert np.array_equal(samples_of(deep), samples_of(picture).astype(np.uint16) * 257)


# Refusals


def encodings() -> dict[str, bytes]:
    image = image_of(made.random_samples((40, 60, 3)))
    deep = made.random_samples((40, 60, 3), np.uint16)
    files = {format: made.encoded(image, format) for format in ("PNG", "JPEG", "WEBP", "TIFF", "BMP")}
    return files | {
        "progressive": made.encoded(image, "JPEG", progressive=True),
        "lzw": made.encoded(image, "TIFF", compression="tiff_lzw"),
        "png16": made.png_16(deep),
        "tiff16": made.tiff(deep),
        "our tiff": written(Picture(np.ones((40, 60, 3), np.float32), format="TIFF")),
    }


@pytest.mark.parametrize("kind", list(encodings()))
def test_truncated_files_are_refused(kind, tmp_path, capfd):
    data = encodings()[kind]
    assert read_picture(data).pixels.shape == (40, 60, 3)
    for part in (0.01, 0.1, 0.5, 0.9, 0.99):
        path = tmp_path / "cut"
        path.write_bytes(data[: max(1, int(len(data) * part))])
        assert refusal(path).place == str(path)
    assert capfd.readouterr() == ("", "")  # no decoder speaks to the terminal


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(sorted(encodings())),
    position=st.floats(0, 1),
    value=st.binary(min_size=1, max_size=8),
)
def test_any_damage_gives_a_picture_or_one_clear_line(kind, position, value):
    data = bytearray(encodings()[kind])
    at = int(position * (len(data) - len(value)))
    data[at : at + len(value)] = value
    try:
        picture = read_picture(bytes(data), max_pixels=1_000_000)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert np.isfinite(picture.pixels).all()


def test_missing_empty_folder_and_other_files_are_refused(tmp_path):
    assert "no such file" in refusal(tmp_path / "missing.png").message
    (tmp_path / "empty.png").touch()
    assert "empty" in refusal(tmp_path / "empty.png").message
    assert "folder" in refusal(tmp_path).message
    assert "not an image" in refusal(b"hello, world").message
    assert "not an image" in refusal(b"<svg xmlns='http://www.w3.org/2000/svg'/>").message
    assert refusal(tmp_path / ("x" * 300 + ".png")).exit_code == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_file_is_refused(tmp_path):
    path = tmp_path / "secret.png"
    path.write_bytes(made.encoded(Image.new("L", (2, 2)), "PNG"))
    path.chmod(0)
    assert "permission" in refusal(path).message


def test_denied_and_failing_disks_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(made.encoded(Image.new("L", (2, 2)), "PNG"))
    for error, expected in ((PermissionError(13, "denied"), "permission"), (OSError(5, "I/O error"), "I/O")):
        monkeypatch.setattr(Path, "open", lambda *_, error=error: (_ for _ in ()).throw(error))
        assert expected in refusal(path).message


def test_animations_and_pages_are_refused():
    frames = [image_of(made.random_samples((8, 8, 3), seed=seed)) for seed in (1, 2)]
    for format, word in (("GIF", "animated"), ("WEBP", "animated"), ("PNG", "animated"), ("TIFF", "pages")):
        data = made.encoded(frames[0], format, save_all=True, append_images=frames[1:])
        assert word in refusal(data).message
        with pytest.raises(InputError):
            identify(data)


def test_what_is_only_read_is_written_as_png():
    for format in ("GIF", "PPM", "AVIF"):
        picture = read_picture(made.encoded(Image.new("RGB", (8, 8), "red"), format))
        assert picture.format == format and Image.open(io.BytesIO(written(picture))).format == "PNG"


def test_unsupported_samples_are_refused():
    flat = np.zeros((4, 5), np.float32)
    assert "32-bit" in refusal(made.encoded(Image.fromarray(flat), "TIFF")).message
    assert "32-bit" in refusal(made.encoded(Image.fromarray(flat.astype(np.int32)), "TIFF")).message
    assert "planes" in refusal(made.tiff(made.random_samples((4, 5, 3), np.uint16), planar=2)).message
    assert "Lab" in refusal(made.encoded(Image.new("LAB", (4, 4)), "TIFF")).message
    assert "supported" in refusal(made.tiff(np.zeros((4, 5, 3), np.uint32))).message


def test_decompression_bombs_are_refused_by_their_header():
    bomb = made.png_16(made.random_samples((1, 1, 1), np.uint16), claim=(60_000, 60_000))
    assert "60000 x 60000" in refusal(bomb).message and "400 megapixels" in refusal(bomb).message
    with pytest.raises(InputError):
        identify(bomb)
    small = made.encoded(Image.new("L", (10, 10)), "PNG")
    assert "10 x 10" in refusal(small, max_pixels=99).message
    assert read_picture(small, max_pixels=100).pixels.shape == (10, 10, 1)


def test_our_limit_replaces_pillows_for_the_call_only(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert read_picture(made.encoded(Image.new("L", (10, 10)), "PNG")).pixels.shape == (10, 10, 1)
    assert Image.MAX_IMAGE_PIXELS == 10 and MAX_PIXELS == 400_000_000


def test_a_pipe_can_be_read(tmp_path):
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    samples = made.random_samples((6, 5, 3), np.uint16)
    writer = threading.Thread(target=pipe.write_bytes, args=(made.png_16(samples),))
    writer.start()
    assert np.array_equal(samples_of(read_picture(pipe)), samples)
    writer.join()


# Writing


@pytest.mark.parametrize("name", ["with space.png", "ünïcødé-夜-🌙.png", "-x.png", "a" * 251 + ".png"])
def test_any_file_name_can_be_written_and_read(name, tmp_path):
    picture = Picture(np.ones((2, 2, 1), np.float32))
    write_picture(picture, tmp_path / name)
    assert np.array_equal(read_picture(tmp_path / name).pixels, picture.pixels)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_written_file_has_ordinary_permissions(tmp_path):
    write_picture(Picture(np.ones((2, 2, 1), np.float32)), tmp_path / "a.png")
    (tmp_path / "plain").touch()
    assert (tmp_path / "a.png").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_reported():
    picture = Picture(np.zeros((2, 2, 1), np.float32))
    with (
        pytest.raises(RunError, match="disk is full") as caught,
        Path("/dev/full").open("wb", buffering=0) as full,
    ):
        write_picture(picture, full)
    assert caught.value.exit_code == 1 and caught.value.hint


@pytest.mark.skipif(sys.platform != "linux", reason="file size limits")
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    noise = Picture(made.random_samples((64, 64, 3)).astype(np.float32) / 255)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(RunError, match="cannot be written"):
            write_picture(noise, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.png"] and path.read_bytes() == b"old"
    with pytest.raises(RunError, match="cannot be written"):
        write_picture(noise, tmp_path / "missing" / "a.png")


def test_texts_below_the_first_exif_directory_stay_texts_in_tiff():
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    exif.get_ifd(0x8769)[36867] = "2024:05:01 10:00:00"
    exif.get_ifd(0x8769)[42036] = "A lens"
    source = made.encoded(Image.new("RGB", (8, 6)), "JPEG", exif=exif.tobytes())
    once = written(read_picture(source), "TIFF")
    for data in (once, written(read_picture(once), "TIFF")):
        below = Image.open(io.BytesIO(data)).getexif().get_ifd(0x8769)
        assert (below[36867], below[42036]) == ("2024:05:01 10:00:00", "A lens")


def test_tiff_gets_no_empty_directories():
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    source = made.encoded(Image.new("RGB", (8, 6)), "TIFF", exif=exif)
    found = Image.open(io.BytesIO(written(read_picture(source), "TIFF"))).getexif()
    assert found[0x010F] == "Maker"
    assert not {0x8769, 0x8825} & set(found)


def test_metadata_that_a_format_does_not_hold_is_said():
    metadata = Metadata(icc=made.icc())
    colour, grey = (Picture(np.zeros((2, 3, n), np.float32), metadata=metadata) for n in (3, 1))
    for picture, format, word in ((colour, "BMP", "BMP holds no EXIF"), (grey, "PNG", "ICC profile")):
        (note,) = write_picture(picture, io.BytesIO(), format=format)
        assert word in note
    assert not write_picture(colour, io.BytesIO(), format="PNG")
