"""Numbers and moments of frames: names, gaps, files of timestamps; and what is published of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effcli.core.errors import InputError
from effcli.detect_stream.data.frame_times import (
    Timeline,
    read_times,
    timeline_by_names,
    timeline_of,
    timeline_of_pictures,
)
from effcli.detect_stream.data.labelled_sequences import Clip
from effcli.detect_stream.data.picture_pairs import PairSequence, folder_pair
from effcli.detect_stream.data.synthetic_drives import Drive
from effcli.detect_stream.sources.frame_source import SequenceSource


def test_numbers_are_those_of_the_names() -> None:
    assert timeline_by_names(["000049", "000050", "000053"]).numbers == (49, 50, 53)
    assert timeline_by_names(["img_2", "img_10"]).numbers == (2, 10)
    assert timeline_by_names(["a", "b"]).numbers == (0, 1)
    assert timeline_by_names(["cam1_7", "cam2_8"]).numbers == (0, 1)  # which number is meant is not known
    gaps = timeline_by_names(["000049", "000050", "000053", "000056"])
    assert gaps.moments(10) == pytest.approx([0, 0.1, 0.4, 0.7]) and gaps.n_missing == 4
    stamps = timeline_by_names(["315967376899927209", "315967376949927209"])
    assert stamps.numbers == (0, 1) and stamps.moments(10) == pytest.approx([0, 0.05])
    assert stamps.fps == pytest.approx(20)
    dated = timeline_by_names(
        [f"2018-07-11-14-48-52_2018-07-11-14-50-0{s}" for s in ("8-769", "8-869", "9-019")]
    )
    assert dated.numbers == (0, 1, 2) and dated.moments(10) == pytest.approx([0, 0.1, 0.25])


def test_files_of_timestamps(tmp_path: Path) -> None:
    file = tmp_path / "timestamps.txt"
    for lines, expected in (
        (["2011-09-26 13:02:25.594360375", "2011-09-26 13:02:25.697882886"], [0, 0.103522511]),
        (["12.5", "1.26e1"], [0, 0.1]),
        (["1305031102175304192", "1305031102275304192"], [0, 0.1]),
    ):
        file.write_text("\n".join(lines) + "\n")
        assert np.array(read_times(file)) - read_times(file)[0] == pytest.approx(expected, abs=1e-8)
    file.write_text("".join(f"{i / 4}\n" for i in range(4)))
    found = timeline_of_pictures(["000001", "000003"], [tmp_path])  # one line for each number from 0
    assert found == Timeline((1, 3), (0.0, 0.5))
    with pytest.raises(InputError, match="has 4 timestamps for 2 frames"):
        timeline_of_pictures(["000001", "000009"], [tmp_path])
    file.write_text("0\nsoon\n")
    with pytest.raises(InputError, match=r"timestamps\.txt:2: 'soon' is not a timestamp"):
        read_times(file)
    file.write_text("1\n1\n")
    with pytest.raises(InputError, match="do not increase"):
        timeline_of_pictures(["0", "1"], [tmp_path])


def test_the_unit_of_a_moment_is_told_by_its_digits_in_files_as_in_names(tmp_path: Path) -> None:
    file = tmp_path / "times.txt"
    for first, step in (
        (1317042145345, 100),
        (1317042145345678, 100_000),
        (1317042145345678901, 100_000_000),
    ):
        stamps = [str(first + step * i) for i in range(3)]
        file.write_text("\n".join(stamps) + "\n")
        for found in (timeline_by_names(stamps), timeline_of_pictures(["0", "1", "2"], [tmp_path])):
            assert found.numbers == (0, 1, 2) and found.moments(10) == pytest.approx([0, 0.1, 0.2])


def test_names_that_are_seconds_are_moments() -> None:
    found = timeline_by_names(["1305031102.875304", "1305031102.975304", "1305031103.075304"])
    assert found.numbers == (0, 1, 2) and found.moments(5) == pytest.approx([0, 0.1, 0.2])
    assert timeline_by_names(["1305031102_05", "1305031102_06"]).numbers == (
        5,
        6,
    )  # a recording and its frames


@pytest.mark.parametrize("step", ["100", "100000000", "0.0001"])
def test_times_in_another_unit_than_seconds_are_refused(step: str, tmp_path: Path) -> None:
    file = tmp_path / "times.txt"
    file.write_text("".join(f"{float(step) * i:.6f}\n" for i in range(3)))
    with pytest.raises(InputError, match=r"times\.txt: its frames are .* s apart, read as seconds"):
        timeline_of_pictures(["0", "1", "2"], [tmp_path])


def made_pair(folder: Path, names: list[str]) -> PairSequence:
    for side in ("left", "right"):
        (folder / side).mkdir()
        for name in names:
            Image.new("RGB", (8, 8)).save(folder / side / f"{name}.png")
    return folder_pair(folder / "left", folder / "right", Drive(1).calibration)


def test_a_folder_is_a_source_with_its_numbers_and_moments(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pair = made_pair(tmp_path, ["000049", "000050", "000053"])
    arrivals = list(SequenceSource(pair).frames())
    assert [one.number for one in arrivals] == [49, 50, 53]
    assert [one.time_s for one in arrivals] == pytest.approx([0, 0.1, 0.4])
    assert "2 frames are missing between 49 and 53" in caplog.text
    assert timeline_of(Clip(pair, 1, 2)).numbers == (50, 53)
    (tmp_path / "timestamps.txt").write_text("5\n6\n9\n")
    source = SequenceSource(folder_pair(tmp_path / "left", tmp_path / "right", pair.calibration), 10)
    assert [one.time_s for one in source.frames()] == [0, 1, 4]
    assert "its timestamps say 0.5 frames per second, --fps 10; the timestamps are used" in caplog.text
