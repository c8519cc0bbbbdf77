"""In which form four numbers are a box: the one that a label file should have, or another, which is named."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from effcli.continual.egor.data.labels.labelled_images import BoxForm
from effcli.core.errors import InputError

MOST_WRONG = 0.1
"""The largest share of images or annotations that is left out because something about them is wrong."""

_MEANS = {
    "sizes": "left, top, width, height in pixels",
    "corners": "left, top, right, bottom in pixels",
    "centres": "centre, width, height as shares of the sides of the image",
}
_SHARES = "shares of the sides of the image, 0..1"


_SHAPES: dict[BoxForm, str] = {
    "centres": "centre, width, height",
    "sizes": "left, top, width, height",
    "corners": "left, top, right, bottom",
}
_UNITS = {100: "in percent of the image's sides", 1000: "in thousandths of the image's sides"}
_FEW, _SOME = 10, 20
"""Boxes from which on what all have in common says something of their unit, and from which on it is said."""


def corners_of(
    numbers: NDArray[np.float64], sides: NDArray[np.float64], form: BoxForm
) -> NDArray[np.float64]:
    """Left, top, right and bottom in pixels, ``[N, 4]``, of numbers in a form; ``sides`` are widths and heights."""
    if form == "corners":
        return numbers
    if form == "sizes":
        return np.concatenate([numbers[:, :2], numbers[:, :2] + numbers[:, 2:]], 1)
    half = numbers[:, 2:] / 2
    return np.concatenate([(numbers[:, :2] - half) * sides, (numbers[:, :2] + half) * sides], 1)


def check_form(
    numbers: NDArray[np.float64], sides: NDArray[np.float64], form: BoxForm, place: str
) -> list[str]:
    """Refuse boxes that are mostly outside of their images, and say which form they seem to have.

    Boxes in percent or thousandths of the sides are inside of larger images: all in the upper left. They are refused
    where these have more than four times the pixels, and noted below.

    Args:
        numbers: of all boxes, ``[N, 4]``, at least one.
        sides: width and height of the image of each, ``[N, 2]``.
        form: that of the label file.
        place: of messages.

    Returns:
        What is doubtful.

    Raises:
        InputError: the form is another one.
    """
    if form != "centres" and np.abs(numbers).max() <= 1:
        raise InputError(
            f"its {len(numbers)} boxes seem to be {_SHARES}, not {_MEANS[form]}",
            place=place,
            hint="export the labels in pixels, or as YOLO",
        )
    corners = corners_of(numbers, sides, form)
    most = max(1, MOST_WRONG * len(numbers))
    n_beyond, n_outside = (int(is_wrong(corners, sides).sum()) for is_wrong in (_is_beyond, _is_outside))
    if n_beyond > most and (other := _fitting_form(numbers, sides, form)):
        what = f"{n_beyond} of {len(numbers)} boxes extend beyond their images"
        raise InputError(f"{what}: the numbers seem to be {other}, not {_MEANS[form]}", place=place)
    if n_outside > most:
        what = f"{n_outside} of {len(numbers)} boxes lie outside of their images or are empty"
        raise InputError(what, place=place, hint="check the width and height that the labels give")
    return [] if form == "centres" else _check_unit(numbers, sides, form, place)


def _check_unit(
    numbers: NDArray[np.float64], sides: NDArray[np.float64], form: BoxForm, place: str
) -> list[str]:
    for unit, words in _UNITS.items():
        n_pixels = sides.min(0).prod() / unit**2  # of the smallest image, in squares with sides of ``unit``
        if len(numbers) < _FEW or sides.min() < unit or not _reaches(numbers, form, unit):
            continue
        what = f"all {len(numbers)} boxes are within 0..{unit} of larger images: they seem to be {words}"
        if n_pixels >= 4:
            raise InputError(
                f"{what}, not {_MEANS[form]}", place=place, hint="export the labels in pixels, or as YOLO"
            )
        if n_pixels >= 1.5 and len(numbers) >= _SOME:
            return [f"{what}; they are taken as {_MEANS[form]}"]
    return []


def _reaches(numbers: NDArray[np.float64], form: BoxForm, unit: int) -> bool:
    """Whether boxes in a form are inside of a square with sides of ``unit``, and reach its right and bottom."""
    if form == "centres":
        ends = numbers[:, :2] + numbers[:, 2:] / 2
    else:
        ends = corners_of(numbers, numbers[:, :2], form)[:, 2:]
    furthest = np.percentile(ends, 99, axis=0) if len(ends) >= 100 else ends.max(0)
    return bool((ends.max(0) <= 1.005 * unit).all() and (furthest >= 0.9 * unit).all())


def _fitting_form(numbers: NDArray[np.float64], sides: NDArray[np.float64], form: BoxForm) -> str | None:
    """Another form in which all boxes but one in a hundred are inside of their images."""
    scale = np.tile(sides, 2)
    others: list[tuple[str, NDArray[np.float64], BoxForm]] = [
        (f"{_SHAPES[other]}, {words}", numbers / unit * (1 if other == "centres" else scale), other)
        for unit, words in _UNITS.items()
        for other in _SHAPES
        if _reaches(numbers, other, unit)
    ]
    if form == "centres":
        others += [
            (f"{_MEANS[other]}, divided by its sides", numbers * scale, other)
            for other in _SHAPES
            if other != form
        ]
    others += [
        (_MEANS["corners"], numbers, "corners"),
        (_MEANS["sizes"], numbers, "sizes"),
        (f"{_SHAPES['centres']} in pixels", numbers / scale, "centres"),
    ]
    for name, values, other in others:
        is_same = other == form and values is numbers
        if not is_same and _is_beyond(corners_of(values, sides, other), sides).mean() <= 0.01:
            return name
    return None


def _is_beyond(corners: NDArray[np.float64], sides: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether a box is empty, or extends beyond its image by more than two pixels and a fiftieth of the side."""
    limits = np.concatenate([sides, sides], 1)
    beyond = np.abs(np.clip(corners, 0, limits) - corners) > np.maximum(2, 0.02 * limits)
    return np.logical_or(beyond.any(1), (corners[:, 2:] <= corners[:, :2]).any(1))


def _is_outside(corners: NDArray[np.float64], sides: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether half of a box's area or more is outside of its image, or nothing is in it."""
    clipped = np.clip(corners, 0, np.concatenate([sides, sides], 1))
    inside, whole = ((one[:, 2:] - one[:, :2]) for one in (clipped, corners))
    is_empty = (whole <= 0).any(1) | (inside <= 0).any(1)
    is_mostly_out: NDArray[np.bool_] = np.less(inside.prod(1), 0.5 * whole.prod(1))
    return np.logical_or(is_empty, is_mostly_out)
