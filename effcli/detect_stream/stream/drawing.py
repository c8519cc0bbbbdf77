"""Pictures of a stream: boxes on the left image, and a bird's-eye view beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from effcli.detect_stream.data.boxes3d import NEAR_M, corners, ground_to_camera, project
from effcli.detect_stream.data.frame_objects import FrameObjects
from effcli.detect_stream.data.stereo_calibration import StereoCalibration

COLOURS = {"Car": (255, 96, 64), "Pedestrian": (255, 208, 0), "Cyclist": (64, 208, 255)}
WIDTH = 832
_TRUTH = (235, 235, 235)
_SIDE_M, _AHEAD_M = 20.0, 42.0
_EDGES = ((0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7))


def draw(
    left: np.ndarray,
    calibration: StereoCalibration,
    found: FrameObjects,
    truth: FrameObjects | None,
    caption: str,
) -> Image.Image:
    """One picture.

    Args:
        left: uint8 ``[H, W, 3]``.
        calibration: for its pixels.
        found: what was known at its moment.
        truth: labels, thin and white; None where there are none.
        caption: a line at the top.
    """
    if truth is not None:  # these are parts of the picture, without a place in the world
        truth = truth.pick(np.array([kind != "DontCare" for kind in truth.kinds], bool))
    factor = WIDTH / left.shape[1]
    height = round(left.shape[0] * factor)
    image = Image.fromarray(left).resize((WIDTH, height), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(image)
    projection = calibration.scaled(factor).left
    if truth is not None:
        _draw_boxes(pen, truth, projection, _TRUTH, 1)
    for kind, colour in COLOURS.items():
        mine = found.pick(np.array([one == kind for one in found.kinds], bool))
        _draw_boxes(pen, mine, projection, colour, 2)
    pen.text((6, 4), caption, fill=(255, 255, 255), stroke_width=1, stroke_fill=(0, 0, 0))
    above = _from_above(found, truth, max(height, 200))
    canvas = Image.new("RGB", (WIDTH + above.width, max(height, above.height)), (24, 26, 30))
    canvas.paste(image, (0, 0))
    canvas.paste(above, (WIDTH, 0))
    return canvas


def _draw_boxes(
    pen: ImageDraw.ImageDraw,
    objects: FrameObjects,
    projection: np.ndarray,
    colour: tuple[int, int, int],
    width: int,
) -> None:
    for points in ground_to_camera(corners(objects.boxes)):
        for a, b in _EDGES:
            near, far = sorted((points[a], points[b]), key=lambda point: float(point[2]))
            if far[2] < NEAR_M:
                continue
            if near[2] < NEAR_M:
                near = near + (far - near) * (NEAR_M - near[2]) / (far[2] - near[2])
            ends = project(np.stack([near, far]), projection)
            if np.abs(ends).max() < 4 * WIDTH:
                pen.line([(float(x), float(y)) for x, y in ends], fill=colour, width=width)


def _from_above(found: FrameObjects, truth: FrameObjects | None, height: int) -> Image.Image:
    """The ground before the cameras, which are at the bottom."""
    scale = height / _AHEAD_M
    width = round(2 * _SIDE_M * scale)
    image = Image.new("RGB", (width, height), (24, 26, 30))
    pen = ImageDraw.Draw(image)
    for metres in range(10, int(_AHEAD_M), 10):
        y = height - metres * scale
        pen.line([(0, y), (width, y)], fill=(56, 60, 68))
        pen.text((2, y + 1), f"{metres} m", fill=(120, 126, 136))
    if truth is not None:
        for shape in corners(truth.boxes)[:, :4]:
            pen.polygon(_ground_points(shape, scale, width, height), outline=_TRUTH)
    for kind, shape in zip(found.kinds, corners(found.boxes)[:, :4], strict=True):
        points = _ground_points(shape, scale, width, height)
        pen.polygon(points, outline=COLOURS[kind], width=2)
        front = [(points[0][i] + points[1][i]) / 2 for i in (0, 1)]
        middle = [sum(point[i] for point in points) / 4 for i in (0, 1)]
        pen.line([(middle[0], middle[1]), (front[0], front[1])], fill=COLOURS[kind], width=2)
    pen.polygon(
        [(width / 2 - 4, height), (width / 2 + 4, height), (width / 2, height - 9)], fill=(160, 200, 160)
    )
    return image


def _ground_points(shape: np.ndarray, scale: float, width: int, height: int) -> list[tuple[float, float]]:
    return [(width / 2 - float(y) * scale, height - float(x) * scale) for x, y, _ in shape]


def draw_depth(
    left: np.ndarray, depth: np.ndarray, depth_range: tuple[float, float], caption: str
) -> Image.Image:
    """A picture, and below it its depth: red is near, blue is far, dark is unknown.

    Args:
        left: uint8 ``[H, W, 3]``.
        depth: metres, 0 where unknown, ``[H, W]``.
        depth_range: nearest and farthest depth that the colours tell apart, metres; they follow its logarithm.
        caption: a line at the top.
    """
    near, far = depth_range
    size = (WIDTH, round(left.shape[0] * WIDTH / left.shape[1]))
    known = depth > 0
    share = np.log(np.where(known, depth, far) / near) / math.log(far / near)
    colours = _colours()[np.clip(np.rint(255 * share), 0, 255).astype(int)]
    colours[~known] = (24, 26, 30)
    below = Image.fromarray(colours).resize(size, Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(below)
    for metres in (2, 5, 10, 20, 40):
        if near <= metres <= far:
            at = round((WIDTH - 40) * math.log(metres / near) / math.log(far / near))
            colour = tuple(_colours()[round(255 * math.log(metres / near) / math.log(far / near))].tolist())
            pen.text((at, size[1] - 14), f"{metres} m", fill=colour, stroke_width=1, stroke_fill=(0, 0, 0))
    above = Image.fromarray(left).resize(size, Image.Resampling.BICUBIC)
    ImageDraw.Draw(above).text((6, 4), caption, fill=(255, 255, 255), stroke_width=1, stroke_fill=(0, 0, 0))
    return stacked([above, below])


@lru_cache(maxsize=1)
def _colours() -> np.ndarray:
    """From red to blue, uint8 ``[256, 3]``."""
    from matplotlib import colormaps

    found: np.ndarray = np.rint(255 * colormaps["turbo_r"](np.arange(256))[:, :3]).astype(np.uint8)
    return found


def stacked(pictures: Sequence[Image.Image]) -> Image.Image:
    """Some pictures below each other."""
    width, height = max(p.width for p in pictures), sum(p.height for p in pictures)
    canvas = Image.new("RGB", (width, height), (24, 26, 30))
    top = 0
    for picture in pictures:
        canvas.paste(picture, (0, top))
        top += picture.height
    return canvas
