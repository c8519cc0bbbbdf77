"""A compiled ray caster for street scenes of textured boxes on textured ground.

One ray a sample, against the ground, the sky and those boxes that can cover the sample's pixel; the colour is looked up
where the ray ends, so two cameras see the same surfaces and disparity is exact. This module imports numba; it is
imported when the first picture is drawn.
"""

# The kernels are typed by numba, from the signature in _compiled.
# mypy: allow-untyped-defs, no-check-untyped-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numba import types

from effcli.detect_stream.data.value_noise import HELPER, noise
from effcli.nn.compiled.numba_threads import compile_cached

N_COLUMNS = 15
"""Of a box: centre x y z, half length, half height, half width, cos and sin of its heading, red, green, blue,
contrast, two offsets of its texture, and its kind."""

STATIC, CAR, PEDESTRIAN, CYCLIST = 0, 1, 2, 3
GROUND_Y = 1.65
"""Height of the cameras above the ground, metres; y points down."""

_ROAD_HALF_M = 5.0
_SAMPLES = 2


@HELPER
def _texture(table, x, y, footprint):
    """Octaves of 8 cm to 1.3 m, those finer than two samples left out: what is far does not flicker."""
    total = 0.0
    wavelength = 0.08
    for octave in range(5):
        weight = min(1.0, max(0.0, wavelength / (2.0 * footprint) - 0.5))
        if weight > 0.0:
            total += (
                weight * noise(table, x / wavelength + 17.3 * octave, y / wavelength + 5.1 * octave) * 0.5
            )
        wavelength *= 2.0
    return total


@HELPER
def _hit(box, ox, oy, oz, dx, dy, dz):
    """Distance along a ray to a box and the face that it meets (0 ends, 1 top, 2 sides); a negative one for a miss."""
    rx, ry, rz = ox - box[0], oy - box[1], oz - box[2]
    cos, sin = box[6], box[7]
    # length is (cos, -sin) in (x, z), width is (sin, cos)
    pa, pb, pc = rx * cos - rz * sin, ry, rx * sin + rz * cos
    da, db, dc = dx * cos - dz * sin, dy, dx * sin + dz * cos
    first, last, face = -1e30, 1e30, 0
    for axis in range(3):
        if axis == 0:
            p, d, half = pa, da, box[3]
        elif axis == 1:
            p, d, half = pb, db, box[4]
        else:
            p, d, half = pc, dc, box[5]
        if abs(d) < 1e-12:
            if abs(p) > half:
                return -1.0, 0
            continue
        near, far = (-half - p) / d, (half - p) / d
        if near > far:
            near, far = far, near
        if near > first:
            first, face = near, axis
        last = min(last, far)
    if first > last or first <= 0.05:
        return -1.0, 0
    return first, face


@HELPER
def _paint(box, face, x, y, z, footprint, table, sun_x, sun_y, sun_z):
    """Brightness factor and how much of the own colour is replaced by dark (windows, wheels), at a point of a box."""
    rx, ry, rz = x - box[0], y - box[1], z - box[2]
    a, b, c = rx * box[6] - rz * box[7], ry, rx * box[7] + rz * box[6]
    if face == 0:
        s, t = c, b
        normal = 1.0 if a > 0 else -1.0
        nx, ny, nz = box[6] * normal, 0.0, -box[7] * normal
    elif face == 1:
        s, t = a, c
        nx, ny, nz = 0.0, -1.0, 0.0
    else:
        s, t = a, b
        normal = 1.0 if c > 0 else -1.0
        nx, ny, nz = box[7] * normal, 0.0, box[6] * normal
    light = 0.55 + 0.45 * max(0.0, nx * sun_x + ny * sun_y + nz * sun_z)
    value = light * (1.0 + box[11] * _texture(table, s + box[12], t + box[13] + 31.0 * face, footprint))
    dark = 0.0
    height = -b / (2.0 * box[4]) + 0.5  # 0 at the ground, 1 at the top
    along = abs(a) / box[3]
    if box[14] == CAR and face != 1:
        if 0.55 < height < 0.9 and (face == 0 or along < 0.8):
            dark = 0.8
        elif height < 0.25 and face == 2 and 0.45 < along < 0.85:
            dark = 0.9
    elif box[14] == PEDESTRIAN and face != 1:
        if height > 0.85:
            dark = -0.6  # a light head
        elif height < 0.45:
            dark = 0.6
    elif box[14] == CYCLIST and face != 1:
        if height < 0.4:
            dark = 0.85 if along > 0.3 else 0.3
        elif height > 0.88:
            dark = -0.5
    elif box[14] == STATIC and face != 1:
        column, row = s * 0.4 - math.floor(s * 0.4), t * 0.35 - math.floor(t * 0.35)
        dark = 0.5 * (column > 0.55 and row > 0.5)
    return value, dark


@HELPER
def _ground_colour(x, z, footprint, table):
    value = 1.0 + 0.55 * _texture(table, x, z, footprint)
    edge = abs(x) - _ROAD_HALF_M
    if edge < 0:
        red, green, blue = 92.0, 92.0, 96.0
        dashed = (z * 0.125 - math.floor(z * 0.125)) < 0.5
        if (abs(x) < 0.12 and dashed) or abs(edge + 0.4) < 0.1:
            red, green, blue = 215.0, 215.0, 205.0
    elif edge < 2.5:
        red, green, blue = 140.0, 134.0, 126.0
    else:
        red, green, blue = 88.0, 108.0, 60.0
    return red * value, green * value, blue * value


