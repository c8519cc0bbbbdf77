"""Layouts of data sets and rigs: the same three frames in each are the same stream."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effcli.core.errors import InputError, UsageError
from effcli.detect_stream.data.calibrations.read_calibration import read_calibration
from effcli.detect_stream.data.gps_poses import oxts_row
from effcli.detect_stream.data.kitti_labels import object_lines
from effcli.detect_stream.data.kitti_tracking import KittiSequence, write_sequence
from effcli.detect_stream.data.sequence_layouts import open_sequence
from effcli.detect_stream.data.stereo_calibration import write_calibration
from effcli.detect_stream.data.stereo_sequence import StereoSequence
from effcli.detect_stream.data.synthetic_drives import Drive
from effcli.detect_stream.sources.frame_source import SequenceSource, of_one_size
from effcli.detect_stream.sources.open_source import SourceName, open_source
from tests.detect_stream.data.test_calibrations import FORMS

DRIVE = Drive(3, n_frames=3)
FRAMES = [DRIVE.frame(i) for i in range(3)]


def save_eyes(left: Path, right: Path, names: tuple[str, str] = ("{:06d}.png", "{:06d}.png")) -> None:
    for folder, eye, name in zip((left, right), ("left", "right"), names, strict=True):
        folder.mkdir(parents=True)
        for i, frame in enumerate(FRAMES):
            Image.fromarray(getattr(frame, eye)).save(folder / name.format(i + 7), quality=95)


def plain(root: Path) -> Path:
    save_eyes(root / "left", root / "right")
    write_calibration(root / "calib.txt", DRIVE.calibration)
    return root


def raw(root: Path) -> Path:
    drive = root / "2011_09_26" / "2011_09_26_drive_0001_sync"
    save_eyes(drive / "image_02/data", drive / "image_03/data")
    for name, text in FORMS["raw"].items():
        (drive.parent / name).write_text(text)
    (drive / "image_02/timestamps.txt").write_text("".join(f"2011-09-26 13:02:2{i}.5\n" for i in (1, 2, 4)))
    return drive


def grey(root: Path) -> Path:
    save_eyes(root / "image_00", root / "image_01")
    write_calibration(root / "calib.txt", DRIVE.calibration)
    text = (root / "calib.txt").read_text()
    (root / "calib.txt").write_text(text.replace("P1:", "P9:").replace("P3:", "P1:"))
    return root


def vkitti(root: Path) -> Path:
    eyes = root / "frames/rgb"
    save_eyes(eyes / "Camera_0", eyes / "Camera_1", ("rgb_{:05d}.jpg", "rgb_{:05d}.jpg"))
    for name, text in FORMS["vkitti"].items():
        (root / name).write_text(text)
    return root


def argoverse(root: Path) -> Path:
    sides = tuple(f"stereo_front_{side}_rect" for side in ("left", "right"))
    names = (f"{sides[0]}_{{:06d}}.jpg", f"{sides[1]}_{{:06d}}.jpg")
    save_eyes(root / sides[0], root / sides[1], names)
    (root / "vehicle_calibration_stereo_info.json").write_text(next(iter(FORMS["argoverse"].values())))
    return root


@pytest.mark.parametrize("layout", [plain, raw, grey, vkitti, argoverse])
def test_layouts(tmp_path: Path, layout: Callable[[Path], Path]) -> None:
    found: StereoSequence = open_sequence(layout(tmp_path), None)
    arrivals = list(SequenceSource(found).frames())
    assert [one.number for one in arrivals] == [7, 8, 9]
    assert [one.time_s for one in arrivals] == pytest.approx([0, 1, 3] if layout is raw else [0, 0.1, 0.2])
    for arrival, frame in zip(arrivals, FRAMES, strict=True):
        assert arrival.frame is not None
        error = np.abs(arrival.frame.right.astype(float) - frame.right).mean()
        assert error < 8 if layout in (vkitti, argoverse) else error == 0
    assert found.calibration.focal_baseline > 0


def test_a_scene_of_two_files_and_a_frame_of_kitti_object(tmp_path: Path) -> None:
    scene, kitti = tmp_path / "delivery_area", tmp_path / "kitti"
    for file, name in ((scene / "im0.png", "left"), (scene / "im1.png", "right")):
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(getattr(FRAMES[0], name)).save(file)
    (scene / "calib.txt").write_text(FORMS["middlebury"]["calib.txt"])
    assert len(open_sequence(scene, None)) == 1
    base = kitti / "training"
    save_eyes(base / "image_2", base / "image_3")
    for folder in ("calib", "label_2"):
        (base / folder).mkdir()
    write_calibration(base / "calib/000008.txt", DRIVE.calibration)
    (base / "label_2/000008.txt").write_text("\n".join(object_lines(DRIVE.objects(1))) + "\n")
    found = open_sequence(kitti / "000008", None)
    assert np.array_equal(found.frame(0).left, FRAMES[1].left) and found.has_labels
    assert found.objects(0).kinds == DRIVE.objects(1).kinds
    with pytest.raises(UsageError, match="its pictures are not a stream"):
        open_sequence(kitti, None)


def test_one_side_missing_damaged_or_resized_costs_its_frame(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain(tmp_path)
    (tmp_path / "right/000008.png").unlink()
    (tmp_path / "left/000007.png").write_bytes(b"")
    arrivals = list(SequenceSource(open_sequence(tmp_path, None)).frames())
    assert [one.frame is None for one in arrivals] == [True, True, False]
    assert "its right picture is missing" in (arrivals[1].damage or "")
    assert "left has 3 pictures and right 2; frames without one of them are left out: 8" in caplog.text
    for file in (tmp_path / "right").iterdir():
        file.rename(file.with_name(f"1{file.name}"))
    with pytest.raises(InputError, match="not in both"):
        open_sequence(tmp_path, None)


def test_another_size_of_the_same_shape_is_scaled_and_of_another_shape_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain(tmp_path)
    for number, size in ((8, (208, 64)), (9, (300, 64))):
        for side in ("left", "right"):
            file = tmp_path / side / f"{number:06d}.png"
            Image.open(file).resize(size).save(file)
    arrivals = list(of_one_size(SequenceSource(open_sequence(tmp_path, None)).frames(), (128, 416)))
    assert [None if one.frame is None else one.frame.size for one in arrivals] == [(128, 416)] * 2 + [None]
    assert arrivals[2].damage == "is 300x64, the first frame 416x128"
    assert caplog.text.count("are 208x64, the first frame 416x128: they are scaled to it") == 1


def test_both_eyes_side_by_side(tmp_path: Path) -> None:
    write_calibration(tmp_path / "calib.txt", DRIVE.calibration)
    (tmp_path / "both").mkdir()
    for i, frame in enumerate(FRAMES):
        both = Image.fromarray(np.concatenate([frame.left, frame.right], 1))
        both.save(tmp_path / f"both/{i}.png")
    for source, n in (("both", 3), ("both/1.png", 1)):
        name = SourceName(str(tmp_path / source), calibration=str(tmp_path / "calib.txt"), side_by_side=True)
        arrivals = list(open_source(name, None).frames())  # type: ignore[arg-type]
        assert len(arrivals) == n
        last = arrivals[-1].frame
        assert last is not None and np.array_equal(last.right, FRAMES[2 if n == 3 else 1].right)
    Image.new("RGB", (9, 4)).save(tmp_path / "both/1.png")
    assert "cannot hold two pictures side by side" in str(next(open_source(name, None).frames()).damage)  # type: ignore[arg-type]


def test_two_pictures_are_a_stream_of_one_frame(tmp_path: Path) -> None:
    plain(tmp_path)
    files = [str(tmp_path / side / "000008.png") for side in ("left", "right")]
    name = SourceName(files[0], files[1], str(tmp_path / "calib.txt"))
    (arrival,) = open_source(name, None).frames()  # type: ignore[arg-type]
    assert arrival.frame is not None and np.array_equal(arrival.frame.left, FRAMES[1].left)


def test_what_lies_beside_the_pictures_and_is_not_read_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    for layout, name in ((vkitti, "bbox.txt"), (argoverse, "per_sweep_annotations_amodal")):
        root = layout(tmp_path / layout.__name__)
        (root / name).touch()
        open_sequence(root, None)
        assert f"{root}: {name} beside the pictures are not read" in caplog.text


def test_poses_of_kitti_raw(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    drive = raw(tmp_path)
    whole, poses = drive / "oxts/data", [DRIVE.pose(i) for i in range(3)]
    whole.mkdir(parents=True)
    calibration = read_calibration(drive.parent / "calib_cam_to_cam.txt")
    for i in (0, 2):
        (whole / f"{i + 7:06d}.txt").write_text(oxts_row(poses[i], calibration) + "\n")
    found = open_sequence(drive, None)
    steps = np.linalg.inv(found.pose(0)) @ found.pose(2)  # type: ignore[arg-type]
    np.testing.assert_allclose(steps, np.linalg.inv(poses[0]) @ poses[2], atol=1e-5)
    assert found.pose(1) is None
    (whole / "000008.txt").write_text("1 2 3\n")
    with pytest.raises(InputError, match=r"000008\.txt: holds 3 numbers, not 30"):
        open_sequence(drive, None)
    (drive.parent / "calib_velo_to_cam.txt").unlink()
    assert open_sequence(drive, None).pose(0) is None
    assert "is not read, because the position of the GPS/IMU is unknown" in caplog.text
    drive.rename(drive.with_name("2011_09_26_drive_0001_extract"))
    with pytest.raises(InputError, match="holds pictures that are not rectified"):
        open_sequence(drive.with_name("2011_09_26_drive_0001_extract"), None)


def test_poses_of_kitti_tracking_may_be_a_file_per_frame(tmp_path: Path) -> None:
    assert len(list(write_sequence(tmp_path, "0000", DRIVE))) == 3
    one_file = tmp_path / "training/oxts/0000.txt"
    expected = KittiSequence(tmp_path, "0000").pose(2)
    rows = one_file.read_text().splitlines()
    one_file.unlink()
    (tmp_path / "training/oxts/0000/data").mkdir(parents=True)
    for i, row in enumerate(rows):
        (tmp_path / f"training/oxts/0000/data/{i:06d}.txt").write_text(row + "\n")
    np.testing.assert_array_equal(KittiSequence(tmp_path, "0000").pose(2), expected)
