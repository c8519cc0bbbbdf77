"""Eyes that are exchanged, or one that is shown twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from effcli.core.errors import InputError
from effcli.detect_stream.data.calibrations.read_calibration import read_calibration
from effcli.detect_stream.data.stereo_calibration import write_calibration
from effcli.detect_stream.data.stereo_sequence import StereoFrame
from effcli.detect_stream.data.synthetic_drives import Drive
from effcli.detect_stream.network.config import TINY
from effcli.detect_stream.network.frame_fitting import fit_of
from effcli.detect_stream.sources.frame_source import Arrival
from effcli.detect_stream.stream.eye_check import checked_eyes

DRIVE = Drive(5, n_frames=3)
FIT = fit_of((128, 416), DRIVE.calibration, TINY)


def checked(change: Callable[[StereoFrame], StereoFrame]) -> list[Arrival]:
    def arrivals() -> Iterator[Arrival]:
        for i in range(3):
            yield Arrival(i, change(DRIVE.frame(i)))

    return list(checked_eyes(arrivals(), FIT, TINY))


def test_eyes_as_they_should_be_pass_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    assert len(checked(lambda one: one)) == 3
    assert caplog.text == ""


def test_exchanged_eyes_are_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    checked(lambda one: StereoFrame(one.right, one.left))
    assert "left and right look swapped" in caplog.text


def test_pictures_of_two_scenes_are_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    other = Drive(6, n_frames=3).frame(0)
    checked(lambda one: StereoFrame(one.left, np.ascontiguousarray(other.right[:, ::-1])))
    assert "do not seem to show the same scene" in caplog.text


def test_the_same_eye_twice_is_refused_and_nearly_the_same_is_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(InputError, match="frame 0: left and right are the same picture"):
        checked(lambda one: StereoFrame(one.left, one.left))
    checked(lambda one: StereoFrame(one.left, np.clip(one.left.astype(int) + 1, 0, 255).astype(np.uint8)))
    assert "one camera shown twice" in caplog.text


def test_pictures_without_texture_cannot_be_compared_which_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert len(checked(lambda one: StereoFrame(np.zeros_like(one.left), np.zeros_like(one.left)))) == 3
    assert "could not be compared: the first 3 frames have 0 places" in caplog.text
    assert len(caplog.records) == 1


def test_exchanged_projections_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "calib.txt"
    write_calibration(file, DRIVE.calibration)
    text = file.read_text()
    assert read_calibration(file).focal_baseline > 0
    file.write_text(text.replace("P2:", "P9:").replace("P3:", "P2:").replace("P9:", "P3:"))
    with pytest.raises(InputError, match=r"calib\.txt: the right camera is .* m to the left"):
        read_calibration(file)
