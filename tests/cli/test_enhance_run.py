"""`effcli enhance` on files, folders and pipes, in subprocesses: results, exit codes, what stands on stdout."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.effcli_process import effcli


@pytest.mark.slow
def test_a_photo_is_written_beside_the_input_and_its_path_alone_is_printed(
    photo: Path, tiny_weights: Path
) -> None:
    done = effcli("enhance", photo.name, "--weights", tiny_weights, cwd=photo.parent)
    assert (done.code, done.lines) == (0, ["night-enhanced.png"])
    assert Image.open(photo.with_name("night-enhanced.png")).size == (40, 24)


@pytest.mark.slow
def test_existing_outputs_stay_without_force(photo: Path, tiny_weights: Path) -> None:
    output = photo.with_name("out.png")
    output.write_bytes(b"precious")
    arguments = ("enhance", photo.name, "-o", "out.png", "--weights", tiny_weights)
    done = effcli(*arguments, cwd=photo.parent)
    assert done.code == 2
    assert "out.png: already exists" in done.stderr
    assert "--force" in done.stderr
    assert output.read_bytes() == b"precious"
    assert effcli(*arguments, "--force", cwd=photo.parent).code == 0
    assert Image.open(output).size == (40, 24)


@pytest.mark.slow
def test_a_pipe_carries_the_picture_alone(photo: Path, tiny_weights: Path) -> None:
    done = effcli(
        "enhance", "-", "-o", "-", "--weights", tiny_weights, cwd=photo.parent, stdin=photo.read_bytes()
    )
    assert done.code == 0, done.stderr
    assert Image.open(io.BytesIO(done.stdout)).size == (40, 24)
    assert done.stderr == ""


@pytest.mark.slow
def test_a_folder_with_one_broken_file_keeps_the_others_and_exits_3(photo: Path, tiny_weights: Path) -> None:
    folder = photo.parent / "in"
    (folder / "sub dir").mkdir(parents=True)
    photo.rename(folder / "sub dir" / "ünï 夜.png")
    (folder / "broken.jpg").write_bytes(b"not a picture")
    (folder / "empty.png").write_bytes(b"")
    done = effcli("enhance", "in", "-o", "out", "--weights", tiny_weights, "--json", cwd=photo.parent)
    assert done.code == 3
    assert done.json["metrics"]["images"] == 1
    assert done.json["metrics"]["failed"] == 2
    assert {failure["place"] for failure in done.json["failures"]} == {"in/broken.jpg", "in/empty.png"}
    assert len([line for line in done.stderr.splitlines() if line.startswith("error: in/")]) == 2
    assert (photo.parent / "out" / "sub dir" / "ünï 夜.png").exists()


@pytest.mark.slow
def test_json_is_one_object_with_the_contract_keys(photo: Path, tiny_weights: Path) -> None:
    result = effcli("enhance", photo.name, "--weights", tiny_weights, "--json", cwd=photo.parent).json
    for key in ("schema", "task", "verb", "method", "recipe", "output", "metrics", "timing", "environment"):
        assert key in result
    assert set(result["environment"]) >= {"effcli", "torch", "device", "precision", "threads", "seed"}
    assert {"images", "failed", "megapixels_per_s"} <= set(result["metrics"])
    assert result["timing"]["total_s"] > 0


def test_strength_0_gives_the_input_back_exactly(photo: Path, tiny_weights: Path) -> None:
    effcli(
        "enhance",
        photo.name,
        "-o",
        "same.png",
        "--strength",
        "0",
        "--weights",
        tiny_weights,
        cwd=photo.parent,
    )
    assert np.array_equal(np.asarray(Image.open(photo)), np.asarray(Image.open(photo.with_name("same.png"))))


@pytest.mark.slow
def test_16_bit_grey_and_alpha_are_kept(tmp_path: Path, tiny_weights: Path) -> None:
    draws = np.random.default_rng(2)
    Image.fromarray(draws.integers(0, 9000, (20, 30), dtype=np.uint16)).save(tmp_path / "grey16.png")
    rgba = draws.integers(0, 256, (20, 30, 4), dtype=np.uint8)
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    done = effcli("enhance", "grey16.png", "rgba.png", "-o", "out/", "--weights", tiny_weights, cwd=tmp_path)
    assert done.code == 0, done.stderr
    grey = Image.open(tmp_path / "out" / "grey16.png")
    assert grey.mode.startswith("I;16")
    assert len(np.unique(np.asarray(grey) % 257)) > 1  # more than 8-bit values stretched
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "rgba.png"))[..., 3], rgba[..., 3])


def _save(path: Path, size: tuple[int, int], mode: str) -> None:
    Image.new("L", size, 40).convert(mode).save(path)


ODD = [
    ("dot.png", (1, 1), "RGB"),
    ("thin.png", (700, 7), "RGB"),
    ("bit.png", (33, 20), "1"),
    ("pal.png", (20, 20), "P"),
    ("cmyk.jpg", (20, 20), "CMYK"),
    ("-dash.png", (20, 20), "RGB"),
    ("two words.webp", (20, 20), "RGB"),
]


@pytest.mark.slow
def test_odd_but_good_pictures_are_enhanced(tmp_path: Path, tiny_weights: Path) -> None:
    for name, size, mode in ODD:
        _save(tmp_path / name, size, mode)
    names = [name for name, _, _ in ODD]
    done = effcli("enhance", "--weights", tiny_weights, "-o", "out/", "--", *names, cwd=tmp_path)
    assert done.code == 0, done.stderr
    for name, size, _ in ODD:
        assert Image.open(tmp_path / "out" / name).size == size


@pytest.mark.slow
def test_bad_files_get_one_clear_line_each_and_exit_2(tmp_path: Path, tiny_weights: Path) -> None:
    _save(tmp_path / "whole.png", (64, 64), "RGB")
    truncated = (tmp_path / "whole.png").read_bytes()[:90]
    (tmp_path / "truncated.png").write_bytes(truncated)
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("hello")
    frames = [Image.new("RGB", (8, 8), (i, 0, 0)) for i in range(0, 90, 30)]
    frames[0].save(tmp_path / "moving.webp", save_all=True, append_images=frames[1:])
    names = ["truncated.png", "empty.png", "text.jpg", "moving.webp", "missing.png"]
    for name in names:
        done = effcli("enhance", name, "--weights", tiny_weights, cwd=tmp_path)
        assert done.code in {1, 2}
        errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
        assert len(errors) == 1, done.stderr
        assert name in errors[0]
        assert "Traceback" not in done.stderr
        assert done.stdout == b""


def test_a_decompression_bomb_is_refused_from_its_header(tmp_path: Path, tiny_weights: Path) -> None:
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 200_000, 200_000, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    done = effcli("enhance", "bomb.png", "--weights", tiny_weights, cwd=tmp_path)
    assert done.code in {1, 2}
    assert "megapixels" in done.stderr


def test_an_output_folder_that_is_a_file_is_refused_before_any_work(photo: Path, tiny_weights: Path) -> None:
    (photo.parent / "taken").write_text("x")
    done = effcli(
        "enhance", photo.name, photo.name, "-o", "taken/", "--weights", tiny_weights, cwd=photo.parent
    )
    assert done.code == 2
    assert "taken" in done.stderr


def test_the_input_is_never_the_output_even_with_force(photo: Path, tiny_weights: Path) -> None:
    before = photo.read_bytes()
    done = effcli(
        "enhance", photo.name, "-o", photo.name, "--force", "--weights", tiny_weights, cwd=photo.parent
    )
    assert done.code == 2
    assert photo.read_bytes() == before


def test_weights_that_are_not_weights(photo: Path) -> None:
    done = effcli("enhance", photo.name, "--weights", photo.name, "--json", cwd=photo.parent)
    assert done.code == 2
    assert done.json["error"]["code"] == "bad-input"
    assert not photo.with_name("night-enhanced.png").exists()


def test_a_usage_error_is_json_too(tmp_path: Path) -> None:
    done = effcli("enhance", "a.png", "--strenght", "1", "--json", cwd=tmp_path)
    assert done.code == 2
    assert done.json["error"]["code"] == "usage"
    assert "--strength" in done.stderr


def test_times_are_kept_where_asked(photo: Path, tiny_weights: Path) -> None:
    os.utime(photo, (1e9, 1.1e9))
    for flag, kept in (("--quiet", False), ("--keep-times", True)):
        done = effcli("enhance", photo, "--weights", tiny_weights, "--force", flag, cwd=photo.parent)
        assert done.code == 0, done.stderr
        assert (photo.with_name("night-enhanced.png").stat().st_mtime == 1.1e9) == kept


def test_a_stream_has_no_times_to_keep(photo: Path, tiny_weights: Path) -> None:
    done = effcli("enhance", photo, "-o", "-", "--weights", tiny_weights, "--keep-times", cwd=photo.parent)
    assert (done.code, done.stdout) == (2, b"")
    assert done.stderr.startswith(
        "error: --keep-times: standard input and output have no modification times to keep"
    )


def test_a_gallery_is_written_and_named_last(photo: Path, tiny_weights: Path) -> None:
    photo.with_name("broken.png").write_bytes(b"")
    arguments = ("enhance", photo.name, "broken.png", "-o", "out", "--weights", tiny_weights)
    done = effcli(*arguments, "--gallery", "pages/night.html", cwd=photo.parent)
    assert (done.code, done.lines) == (3, ["out/night.png", "pages/night.html"])
    assert "broken.png: is empty" in (photo.parent / "pages" / "night.html").read_text()
    again = effcli(*arguments, "--gallery", "pages/night.html", "--resume", "--json", cwd=photo.parent)
    assert again.json["error"]["place"] == "broken.png"
    refused = effcli(*arguments, "--gallery", "night.png", cwd=photo.parent)
    assert (refused.code, refused.stdout) == (2, b"")
    assert "night.png: the name of a gallery must end in .html" in refused.stderr


def test_dry_run_names_what_would_be_written_and_writes_nothing(photo: Path) -> None:
    done = effcli("enhance", photo.name, "--dry-run", cwd=photo.parent)
    assert done.code == 0
    assert any("night-enhanced.png" in line for line in done.lines)
    assert [path.name for path in photo.parent.iterdir()] == ["night.png"]


@pytest.mark.slow
def test_resume_skips_what_is_there(photo: Path, tiny_weights: Path) -> None:
    arguments = ("enhance", photo.name, "--weights", tiny_weights, "--resume", "--json")
    assert effcli(*arguments, cwd=photo.parent).json["metrics"]["images"] == 1
    again = effcli(*arguments, cwd=photo.parent)
    assert again.code == 0
    assert again.json["metrics"]["skipped"] == 1


@pytest.mark.slow
def test_ctrl_c_ends_a_batch_after_the_picture_at_hand(tmp_path: Path, tiny_weights: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(200):
        _save(tmp_path / "in" / f"{number}.png", (200, 200), "RGB")
    command = [sys.executable, "-m", "effcli", "enhance", "in", "-o", "out", "--weights", str(tiny_weights)]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not list(tmp_path.glob("out/*.png")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    assert process.returncode == 130
    written = list(tmp_path.glob("out/*"))
    assert 0 < len(written) < 200
    assert all(Image.open(path).size == (200, 200) for path in written)


@pytest.mark.slow
def test_export_writes_weights_that_give_the_same_picture(photo: Path, tiny_weights: Path) -> None:
    done = effcli(
        "enhance", "export", tiny_weights, "-o", "half.safetensors", "--dtype", "fp16", cwd=photo.parent
    )
    assert (done.code, done.lines) == (0, ["half.safetensors"])
    again = effcli("enhance", "export", tiny_weights, "-o", "half.safetensors", cwd=photo.parent)
    assert again.code == 2 and "--force" in again.stderr
    for name, weights in (("a.png", tiny_weights), ("b.png", "half.safetensors")):
        options = ("--weights", weights, "--precision", "fp32", "-o", name)
        assert effcli("enhance", photo.name, *options, cwd=photo.parent).code == 0
    a, b = (np.asarray(Image.open(photo.with_name(name))).astype(int) for name in ("a.png", "b.png"))
    assert np.abs(a - b).mean() < 2


def test_inputs_that_are_no_pictures_are_wrong_input_and_nothing_is_written(
    photo: Path, tiny_weights: Path
) -> None:
    for name in ("a.png", "b.png"):
        (photo.parent / name).write_text("not a picture")
    one = effcli("enhance", "a.png", "-o", "out/", "--weights", tiny_weights, "--json", cwd=photo.parent)
    assert one.code == 2 and one.json["error"]["place"] == "a.png"
    two = effcli("enhance", "a.png", "b.png", "-o", "out/", "--weights", tiny_weights, cwd=photo.parent)
    assert two.code == 2 and "error: a.png: " in two.stderr and "error: b.png: " in two.stderr
    assert not (photo.parent / "out").exists()


@pytest.mark.slow
def test_a_picture_that_needs_too_much_memory_is_named(photo: Path, tiny_weights: Path) -> None:
    Image.new("RGB", (4000, 4000)).save(photo.with_name("big.png"))
    arguments = (
        "enhance",
        "big.png",
        photo.name,
        "-o",
        "out/",
        "--weights",
        tiny_weights,
        "--max-memory",
        "64",
        "--detail",
        "full",
    )
    done = effcli(*arguments, cwd=photo.parent)
    assert done.code == 3
    assert "error: big.png: this picture needs at least" in done.stderr


def test_recipes_are_found_as_they_are_listed(tmp_path: Path) -> None:
    listed = effcli("recipes", "ls", cwd=tmp_path).lines
    assert "enhance/small" in listed
    assert effcli("recipes", "show", "enhance/small", cwd=tmp_path).lines
    assert effcli("recipes", "cp", "enhance/small", "mine/x.yaml", cwd=tmp_path).lines == ["mine/x.yaml"]
    (tmp_path / "wrong.yaml").write_text("task: enhanc\n")
    done = effcli("recipes", "check", "mine/x.yaml", "wrong.yaml", cwd=tmp_path)
    assert done.code == 2 and done.lines == ["mine/x.yaml"] and "wrong.yaml: no task 'enhanc'" in done.stderr


def test_help_says_the_defaults(tmp_path: Path) -> None:
    assert "(default:" in effcli("enhance", "run", "--help", cwd=tmp_path).stdout.decode()
