"""Label files: what is refused or said."""

from __future__ import annotations

from collections.abc import Callable, Iterable
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


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (CAR + " 0.9 7", r"has 19 columns, not 17, or 18 with a score"),
        (CAR.removesuffix(" 0"), r"has 16 columns"),
        (CAR.removesuffix(" 0") + " 90", r"a Car with rotation_y 90"),
        (CAR.replace("1.5 1.6 4", "150 160 400"), "a Car of height, width and length 150 160 400"),
    ],
)
def test_lines_of_another_form_are_refused(line: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "0000.txt"
    file.write_text(f"{CAR}\n{line}\n")
    with pytest.raises(InputError, match=message):
        read_tracking_labels(file)


def rewritten(root: Path, change: Callable[[list[str]], list[str]]) -> None:
    """Change the words of each line of the labels."""
    file = root / "training/label_02/0000.txt"
    lines = [line.split(" ") for line in file.read_text().splitlines()]
    file.write_text("".join(" ".join(change(line)) + "\n" for line in lines))


def moved(words: list[str], numbers: Iterable[float]) -> list[str]:
    """With other values of height, width, length, x, y, z."""
    return words[:10] + [f"{number:.6f}" for number in numbers] + words[16:]


def values(words: list[str]) -> list[float]:
    return [float(word) for word in words[10:16]]


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    list(write_sequence(tmp_path, "0000", Drive(5, n_frames=3)))
    return tmp_path


def test_labels_that_fit_are_taken_without_a_word(drive: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert KittiSequence(drive, "0000").has_labels
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("change", "form"),
    [
        (lambda v: [v[2], v[1], v[0], *v[3:]], "sizes in the order length, width, height"),
        (lambda v: [v[1], v[2], v[0], *v[3:]], "sizes in the order width, length, height"),
        (lambda v: [*v[:4], v[4] - v[0] / 2, v[5]], "y of the centre of the box"),
        (lambda v: [v[1], v[0], *v[2:]], "sizes in the order width, height, length"),
    ],
)
def test_3d_boxes_in_another_form_are_refused_by_what_the_picture_shows(
    drive: Path, change: Callable[[list[float]], list[float]], form: str
) -> None:
    rewritten(drive, lambda words: moved(words, change(values(words))))
    with pytest.raises(InputError, match=f"do not fit its 2D boxes .*{form}"):
        KittiSequence(drive, "0000")


def test_3d_boxes_in_no_known_form_are_a_warning(drive: Path, caplog: pytest.LogCaptureFixture) -> None:
    rewritten(drive, lambda words: moved(words, [*values(words)[:3], 9, 1, 40]))
    KittiSequence(drive, "0000")
    assert "do not fit its 2D boxes" in caplog.text


def test_2d_boxes_that_are_not_given_are_not_compared(drive: Path, caplog: pytest.LogCaptureFixture) -> None:
    rewritten(drive, lambda words: [*words[:6], "0", "0", "0", "0", *words[10:]])
    KittiSequence(drive, "0000")
    assert caplog.text == ""


def test_labels_of_frames_without_pictures_are_said(drive: Path, caplog: pytest.LogCaptureFixture) -> None:
    with (drive / "training/label_02/0000.txt").open("a") as file:
        file.write(f"7{CAR[1:]}\n9{CAR[1:]}\n")
    KittiSequence(drive, "0000")
    assert "labels of 2 frames without pictures are not used: 7 to 9" in caplog.text
