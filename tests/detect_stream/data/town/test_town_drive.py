"""Drives through the town: exact disparity and depth, boxes around what they show, poses, cameras of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from effcli.core.errors import UsageError
from effcli.detect_stream.data.boxes3d import cut_to_image, image_boxes_of_corners
from effcli.detect_stream.data.drive_sets import drive_of, parse_synthetic
from effcli.detect_stream.data.kitti_tracking import KittiSequence, write_sequence
from effcli.detect_stream.data.town.drive import TownDrive
from effcli.detect_stream.data.town.optics import Exposure, Eye, picture
from effcli.detect_stream.data.town.rig import HEIGHT, WIDTH, random_rig
from effcli.detect_stream.data.town.road import Road
from effcli.detect_stream.data.town.scene import (
    View,
    centres_of,
    ground_mesh,
    standing_at_origin,
    triangles_of,
)
from effcli.detect_stream.data.town.switches import GROUPS, TownSwitches, parse_town
from effcli.detect_stream.network.config import TINY
from effcli.detect_stream.training.clips import Clips, collate, learnable

SIZE = (HEIGHT, WIDTH)


@pytest.fixture(scope="module")
def drive() -> TownDrive:
    return TownDrive(14, 4, noise=0.0)


def test_names_leave_groups_out() -> None:
    assert parse_town("street") is None
    assert parse_town("town") == TownSwitches()
    assert parse_town("town-optics-camera") == TownSwitches(camera=False, optics=False)
    assert TownSwitches(camera=False, optics=False).name == "town-camera-optics"
    with pytest.raises(UsageError, match="no group 'wheels'"):
        parse_synthetic("synthetic:3:town-wheels")
    name = parse_synthetic("synthetic:3:town+town-shapes+street")
    assert name is not None and name.presets == ("town", "town-shapes", "street")
    assert len(drive_of(1, "town")) == 16 and len(drive_of(1, "street")) == 40


def test_cameras_vary_within_those_of_real_rigs() -> None:
    rigs = [random_rig(True, 16, np.random.default_rng(i)) for i in range(300)]
    focal, baseline = (np.array([getattr(rig, name) for rig in rigs]) for name in ("focal_px", "baseline_m"))
    assert 150 < focal.min() < 190 and 330 < focal.max() < 400
    assert 0.1 < baseline.min() < 0.2 and 0.6 < baseline.max() < 0.85
    near_kitti = (np.abs(focal / 240 - 1) < 0.08) & (np.abs(baseline / 0.533 - 1) < 0.06)
    assert 0.25 < near_kitti.mean() < 0.5
    for name, low, high in (("height_m", 1.05, 1.95), ("pitch", -0.06, 0.06), ("roll", -0.04, 0.04)):
        values = np.stack([getattr(rig, name) for rig in rigs])
        assert low < values.min() and values.max() < high
        assert np.ptp(values, 1).min() > 0  # it shakes
    still = random_rig(False, 4, np.random.default_rng(0))
    np.testing.assert_allclose(
        still.calibration.left, TownDrive(1, 3, TownSwitches(camera=False)).calibration.left
    )


def test_frames_of_the_road_are_right_handed_and_lie_on_it() -> None:
    road = Road(1 / 80, 0.05, 4e-4, 0.004, 0.02, 5.0, 2.0, 0.1)
    forward, up, right = frame = road.frame(12.0, 2.5, 0.7, upright=False)
    np.testing.assert_allclose(frame @ frame.T, np.eye(3), atol=1e-12)
    assert up[1] < -0.99
    here = road.point(np.asarray(12.0), np.asarray(2.5))
    step = 1e-4
    ahead = road.point(
        np.asarray(12.0 + step * np.cos(0.7) / (1 - 2.5 / 80)), np.asarray(2.5 + step * np.sin(0.7))
    )
    assert abs((ahead - here) @ up) < 0.01 * step + 1e-7 and (ahead - here) @ forward > 0.99 * step
    np.testing.assert_allclose(np.cross(right, forward), up)


def test_depth_of_a_sloped_plane_is_exact_with_pitch_and_roll() -> None:
    road = Road(1e-9, 0.06, 0.0, 0.0, 0.03, 5.0, 2.0, 0.0)  # a plane
    scene = triangles_of([standing_at_origin(ground_mesh(road.surface(-10.0, 90.0)))], np.zeros((1, 6)))
    pitch, roll = np.deg2rad(-3), np.deg2rad(2)
    tilt = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
    lean = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    view = View(np.array([0.4, -1.4, 0.0]), tilt @ lean, (240.0, 208.0, 55.0))
    seen = centres_of(scene, view, np.zeros((4, 4), np.float32), SIZE)
    rows, columns = np.nonzero(seen.winner >= 0)
    rays = np.stack([(columns - 208.0) / 240, (rows - 55.0) / 240, np.ones(len(rows))], 1) @ view.turn.T
    normal = np.array([0.03, 1.0, 0.06])  # y = -(0.06 z + 0.03 x)
    depth = -(view.place @ normal) / (rays @ normal)
    assert len(rows) > 20_000
    np.testing.assert_allclose(1 / seen.nearness[rows, columns], depth, rtol=2e-5)


@pytest.mark.parametrize("seed", [14, 15])
def test_the_right_picture_moved_by_disparity_is_the_left_one(seed: int) -> None:
    drive = TownDrive(seed, 4, noise=0.0)
    frame, depth = drive.frame(2), drive.depth(2)
    rows, columns = np.nonzero(depth > 0)
    at = columns - drive.calibration.focal_baseline / depth[rows, columns]
    low = np.floor(at).astype(int)
    inside = (low >= 1) & (low < WIDTH - 2)
    rows, columns, at, low = rows[inside], columns[inside], at[inside], low[inside]
    share = (at - low)[:, None]
    right = frame.right.astype(float)
    moved = (1 - share) * right[rows, low] + share * right[rows, low + 1]
    error = np.abs(moved - frame.left.astype(float)[rows, columns]).mean(1)
    assert np.median(error) < 3
    assert (error < 16).mean() > 0.85  # the rest is hidden from one eye, at an edge, or a mirror


def test_boxes_bound_what_they_show(drive: TownDrive) -> None:
    _, scene, view = drive._light_of_eyes(2)
    seen = centres_of(scene, view, drive._table, SIZE)
    owners = np.where(seen.winner >= 0, scene.owners[seen.winner], -1)
    boxes = image_boxes_of_corners(drive.corners(2), drive.calibration.left)
    cut = cut_to_image(boxes, *SIZE)
    filled = []
    for number in range(len(drive.actors)):
        rows, columns = np.nonzero(owners == number)
        if not len(rows):
            continue
        left, top, right, bottom = boxes[number]
        assert columns.min() >= left - 1 and columns.max() <= right + 1
        assert rows.min() >= top - 1 and rows.max() <= bottom + 1
        if (
            len(rows) > 0.97 * seen.covered[number]
            and (cut[number] == boxes[number]).all()
            and bottom - top > 12
        ):
            filled.append((np.ptp(rows) + 1) / (bottom - top))
    assert filled and np.min(filled) > 0.8, "who is seen whole nearly fills the height of its box"


def test_upright_boxes_have_the_middle_and_heading_of_the_tilted_ones(drive: TownDrive) -> None:
    kinds, boxes = drive.in_camera(1)
    middle = drive.corners(1).mean(1)
    np.testing.assert_allclose(boxes[:, :3], middle[:, [2, 0, 1]] * [1, -1, -1], atol=1e-9)
    assert len(kinds) == len(boxes) == len(drive.actors)


def test_poses_explain_where_parked_cars_go() -> None:
    drive = next(d for d in (TownDrive(i, 8) for i in range(40)) if sum(_is_parked(a) for a in d.actors) > 3)
    worlds = []
    for i in (0, 7):
        pose = drive.pose(i)
        np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-12)
        worlds.append(drive.corners(i) @ pose[:3, :3].T + pose[:3, 3])
    parked = [i for i, actor in enumerate(drive.actors) if _is_parked(actor)]
    np.testing.assert_allclose(worlds[0][parked], worlds[1][parked], atol=1e-9)


def _is_parked(actor: object) -> bool:
    path = actor.path  # type: ignore[attr-defined]
    return bool(np.ptp(path.d) + np.ptp(path.s) == 0)


def test_drives_are_the_same_every_time_and_differ_by_seed(drive: TownDrive) -> None:
    again, other = TownDrive(14, 4, noise=0.0), TownDrive(15, 4, noise=0.0)
    assert (again.frame(3).right == drive.frame(3).right).all()  # whatever was asked for before
    assert (other.frame(3).left != drive.frame(3).left).any()
    assert not np.array_equal(other.calibration.left, drive.calibration.left)


@pytest.mark.parametrize("group", GROUPS)
def test_each_group_can_be_left_out(group: str) -> None:
    one = drive_of(3, f"town-{group}", 3)
    frame = one.frame(1)
    assert frame.left.shape == (128, 416, 3) and one.name == f"town-{group}-3"
    assert (frame.left != drive_of(3, "town", 3).frame(1).left).any()
    if group == "camera":
        assert np.ptp([one.pose(i)[1, 3] for i in range(3)]) == 0


def test_eyes_differ_unless_optics_are_left_out() -> None:
    """The mean of the two eyes: their own gain and colour, which no scene explains."""
    apart = []
    for switches in (TownSwitches(), TownSwitches(optics=False)):
        found = [TownDrive(seed, 2, switches)._eyes for seed in range(20)]
        apart.append(np.mean([np.abs(a.gains - b.gains).max() for a, b in found]))
        assert any(a.quality for a, _ in found) == switches.optics
    assert apart[0] > 2 * apart[1]


@pytest.mark.parametrize("quality", [None, 60])
def test_pictures_have_their_colours_with_and_without_jpeg(quality: int | None) -> None:
    light = np.ones((16, 32, 3), np.float32) * np.array([0.2, 0.4, 0.8], np.float32)
    eye = Eye(np.ones(3), 1.0, 0.0, (0.0, 0.0), quality, np.zeros((0, 5)))
    seen = picture(light, Exposure(1.0, 1.0, 0.0), eye, np.random.default_rng(0))
    assert seen.shape == light.shape and seen.dtype == np.uint8
    np.testing.assert_allclose(seen.mean((0, 1)), 255 * light[0, 0], atol=3)


def test_what_a_detector_does_not_tell_apart_is_neutral() -> None:
    seen = dict.fromkeys(("Car", "Van", "Truck", "Pedestrian", "Cyclist"), 0)
    for seed in range(30):
        for actor in TownDrive(seed, 3).actors:
            seen[actor.kind] += 1
    assert min(seen.values()) > 5 and seen["Car"] > seen["Van"] > seen["Truck"] / 2
    drive = next(d for d in (TownDrive(i, 3) for i in range(40)) if "DontCare" in d.objects(1).kinds)
    objects = drive.objects(1)
    hidden = np.array(objects.kinds) == "DontCare"
    assert (objects.track_ids[hidden] == -1).all() and (objects.track_ids[~hidden] >= 0).all()
    assert "DontCare" not in learnable(objects, TINY, "graded").kinds


def test_a_batch_has_the_cameras_of_each_drive() -> None:
    drives = [TownDrive(14, 4), TownDrive(15, 4)]
    clips = Clips(drives, TINY)
    items = [next(n for n, (k, _) in enumerate(clips.index) if k == number) for number in (0, 1)]
    batch = collate([clips.sample(item) for item in items], [np.eye(3)] * 2, TINY)
    for number, one in enumerate(drives):
        np.testing.assert_allclose(batch.calibrations[number, 0], one.calibration.left, rtol=1e-6)
        np.testing.assert_allclose(batch.calibrations[number, 1], one.calibration.right, rtol=1e-6)


def test_a_written_drive_is_read_back(tmp_path: Path, drive: TownDrive) -> None:
    assert list(write_sequence(tmp_path, "0000", drive)) == list(range(4))
    found = KittiSequence(tmp_path, "0000")
    np.testing.assert_allclose(found.calibration.right, drive.calibration.right, atol=1e-9)
    mine, theirs = drive.objects(3), found.objects(3)
    assert mine.kinds == theirs.kinds
    known = np.array(mine.kinds) != "DontCare"
    np.testing.assert_allclose(theirs.boxes[known, :6], mine.boxes[known, :6], atol=1e-5)
    first, last = found.pose(0), found.pose(3)
    assert first is not None and last is not None
    expected = np.linalg.inv(drive.pose(0)) @ drive.pose(3)
    np.testing.assert_allclose(np.linalg.inv(first) @ last, expected, atol=1e-3)
