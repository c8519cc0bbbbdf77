"""The compiled loops behind :mod:`effcli.continual.egor.composition`."""

# The kernels are typed by numba, from the signatures that they are compiled for.
# mypy: allow-untyped-defs, no-check-untyped-defs

from __future__ import annotations

import numpy as np


def first_free(chances, width, height, wide, high, taken, most_of_other, most_of_own, place):
    """The first place that leaves the others visible; sides count both end pixels.

    Half of the chances put the left top corner into the left 60 % and the upper 40 %, the others the right bottom one
    into the right 60 % and the lower 40 %.

    Args:
        chances: of each place, from 0 to 1, float64 ``[2, N]``.
        width: of what is pasted, a whole number.
        height: of it.
        wide: of the image.
        high: of it.
        taken: boxes, float64 ``[G, 4]``.
        most_of_other: share of another box that may be covered.
        most_of_own: share of this one that others may cover.
        place: result, left and top, float64 ``[2]``; NaN where none fits.
    """
    own = most_of_own * ((width + 1) * (height + 1))
    n = chances.shape[1]
    for i in range(n):
        x, y = chances[0, i], chances[1, i]
        if i < n // 2:
            left, top = np.rint(0.6 * wide * x), np.rint(0.4 * high * y)
        else:
            left = np.rint(wide * (0.4 + 0.6 * x) - width)
            top = np.rint(high * (0.6 + 0.4 * y) - height)
        fits = True
        for box in taken:
            across = min(left + width, box[2]) - max(left, box[0]) + 1
            down = min(top + height, box[3]) - max(top, box[1]) + 1
            other = most_of_other * ((box[2] - box[0] + 1) * (box[3] - box[1] + 1))
            if max(across, 0.0) * max(down, 0.0) > min(other, own):
                fits = False
                break
        if fits:
            place[0], place[1] = left, top
            return
    place[:] = np.nan


def blend(under, over, share):
    """``share * under + (1 - share) * over`` in place of ``under``, uint8 ``[3, h, w]`` both, rounded to even."""
    a, b = np.float32(share), np.float32(1 - share)
    for c in range(under.shape[0]):
        for i in range(under.shape[1]):
            for j in range(under.shape[2]):
                under[c, i, j] = np.uint8(
                    np.rint(a * np.float32(under[c, i, j]) + b * np.float32(over[c, i, j]))
                )
