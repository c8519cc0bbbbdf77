"""Calibrations of rigs and data sets: one pair, written in each form, is read as the same pair."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from effcli.core.errors import InputError
from effcli.detect_stream.data.calibrations.kitti_text import GREY
from effcli.detect_stream.data.calibrations.read_calibration import read_calibration

F, CX, CY, B, SIZE = 700.0, 600.0, 180.0, 0.5, (376, 1240)
LEFT = np.array([[F, 0, CX, 0], [0, F, CY, 0], [0, 0, 1, 0]])
RIGHT = np.array([[F, 0, CX, -F * B], [0, F, CY, 0], [0, 0, 1, 0]])


def row(matrix: np.ndarray) -> str:
    return " ".join(map(str, matrix.ravel()))


def opencv(left: np.ndarray = LEFT, right: np.ndarray = RIGHT) -> str:
    parts = [
        f"{name}: !!opencv-matrix\n   rows: 3\n   cols: 4\n   dt: d\n   data: [ {row(matrix).replace(' ', ', ')} ]\n"
        for name, matrix in (("P1", left), ("P2", right))
    ]
    return f"%YAML:1.0\n---\nimage_width: {SIZE[1]}\nimage_height: {SIZE[0]}\n" + "".join(parts)


def ros(matrix: np.ndarray, distortion: float = 0.0) -> str:
    return (
        f"image_width: {SIZE[1]}\nimage_height: {SIZE[0]}\ncamera_name: narrow\n"
        f"distortion_coefficients: {{rows: 1, cols: 5, data: [{distortion}, 0, 0, 0, 0]}}\n"
        f"projection_matrix:\n  rows: 3\n  cols: 4\n  data: [{row(matrix).replace(' ', ', ')}]\n"
    )


def argoverse(distortion: float = 0.0) -> str:
    inner: dict[str, object] = {f"focal_length_{axis}_px_": F for axis in "xy"}
    inner["distortion_coefficients_"] = [distortion, 0.0, 0.0]
    inner |= {"focal_center_x_px_": CX, "focal_center_y_px_": CY}
    return json.dumps(
        {
            "camera_data_": [
                {
                    "key": f"stereo_front_{side}_rect",
                    "value": {**inner, "vehicle_SE3_camera_": {"translation": [1.5, y, 1.4]}},
                }
                for side, y in (("left", 0.25), ("right", -0.25))
            ]
        }
    )


FORMS = {
    "kitti": {"calib.txt": f"P2: {row(LEFT)}\nP3: {row(RIGHT)}\n"},
    "tabs": {"calib.txt": f"P2:\t{row(LEFT)}\nP3:\t{row(RIGHT)}\n"},
    "raw": {
        "calib_cam_to_cam.txt": f"calib_time: 09-Jan-2012\nS_rect_02: 1.24e+03 3.76e+02\nR_rect_00: {row(np.eye(3))}\n"
        f"P_rect_02: {row(LEFT)}\nP_rect_03: {row(RIGHT)}\n",
        "calib_velo_to_cam.txt": f"R: {row(np.eye(3))}\nT: 1 2 3\ndelta_f: 0 0\n",
    },
    "drivingstereo": {
        "2018-07-11.txt": f"S_rect_101: 1.24e+03 3.76e+02\nP_rect_101: {row(LEFT)}\nP_rect_103: {row(RIGHT)}\n"
    },
    "middlebury": {
        "calib.txt": "".join(f"cam{i}=[{F} 0 {CX}; 0 {F} {CY}; 0 0 1]\n" for i in (0, 1))
        + f"doffs=0\nbaseline={1000 * B}\nwidth={SIZE[1]}\nheight={SIZE[0]}\nndisp=64\n"
    },
    "opencv": {"extrinsics.yml": opencv()},
    "ros": {"left.yaml": ros(LEFT), "right.yaml": ros(RIGHT)},
    "vkitti": {
        "intrinsic.txt": "frame cameraID K[0,0] K[1,1] K[0,2] K[1,2]\n"
        + "".join(f"{i} {camera} {F} {F} {CX} {CY}\n" for i in (0, 1) for camera in (0, 1)),
        "extrinsic.txt": "frame cameraID r1,1 ...\n"
        + "".join(
            f"{i} {camera} 1 0 0 {3 - camera * B} 0 1 0 7 0 0 1 9 0 0 0 1\n"
            for i in (0, 1)
            for camera in (0, 1)
        ),
    },
    "argoverse": {"vehicle_calibration_stereo_info.json": argoverse()},
}


def written(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder / next(iter(files))


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_pair(tmp_path: Path, form: str) -> None:
    found = read_calibration(written(tmp_path, FORMS[form]))
    np.testing.assert_allclose(found.left, LEFT, atol=1e-9)
    np.testing.assert_allclose(found.right, RIGHT, atol=1e-9)
    assert found.size == (SIZE if form in ("raw", "drivingstereo", "middlebury", "opencv", "ros") else None)
    np.testing.assert_allclose(found.velo_to_camera[:3, 3], [1, 2, 3] if form == "raw" else 0)


def test_either_eye_of_ros_names_the_pair(tmp_path: Path) -> None:
    written(tmp_path, FORMS["ros"])
    np.testing.assert_allclose(read_calibration(tmp_path / "right.yaml").right, RIGHT)
    (tmp_path / "left.yaml").unlink()
    with pytest.raises(InputError, match=r"left\.yaml: is missing"):
        read_calibration(tmp_path / "right.yaml")


def test_grey_cameras_have_their_own_projections(tmp_path: Path) -> None:
    other = RIGHT * [[1, 1, 1, 2], [1, 1, 1, 1], [1, 1, 1, 1]]
    lines = f"P0: {row(LEFT)}\nP1: {row(other)}\nP2: {row(LEFT)}\nP3: {row(RIGHT)}\n"
    found = read_calibration(written(tmp_path, {"calib.txt": lines}), GREY)
    assert found.focal_baseline == pytest.approx(2 * F * B)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.yml", "%YAML:1.0\n---\nK1: [1]\nD1: [0]\n", "has no P1 and P2, but K1, D1"),
        ("a.yml", opencv(right=RIGHT * [[1, 1, 1, 1000], [1, 1, 1, 1], [1, 1, 1, 1]]), "cannot be metres"),
        ("a.yml", "%YAML:1.0\n---\n[\n", "not a YAML file of OpenCV or ROS"),
        ("cam.yaml", ros(LEFT), "the calibration of one camera"),
        ("SN1234.conf", "[LEFT_CAM_HD]\nfx=1\n", "is a ZED file that describes the lenses"),
        ("calib.txt", "[LEFT_CAM_HD]\nfx=1\n", "is a ZED file that describes the lenses"),
        (
            "calib.txt",
            FORMS["middlebury"]["calib.txt"].replace("doffs=0", "doffs=31.2"),
            r"doffs is 31\.2: the principal points",
        ),
        (
            "calib.txt",
            FORMS["middlebury"]["calib.txt"].replace(f"cam1=[{F} 0 {CX}", f"cam1=[{F} 0 600.5"),
            "principal points' columns of the two cameras differ: 600 and 600.5",
        ),
        ("a.json", argoverse(distortion=-0.17), "states lens distortion"),
        ("calib.txt", "cam0=[1 0 0; 0 1 0; 0 0 1]\n", "has no cam1"),
        (
            "calib.txt",
            FORMS["middlebury"]["calib.txt"].replace(f"cam1=[{F} 0 {CX}", f"cam1=[{F} 0 731"),
            "principal points' columns of the two cameras differ: 600 and 731",
        ),
        ("a.json", "{}", "is not a calibration of Argoverse"),
        ("intrinsic.txt", FORMS["vkitti"]["intrinsic.txt"], r"extrinsic\.txt: is missing"),
        ("calib.txt", "P2: 1 2 3\n", r"calib\.txt:1: P2 has 3 numbers, not 12"),
        ("calib.txt", f"P2: {row(LEFT)}\n", "has no P3"),
    ],
)
def test_what_is_not_a_rectified_pair_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_calibration(written(tmp_path, {name: text}))


def test_pictures_of_another_size(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = read_calibration(written(tmp_path, FORMS["raw"]))
    assert found.for_pictures(SIZE, "x") is found
    half = found.for_pictures((188, 620), "drive")
    assert half.focal_baseline == pytest.approx(F * B / 2) and half.size is None
    assert "drive: the pictures are 620x188, the calibration is for 1240x376" in caplog.text
    with pytest.raises(InputError, match="the pictures are 640x480, the calibration is for 1240x376"):
        found.for_pictures((480, 640), "x")


@pytest.mark.parametrize(
    "files",
    [
        {"left.yaml": ros(LEFT, -0.3), "right.yaml": ros(RIGHT)},
        {
            "a.yml": opencv()
            + "D1: !!opencv-matrix\n   rows: 1\n   cols: 2\n   dt: d\n   data: [ -0.3, 0. ]\n"
        },
    ],
)
def test_lenses_that_distort_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, files: dict[str, str]
) -> None:
    read_calibration(written(tmp_path, files))
    assert "the lenses distort; its projections are for the rectified pictures" in caplog.text
    caplog.clear()
    read_calibration(written(tmp_path, FORMS["ros"]))
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("calib_cam_to_cam.txt", "1242", "wide", "S_rect_02 is not the width and height"),
        ("calib_cam_to_cam.txt", "1242", "nan", "S_rect_02 is not the width and height"),
        ("rig.yaml", "DATA", "[a, 0, 0, 0, 0]", "distortion coefficients are not numbers"),
        ("vehicle_calibration.json", "700.0", "1e999", "not finite"),
    ],
)
def test_numbers_that_are_none_are_refused_by_name(
    tmp_path: Path, name: str, old: str, new: str, message: str
) -> None:
    raw = f"S_rect_02: 1242 375\nP_rect_02: {row(LEFT)}\nP_rect_03: {row(RIGHT)}\n"
    text = {"calib_cam_to_cam.txt": raw, "rig.yaml": opencv() + "D1: DATA\n"}.get(name, argoverse())
    text = text if old in text else text.replace(str(LEFT[0, 0]), old)
    file = tmp_path / name
    file.write_text(text.replace(old, new))
    with pytest.raises(InputError, match=message):
        read_calibration(file)