def _cast(pose, camera, boxes, windows, table, image, depth, nearest, visible, covered):
    """Draw one camera's picture.

    Args:
        pose: x, y, z of the eye, cos and sin of its yaw, x, y, z towards the sun.
        camera: f, cx, cy in pixels.
        boxes: ``[B, 15]``.
        windows: left, top, right, bottom pixel that a box can cover, ``[B, 4]``.
        table: noise, ``[n, n]``.
        image: result, 0..255, ``[H, W, 3]``.
        depth: result, metres along the camera's axis at pixel centres, 0 for the sky, ``[H, W]``.
        nearest: result, number of the box at pixel centres, -1 for none, ``[H, W]``.
        visible, covered: results, pixels of each box that are seen, and that would be seen of it alone, ``[B]``.
    """
    height, width = depth.shape
    ox, oy, oz, cos, sin = pose[0], pose[1], pose[2], pose[3], pose[4]
    near_boxes = np.empty(boxes.shape[0], np.int64)
    for i in range(height):
        for j in range(width):
            n_near = 0
            for b in range(boxes.shape[0]):
                if windows[b, 0] <= j <= windows[b, 2] and windows[b, 1] <= i <= windows[b, 3]:
                    near_boxes[n_near] = b
                    n_near += 1
            red = green = blue = 0.0
            for sample in range(_SAMPLES * _SAMPLES + 1):
                centre = sample == _SAMPLES * _SAMPLES
                du = dv = 0.0
                if not centre:
                    du = (sample % _SAMPLES + 0.5) / _SAMPLES - 0.5
                    dv = (sample // _SAMPLES + 0.5) / _SAMPLES - 0.5
                right, down = (j + du - camera[1]) / camera[0], (i + dv - camera[2]) / camera[0]
                dx, dy, dz = right * cos + sin, down, cos - right * sin
                best, face, winner = 1e30, 0, -1
                if dy > 1e-9:
                    best = (GROUND_Y - oy) / dy
                for k in range(n_near):
                    t, side = _hit(boxes[near_boxes[k]], ox, oy, oz, dx, dy, dz)
                    if t > 0.0:
                        if centre:
                            covered[near_boxes[k]] += 1
                        if t < best:
                            best, face, winner = t, side, near_boxes[k]
                if centre:
                    nearest[i, j] = winner
                    depth[i, j] = best if best < 1e29 else 0.0
                    if winner >= 0:
                        visible[winner] += 1
                    continue
                if best > 1e29:
                    light = 0.75 - 0.35 * max(-0.6, dy) + 0.1 * noise(table, dx * 20.0, dy * 40.0)
                    red, green, blue = red + 165 * light, green + 190 * light, blue + 225 * light
                    continue
                x, y, z = ox + best * dx, oy + best * dy, oz + best * dz
                footprint = best / camera[0] / _SAMPLES
                if winner < 0:
                    slant = footprint * max(1.0, min(best / GROUND_Y, 60.0) * 0.5)
                    r, g, b_ = _ground_colour(x, z, slant, table)
                    fog = math.exp(-best / 150.0)
                    red, green, blue = (
                        red + r * fog + 150 * (1 - fog),
                        green + g * fog + 165 * (1 - fog),
                        blue + b_ * fog + 185 * (1 - fog),
                    )
                    continue
                box = boxes[winner]
                value, dark = _paint(box, face, x, y, z, footprint, table, pose[5], pose[6], pose[7])
                r, g, b_ = box[8], box[9], box[10]
                if dark > 0:
                    r, g, b_ = r + (25 - r) * dark, g + (28 - g) * dark, b_ + (34 - b_) * dark
                elif dark < 0:
                    r, g, b_ = r + (215 - r) * -dark, g + (180 - g) * -dark, b_ + (155 - b_) * -dark
                red, green, blue = red + r * value, green + g * value, blue + b_ * value
            n = _SAMPLES * _SAMPLES
            image[i, j, 0] = red / n
            image[i, j, 1] = green / n
            image[i, j, 2] = blue / n


@cache
def _compiled() -> Callable[..., None]:
    flat, deep = types.float64[::1], types.float64[:, ::1]
    whole = types.int64[::1]
    signature = types.void(
        flat, flat, deep, types.int64[:, ::1], types.float32[:, ::1],
        types.float32[:, :, ::1], types.float32[:, ::1], types.int64[:, ::1], whole, whole,
    )  # fmt: skip
    return compile_cached(_cast, signature, parallel=False)


def cast(
    pose: np.ndarray,
    camera: np.ndarray,
    boxes: np.ndarray,
    windows: np.ndarray,
    table: np.ndarray,
    size: tuple[int, int],
) -> dict[str, Any]:
    """One camera's picture; the arguments are those of the kernel, ``size`` is height and width.

    Returns:
        ``image`` float32 ``[H, W, 3]`` in about 0..255, ``depth`` ``[H, W]``, ``nearest`` ``[H, W]``, ``visible`` and
        ``covered`` ``[B]``.
    """
    height, width = size
    result = {
        "image": np.zeros((height, width, 3), np.float32),
        "depth": np.zeros((height, width), np.float32),
        "nearest": np.full((height, width), -1, np.int64),
        "visible": np.zeros(len(boxes), np.int64),
        "covered": np.zeros(len(boxes), np.int64),
    }
    _compiled()(pose, camera, boxes, windows, table, *result.values())
    return result
