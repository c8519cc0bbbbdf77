"""Folders and pipes of stereo pictures: hidden files, extensions and depths."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effcli.core.errors import InputError
from effcli.detect_stream.data.picture_pairs import paired_pictures, read_pair
from effcli.detect_stream.data.stereo_calibration import StereoCalibration
from effcli.detect_stream.sources.pipe_source import PipeSource

RAMP_16 = np.arange(0, 65536, 512, dtype=np.uint16).reshape(8, 16)


def save_pair(folder: Path, name: str, image: Image.Image) -> tuple[Path, Path]:
    sides = folder / "left", folder / "right"
    for side in sides:
        side.mkdir(exist_ok=True)
        image.save(side / name)
    return sides


def test_hidden_files_are_no_frames_and_others_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for n in (10, 2):
        left, right = save_pair(tmp_path, f"{n}.webp", Image.new("RGB", (8, 8)))
    (left / "._2.webp").write_bytes(b"x")
    (left / "times.txt").write_text("0\n")
    found = paired_pictures(left, right)
    assert [(pair.left.name, pair.right.name) for pair in found] == [("2.webp",) * 2, ("10.webp",) * 2]
    assert caplog.messages == [f"{left}: left out: 1 .txt"]


def test_16_bit_grey_is_scaled_in_files_and_pipes(tmp_path: Path) -> None:
    left, right = save_pair(tmp_path, "0.png", Image.fromarray(RAMP_16))
    frame = read_pair(left / "0.png", right / "0.png")
    expected = np.repeat((RAMP_16 >> 8).astype(np.uint8)[..., None], 3, 2)
    assert np.array_equal(frame.left, expected) and np.array_equal(frame.right, expected)
    data = (left / "0.png").read_bytes()
    header = json.dumps({"left_bytes": len(data), "right_bytes": len(data)}).encode() + b"\n"
    calibration = StereoCalibration(np.eye(3, 4), np.eye(3, 4))
    (arrival,) = PipeSource(io.BytesIO(header + data + data), calibration, None).frames()
    assert arrival.frame is not None and np.array_equal(arrival.frame.left, expected)


def test_a_damaged_picture_is_named(tmp_path: Path) -> None:
    left, right = save_pair(tmp_path, "0.png", Image.new("RGB", (8, 8)))
    (right / "0.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"right/0\.png: is empty"):
        read_pair(left / "0.png", right / "0.png")
