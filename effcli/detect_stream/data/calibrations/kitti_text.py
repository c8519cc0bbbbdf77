"""Lines of a key and numbers: KITTI's Tracking, Object and raw form, and DrivingStereo's."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

import numpy as np

from effcli.core.errors import InputError
from effcli.detect_stream.data.stereo_calibration import StereoCalibration

Cameras: TypeAlias = tuple[str, str]
COLOUR: Cameras = ("P2", "P3")
GREY: Cameras = ("P0", "P1")

_SIZES = {"P0": 12, "P1": 12, "P2": 12, "P3": 12, "P_rect_101": 12, "P_rect_103": 12}
_SIZES |= {"R_rect": 9, "Tr_velo_cam": 12, "Tr_imu_velo": 12, "R": 9, "T": 3}
_ALIASES = {"R0_rect": "R_rect", "Tr_velo_to_cam": "Tr_velo_cam", "Tr_imu_to_velo": "Tr_imu_velo"}
_ALIASES |= {f"P_rect_0{i}": f"P{i}" for i in range(4)} | {"R_rect_00": "R_rect"}
_DRIVING_STEREO: Cameras = ("P_rect_101", "P_rect_103")
_PICTURE_SIZES = {"P0": "S_rect_00", "P2": "S_rect_02", "P_rect_101": "S_rect_101"}


def parse_kitti(text: str, path: Path, cameras: Cameras = COLOUR) -> StereoCalibration:
    """Keys may end with a colon or not; a space or a tab follows.

    Beside KITTI's raw form ``calib_velo_to_cam.txt`` and ``calib_imu_to_velo.txt`` are read where they are.

    Raises:
        InputError: one of the projections is missing, or a key has another count of numbers than it should.
    """
    found = _keys(text, path)
    if cameras[0] not in found and _DRIVING_STEREO[0] in found:
        cameras = _DRIVING_STEREO
    for key in cameras:
        if key not in found:
            raise InputError(
                f"has no {key}",
                place=str(path),
                hint=f"a line `{cameras[0]}: ` with 12 numbers, and one for {cameras[1]}",
            )
    velo, imu = (_motion_of(found, key) for key in ("Tr_velo_cam", "Tr_imu_velo"))
    if velo is None:
        velo = _motion_file(path.with_name("calib_velo_to_cam.txt"))
    if imu is None:
        imu = _motion_file(path.with_name("calib_imu_to_velo.txt"))
    return StereoCalibration(
        found[cameras[0]].reshape(3, 4),
        found[cameras[1]].reshape(3, 4),
        _square(found.get("R_rect")) @ (np.eye(4) if velo is None else velo),
        np.eye(4) if imu is None else imu,
        _picture_size(text, _PICTURE_SIZES.get(cameras[0], ""), path),
    )


def _keys(text: str, path: Path) -> dict[str, np.ndarray]:
    found = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split(maxsplit=1)
        if not words:
            continue
        name = words[0].rstrip(":")
        key = _ALIASES.get(name, name)
        if key in _SIZES:
            found[key] = _numbers(words[1] if len(words) > 1 else "", key, f"{path}:{number}")
    return found


def _motion_of(found: dict[str, np.ndarray], key: str) -> np.ndarray | None:
    return _square(found[key]) if key in found else None


def _motion_file(path: Path) -> np.ndarray | None:
    """4x4 of R and T of one of KITTI's raw files; None where it is not there."""
    if not path.is_file():
        return None
    found = _keys(path.read_text(encoding="utf-8"), path)
    if not {"R", "T"} <= found.keys():
        raise InputError("has no R and T", place=str(path))
    motion = _square(found["R"])
    motion[:3, 3] = found["T"]
    return motion


def _picture_size(text: str, key: str, path: Path) -> tuple[int, int] | None:
    for line in text.splitlines():
        words = line.replace(":", " ").split()
        if words[:1] == [key] and len(words) == 3:
            try:
                width, height = (round(float(word)) for word in words[1:])
            except (ValueError, OverflowError):
                raise InputError(f"{key} is not the width and height of pictures", place=str(path)) from None
            return height, width
    return None


def _numbers(text: str, key: str, place: str) -> np.ndarray:
    try:
        values = np.array([float(word) for word in text.split()])
    except ValueError:
        raise InputError(f"{key} holds something that is not a number", place=place) from None
    if len(values) != _SIZES[key] or not np.isfinite(values).all():
        raise InputError(f"{key} has {len(values)} numbers, not {_SIZES[key]} finite ones", place=place)
    return values


def _square(values: np.ndarray | None) -> np.ndarray:
    """A 4x4 matrix of 9 or 12 numbers; identity of none."""
    full = np.eye(4)
    if values is not None:
        rows = values.reshape(3, -1)
        full[:3, : rows.shape[1]] = rows
    return full
