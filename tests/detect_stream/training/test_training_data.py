"""What is said of labelled folders of a rig: no LiDAR, no track ids, no 2D boxes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from effcli.core.recipe import parse_set
from effcli.core.registry import find_recipe
from effcli.detect_stream.data.kitti_tracking import KittiSequence, write_sequence
from effcli.detect_stream.data.stereo_calibration import write_calibration
from effcli.detect_stream.data.synthetic_drives import Drive
from effcli.detect_stream.recipe import StreamDsgnRecipe
from effcli.detect_stream.training.training_data import training_data


@pytest.fixture
def kitti(tmp_path: Path) -> Path:
    assert len(list(write_sequence(tmp_path, "0000", Drive(1, 4, "crowded")))) == 4
    return tmp_path


def opened(folder: Path, *pairs: str) -> None:
    words = [f"data.source={folder}", *pairs]
    recipe = find_recipe("detect-stream", "fine-tune", [parse_set(word) for word in words])
    assert isinstance(recipe, StreamDsgnRecipe)
    training_data(recipe)


def test_the_recipe_learns_all_of_a_folder_that_holds_one_sequence(
    kitti: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opened(kitti)
    assert caplog.text == ""


def test_labels_of_a_rig_need_boxes_in_3d_alone(kitti: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    shutil.rmtree(kitti / "training/velodyne")
    whole = KittiSequence(kitti, "0000")
    file = kitti / "training/label_02/0000.txt"
    rows = [line.split() for line in file.read_text().splitlines()]
    kept = [
        " ".join([row[0], "-1", row[2], "0", "0", "-10", *["-1"] * 4, *row[10:]])
        for row in rows
        if row[2] != "DontCare"
    ]
    file.write_text("\n".join(kept) + "\n")
    opened(kitti)
    assert "1 of 1 sequences have no depth (velodyne, depth_02); only their boxes are learned" in caplog.text
    n_learned = sum(row[2] in ("Car", "Van", "Pedestrian", "Cyclist") for row in rows)
    assert f"{n_learned} of {n_learned} labelled objects have no track id (-1)" in caplog.text
    bare = KittiSequence(kitti, "0000")
    for i in range(4):
        known = [n for n, kind in enumerate(whole.objects(i).kinds) if kind != "DontCare"]
        assert np.abs(bare.objects(i).image_boxes - whole.objects(i).image_boxes[known]).max() < 1.0
    caplog.clear()
    opened(kitti, "loss.depth=0", "loss.motion=0")
    assert caplog.text == ""


def test_a_lost_horizon_is_said_as_it_is_of_streams(kitti: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = kitti / "training/calib/0000.txt"
    calibration = KittiSequence(kitti, "0000").calibration
    write_calibration(file, calibration.moved(0, 50))  # the upper 50 rows were cut off
    opened(kitti, f"eval.data={kitti}")
    assert caplog.text.count("the horizon, by the calibration, is at row") == 1
