"""``calib.txt`` of Middlebury and ETH3D: ``cam0=[f 0 cx; 0 f cy; 0 0 1]``, ``doffs``, ``baseline`` in millimetres."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from effcli.core.errors import InputError
from effcli.detect_stream.data.stereo_calibration import MOST_COLUMNS_APART_PX, StereoCalibration


def is_middlebury(text: str) -> bool:
    """Whether a file has this form."""
    return any(line.strip().startswith("cam0=") for line in text.splitlines())


def parse_middlebury(text: str, path: Path) -> StereoCalibration:
    """The pair, with the size of its pictures.

    Raises:
        InputError: something is missing or not a number.
    """
    lines = (line.partition("=") for line in text.splitlines() if "=" in line)
    values = {key.strip(): value.strip() for key, _, value in lines}
    missing = [key for key in ("cam0", "cam1", "baseline", "width", "height") if key not in values]
    if missing:
        raise InputError(f"has no {missing[0]}", place=str(path))
    left, right = (_camera(values[key], key, path) for key in ("cam0", "cam1"))
    try:
        baseline_m = float(values["baseline"]) / 1000
        size = int(values["height"]), int(values["width"])
        offset_px = float(values.get("doffs", 0))
    except ValueError as error:
        raise InputError(f"not a number: {error}", place=str(path)) from None
    if abs(offset_px) > MOST_COLUMNS_APART_PX:
        raise InputError(
            f"doffs is {offset_px:g}: the principal points of the cameras are that many pixels apart",
            place=str(path),
            hint="shift the right pictures by that many columns to the left, give cam1 the cx of cam0, and "
            "write doffs=0",
        )
    return pair_of(left, right, baseline_m, size)


def pair_of(
    left: np.ndarray, right: np.ndarray, baseline_m: float, size: tuple[int, int] | None = None
) -> StereoCalibration:
    """Of two 3x3 camera matrices and the metres from the left camera to the right one."""
    projections = [np.hstack([matrix, np.zeros((3, 1))]) for matrix in (left, right)]
    projections[1][0, 3] = -right[0, 0] * baseline_m
    return StereoCalibration(projections[0], projections[1], size=size)


def _camera(text: str, key: str, path: Path) -> np.ndarray:
    try:
        matrix = np.array([float(word) for word in text.strip("[] ").replace(";", " ").split()])
    except ValueError:
        matrix = np.zeros(0)
    if len(matrix) != 9 or not np.isfinite(matrix).all():
        raise InputError(f"{key} is not a 3x3 matrix", place=str(path))
    return matrix.reshape(3, 3)
