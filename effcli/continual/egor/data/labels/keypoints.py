"""Lines of YOLO's pose labels: a box, and keypoints of two or three numbers each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from effcli.core.errors import InputError

_BOX = 5
"""Numbers before the keypoints: of the class and of the box."""

_MARGIN = 0.1
"""Share of a box's sides by which keypoints may be outside of it."""


def keypoint_numbers(content: Mapping[str, Any], place: str) -> int | None:
    """How many numbers follow a box, by ``kpt_shape`` in a ``data.yaml``; None where there is none.

    Raises:
        InputError: it is not a number of keypoints and 2 or 3 numbers for each.
    """
    shape = content.get("kpt_shape")
    if shape is None:
        return None
    words = [str(one) for one in shape] if isinstance(shape, list) else []
    if len(words) != 2 or not words[0].isdecimal() or words[1] not in ("2", "3"):
        raise InputError(f"kpt_shape is {shape}, not [keypoints, 2 or 3]", place=place)
    return int(words[0]) * int(words[1])


def seem_keypoints(lines: Sequence[Sequence[float]]) -> bool:
    """Whether lines that might be polygons are boxes with keypoints.

    They are when all have equally many numbers and, for 2 or 3 numbers per keypoint, nearly all keypoints but those at
    (0, 0) lie inside the box that the first numbers are.

    Args:
        lines: the numbers of each, that of the class first.
    """
    n = {len(line) for line in lines}
    if len(n) != 1 or len(lines) < 2 or (n_more := n.pop() - _BOX) < 4:
        return False
    return any(
        n_more % width == 0 and sum(_are_inside(line, width) for line in lines) >= 0.9 * len(lines)
        for width in (2, 3)
    )


def _are_inside(line: Sequence[float], width: int) -> bool:
    x, y, *sides = line[1:_BOX]
    points = [
        (a, b) for a, b in zip(line[_BOX::width], line[_BOX + 1 :: width], strict=False) if (a, b) != (0, 0)
    ]
    reach = [(0.5 + _MARGIN) * side for side in sides]
    return min(sides) > 0 and all(abs(a - x) <= reach[0] and abs(b - y) <= reach[1] for a, b in points)
