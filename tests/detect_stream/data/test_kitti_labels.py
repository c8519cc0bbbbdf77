"""Label files: what is refused or said."""

from __future__ import annotations

from pathlib import Path

import pytest

from effcli.core.errors import InputError
from effcli.detect_stream.data.kitti_labels import read_tracking_labels
from effcli.detect_stream.data.kitti_tracking import KittiSequence, write_sequence
from effcli.detect_stream.data.synthetic_drives import Drive

CAR = "0 1 Car 0 0 -10 10 10 50 40 1.5 1.6 4 2 1.6 20 0"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (CAR.replace(" 20 0", " nan 0"), r"0000\.txt:2: holds nan"),
        (CAR.replace("1.5 1.6 4", "0 0 0"), r"0000\.txt:2: a Car of height, width and length 0 0 0"),
        (CAR.replace("1.5 1.6 4", "-1 -1 -1"), "a Car of height, width and length -1 -1 -1"),
        (CAR.replace("Car", "car"), "'car' is none of KITTI's kinds"),
    ],
)
def test_labels_of_which_nothing_right_could_be_learned_are_refused(
    line: str, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "0000.txt"
    file.write_text(f"{CAR}\n{line}\n")
    with pytest.raises(InputError, match=message):
        read_tracking_labels(file)


def test_kinds_that_kitti_does_not_have_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "0000.txt"
    dont_care = "0 -1 DontCare -1 -1 -10 1 1 5 5 -1 -1 -1 -1000 -1000 -1000 -10"
    file.write_text(f"{CAR}\n{dont_care}\n{CAR.replace('Car', 'Bus')}\n{CAR.replace('Car', 'Bus')}\n")
    assert read_tracking_labels(file)[0].kinds == ("Car", "DontCare", "Bus", "Bus")
    assert "nothing is learned from 2 Bus: KITTI has no such kinds" in caplog.text


def test_labels_of_other_frames_than_the_pictures_are_refused(tmp_path: Path) -> None:
    list(write_sequence(tmp_path, "0000", Drive(5, n_frames=3)))
    (tmp_path / "training/label_02/0000.txt").write_text("49" + CAR[1:] + "\n")
    with pytest.raises(InputError, match=r"0000\.txt: is of frames 49 to 49, the pictures are 0 to 2"):
        KittiSequence(tmp_path, "0000")
