"""Cameras of labelled sequences: what `train` and `eval` check of them before any work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effcli.core.errors import InputError
from effcli.core.runtime import create_runtime
from effcli.detect_stream.data.calibrations.read_calibration import read_calibration
from effcli.detect_stream.data.kitti_tracking import KittiSequence, write_sequence
from effcli.detect_stream.data.synthetic_drives import Drive
from effcli.detect_stream.evaluation.sequence_evaluation import MeasureSettings, measure
from effcli.detect_stream.network.config import TINY
from effcli.detect_stream.stream.rig_check import check_rigs
from effcli.detect_stream.weights import load_detector

RIGHT = "training/image_03/0000"


@pytest.fixture
def kitti(tmp_path: Path) -> Path:
    list(write_sequence(tmp_path, "0000", Drive(5, n_frames=3)))
    return tmp_path


def change(folder: Path, how: Callable[[np.ndarray], np.ndarray]) -> None:
    for file in folder.iterdir():
        Image.fromarray(how(np.asarray(Image.open(file)))).save(file)


def test_a_rig_as_it_should_be_passes_without_a_word(kitti: Path, caplog: pytest.LogCaptureFixture) -> None:
    check_rigs([KittiSequence(kitti, "0000")], TINY)
    assert caplog.text == ""


def test_swapped_eyes_are_said_once_per_pair_of_cameras(
    kitti: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = kitti / "training"
    for old, new in (("image_02", "x"), ("image_03", "image_02"), ("x", "image_03")):
        (base / old).rename(base / new)
    sequence = KittiSequence(kitti, "0000")
    check_rigs([sequence, sequence], TINY)
    assert caplog.text.count("left and right look swapped") == len(caplog.records) == 1


def test_rows_that_do_not_agree_are_said(kitti: Path, caplog: pytest.LogCaptureFixture) -> None:
    change(kitti / RIGHT, lambda picture: np.roll(picture, 3, 0))
    check_rigs([KittiSequence(kitti, "0000")], TINY)
    assert "do not look rectified: the same points are about 3 rows apart" in caplog.text


def test_one_eye_twice_is_refused(kitti: Path) -> None:
    for file in (kitti / RIGHT).iterdir():
        file.write_bytes((kitti / "training/image_02/0000" / file.name).read_bytes())
    with pytest.raises(InputError, match="left and right are the same picture"):
        check_rigs([KittiSequence(kitti, "0000")], TINY)


def test_a_calibration_of_larger_pictures_is_refused_and_one_of_others_is_said(
    kitti: Path, caplog: pytest.LogCaptureFixture
) -> None:
    known = KittiSequence(kitti, "0000").calibration
    assert caplog.text == ""
    known.for_pictures((128, 290), "rig")  # column 208 of 290: the right part was cut off, or they are others
    assert "rig: by the calibration the principal point is at column 208, row" in caplog.text
    for eye in ("image_02", "image_03"):
        change(kitti / "training" / eye / "0000", lambda picture: picture[::2, ::2])
    with pytest.raises(InputError, match=r"0000: .* column 208, row .* of pictures of 208x64"):
        KittiSequence(kitti, "0000")


def test_a_calibration_with_a_size_is_scaled_for_training_and_measuring(kitti: Path) -> None:
    file = kitti / "training/calib/0000.txt"
    before = KittiSequence(kitti, "0000").calibration
    file.write_text(f"S_rect_02: 832 256\n{file.read_text()}")
    assert KittiSequence(kitti, "0000").calibration.left[0, 0] == pytest.approx(before.left[0, 0] / 2)


def test_a_picture_of_another_size_is_an_error_where_it_is_learned_from_or_measured_on(kitti: Path) -> None:
    for eye in ("image_02", "image_03"):
        file = kitti / "training" / eye / "0000" / "000002.png"
        Image.fromarray(np.asarray(Image.open(file))[:64]).save(file)
    message = r"000002\.png: is 416x64, the first frame 416x128"
    with pytest.raises(InputError, match=message):
        KittiSequence(kitti, "0000").frame(2)
    assert KittiSequence(kitti, "0000", strict=False).frame(2).size == (64, 416)  # a stream leaves it out
    with pytest.raises(InputError, match=f"0000: frame 2 cannot be measured on: .*{message}"):
        measure(
            load_detector("builtin:street-tiny"),
            [KittiSequence(kitti, "0000")],
            MeasureSettings(),
            create_runtime(device="cpu", threads=1),
        )


def test_a_calibration_in_millimetres_is_refused_in_every_form(tmp_path: Path) -> None:
    file = tmp_path / "calib.txt"
    file.write_text("P2: 700 0 208 0 0 700 60 0 0 0 1 0\nP3: 700 0 208 -378000 0 700 60 0 0 0 1 0\n")
    with pytest.raises(InputError, match=r"calib\.txt: the cameras are 540 apart; that cannot be metres"):
        read_calibration(file)
