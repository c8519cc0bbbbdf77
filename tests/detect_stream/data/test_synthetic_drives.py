"""Synthetic drives: exact disparity, boxes around what they show, poses that explain motion, KITTI's files and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from effcli.core.errors import EffcliError, InputError
from effcli.detect_stream.data.boxes3d import (
    corners,
    from_camera,
    ground_to_camera,
    image_boxes,
    project,
    to_camera,
)
from effcli.detect_stream.data.calibrations.read_calibration import read_calibration
from effcli.detect_stream.data.frame_objects import objects_of
from effcli.detect_stream.data.kitti_labels import read_object_labels, read_tracking_labels, result_lines
from effcli.detect_stream.data.kitti_tracking import KittiSequence, write_sequence
from effcli.detect_stream.data.stereo_calibration import write_calibration
from effcli.detect_stream.data.synthetic_drives import PRESETS, Drive


@pytest.fixture(scope="module")
def drive() -> Drive:
    return Drive(3, 6, noise=0.0)


def test_boxes_come_back_from_the_camera_frame() -> None:
    rng = np.random.default_rng(0)
    boxes = np.concatenate(
        [rng.normal(0, 9, (50, 3)), rng.uniform(0.5, 4, (50, 3)), rng.uniform(-3, 3, (50, 1))], 1
    )
    found = from_camera(*to_camera(boxes))
    np.testing.assert_allclose(found[:, :6], boxes[:, :6], atol=1e-9)
    np.testing.assert_allclose(np.cos(found[:, 6] - boxes[:, 6]), 1, atol=1e-9)


def test_the_right_picture_moved_by_disparity_is_the_left_one(drive: Drive) -> None:
    frame, depth = drive.frame(2), drive.depth(2)
    rows, columns = np.nonzero(depth > 0)
    at = columns - drive.calibration.focal_baseline / depth[rows, columns]
    low = np.floor(at).astype(int)
    inside = (low >= 1) & (low < frame.right.shape[1] - 2)
    rows, columns, at, low = rows[inside], columns[inside], at[inside], low[inside]
    share = (at - low)[:, None]
    right = frame.right.astype(float)
    moved = (1 - share) * right[rows, low] + share * right[rows, low + 1]
    error = np.abs(moved - frame.left.astype(float)[rows, columns]).mean(1)
    assert np.median(error) < 3
    assert (error < 12).mean() > 0.9  # the rest is hidden from one eye, or at an edge


def test_boxes_bound_what_they_show(drive: Drive) -> None:
    from effcli.detect_stream.data import synthetic_drives

    seen: dict[str, np.ndarray] = {}
    original = synthetic_drives.cast  # type: ignore[attr-defined]

    def spy(*args: object) -> dict[str, np.ndarray]:
        result = original(*args)  # type: ignore[arg-type]
        seen.setdefault("nearest", result["nearest"])
        return result

    synthetic_drives.cast = spy  # type: ignore[attr-defined,assignment]
    try:
        fresh = Drive(3, 6, noise=0.0)
        objects = fresh.objects(2)
    finally:
        synthetic_drives.cast = original  # type: ignore[attr-defined]
    assert len(objects) >= 3
    for track, box in zip(objects.track_ids, objects.image_boxes, strict=True):
        rows, columns = np.nonzero(seen["nearest"] == track)
        assert columns.min() >= box[0] - 1 and columns.max() <= box[2] + 1
        assert rows.min() >= box[1] - 1 and rows.max() <= box[3] + 1


def test_poses_explain_where_still_things_go() -> None:
    drive = Drive(11, 8, "turn")
    kinds, first = drive.in_camera(0)
    _, last = drive.in_camera(5)
    still = [
        i
        for i, actor in enumerate(drive._actors)
        if np.ptp(actor.path[:, 0]) + np.ptp(actor.path[:, 1]) < 1e-9
    ]
    assert len(kinds) == len(first)
    assert still, "the seed has a parked car"
    for i in still:
        world = drive.pose(0) @ np.append(ground_to_camera(first[i, :3]), 1)
        again = drive.pose(5) @ np.append(ground_to_camera(last[i, :3]), 1)
        np.testing.assert_allclose(world, again, atol=1e-9)


def test_drives_are_the_same_every_time_and_differ_by_seed(drive: Drive) -> None:
    again, other = Drive(3, 6, noise=0.0), Drive(4, 6, noise=0.0)
    assert (again.frame(4).left == drive.frame(4).left).all()  # whatever was drawn before
    assert (other.frame(4).left != drive.frame(4).left).any()


@pytest.mark.parametrize("preset", list(PRESETS))
def test_presets(preset: str) -> None:
    one = Drive(1, 4, preset)  # type: ignore[arg-type]
    assert one.frame(3).left.shape == (128, 416, 3)
    assert (one.objects(3).boxes[:, 0] < 70).all()


def test_nobody_meets_anybody() -> None:
    drive = Drive(5, 40, "crowded")
    for i in (0, 20, 39):
        _, boxes = drive.in_camera(i)
        distance = np.hypot(*(boxes[:, None, :2] - boxes[None, :, :2]).transpose(2, 0, 1))
        assert distance[~np.eye(len(boxes), dtype=bool)].min() > 0.6


# --- KITTI's files -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, drive: Drive) -> Path:
    root = tmp_path_factory.mktemp("kitti")
    assert list(write_sequence(root, "0000", drive)) == list(range(6))
    return root


def test_a_written_drive_is_read_back(written: Path, drive: Drive) -> None:
    found = KittiSequence(written, "0000")
    assert len(found) == 6 and found.has_labels
    assert (found.frame(3).right == drive.frame(3).right).all()
    np.testing.assert_allclose(found.calibration.left, drive.calibration.left, atol=1e-9)
    mine, theirs = drive.objects(3), found.objects(3)
    assert mine.kinds == theirs.kinds and (mine.track_ids == theirs.track_ids).all()
    np.testing.assert_allclose(theirs.boxes[:, :6], mine.boxes[:, :6], atol=1e-5)
    depth, truth = found.depth(3), drive.depth(3)
    assert depth is not None
    known = depth > 0
    assert known.sum() > 1500
    np.testing.assert_allclose(depth[known], truth[known], rtol=2e-2)


def test_written_poses_give_the_same_motion(written: Path, drive: Drive) -> None:
    found = KittiSequence(written, "0000")
    first, last = found.pose(0), found.pose(5)
    assert first is not None and last is not None
    expected = np.linalg.inv(drive.pose(0)) @ drive.pose(5)
    np.testing.assert_allclose(np.linalg.inv(first) @ last, expected, atol=1e-3)


def test_calibrations_with_and_without_colons(tmp_path: Path, drive: Drive) -> None:
    file = tmp_path / "calib.txt"
    write_calibration(file, drive.calibration)
    plain = file.read_text()
    file.write_text(plain.replace("R_rect ", "R0_rect: ").replace("Tr_velo_cam ", "Tr_velo_to_cam: "))
    np.testing.assert_allclose(read_calibration(file).velo_to_camera, drive.calibration.velo_to_camera)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("P3:", "Px:", "has no P3"),
        ("P2: 2.4", "P2: x", "P2 holds something that is not a number"),
        ("Tr_velo_cam ", "Tr_velo_cam 1 ", "Tr_velo_cam has 13 numbers, not 12"),
    ],
)
def test_malformed_calibrations(tmp_path: Path, drive: Drive, old: str, new: str, message: str) -> None:
    file = tmp_path / "calib.txt"
    write_calibration(file, drive.calibration)
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(InputError, match=message):
        read_calibration(file)


def test_one_camera_is_no_pair(tmp_path: Path, drive: Drive) -> None:
    file = tmp_path / "calib.txt"
    row = "1 0 1 0 0 1 1 0 0 0 1 0"
    file.write_text(f"P2: {row}\nP3: {row}\n")
    with pytest.raises(InputError, match="side by side"):
        read_calibration(file)


def test_a_scaled_and_moved_camera_sees_the_same_points(drive: Drive) -> None:
    point = np.array([1.0, 0.5, 12.0])
    u, v = project(point, drive.calibration.left)
    small = project(point, drive.calibration.scaled(0.5).moved(3, 5).left)
    np.testing.assert_allclose(small, [(u + 0.5) / 2 - 0.5 - 3, (v + 0.5) / 2 - 0.5 - 5])
    flipped = drive.calibration.mirrored(416)
    right = project(point, drive.calibration.right)
    np.testing.assert_allclose(project(point * [-1, 1, 1], flipped.left), [415 - right[0], right[1]])


def test_labels_of_both_benchmarks(tmp_path: Path) -> None:
    boxes = np.array([[12.0, 1.0, -0.8, 3.9, 1.6, 1.5, 0.3], [8.0, -2.0, -0.7, 0.8, 0.6, 1.7, -1.0]])
    objects = objects_of(
        ("Car", "Person_sitting"), boxes, track_ids=np.array([4, 5]), scores=np.array([0.9, 0.3])
    )
    file = tmp_path / "0000.txt"
    file.write_text("\n".join(result_lines(7, objects)))
    found = read_tracking_labels(file)[7]
    np.testing.assert_allclose(found.boxes[:, :6], boxes[:, :6], atol=1e-5)
    assert found.scores.tolist() == [0.9, 0.3] and found.kinds == ("Car", "Person")
    file.write_text("Car 0.00 0 -1.5 1 2 30 40 1.5 1.6 3.9 1.0 1.6 12.0 0.1\n")
    assert read_object_labels(file).kinds == ("Car",)
    file.write_text("0 1 Car 0 0\n")
    with pytest.raises(EffcliError, match="5 columns, not 17"):
        read_tracking_labels(file)
    file.write_text("0 1 Car 0 0 x 1 2 3 4 1 1 1 1 1 1 1\n")
    with pytest.raises(EffcliError, match="not a number"):
        read_tracking_labels(file)


def test_boxes_that_pass_the_camera_are_cut_there() -> None:
    calibration = Drive(3, 3).calibration
    near = np.array([[0.5, 1.5, -0.8, 4.0, 1.6, 1.5, 0.0], [-9.0, 0.0, -0.8, 4.0, 1.6, 1.5, 0.0]])
    found = image_boxes(near, calibration.left)
    assert np.isfinite(found[0]).all() and np.isnan(found[1]).all()
    assert corners(near).shape == (2, 8, 3)
