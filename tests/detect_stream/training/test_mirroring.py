"""Mirrored samples: the depth that the other eye has."""

from __future__ import annotations

import numpy as np

from effcli.detect_stream.data.synthetic_drives import Drive
from effcli.detect_stream.network.config import TINY
from effcli.detect_stream.training.augmentation import mirrored, seen_from_right
from effcli.detect_stream.training.clips import Clips

FOCAL_BASELINE = 120.0


def test_a_near_square_hides_what_is_behind_it() -> None:
    columns = np.arange(200)
    near = (columns >= 90) & (columns < 130)
    depth = np.tile(np.where(near, 5.0, 20.0), (3, 1)).astype(np.float32)  # disparities of 24 and 6
    depth[:, 1::2] = 0  # every other column is known
    found = seen_from_right(depth, FOCAL_BASELINE)[1]
    known = np.flatnonzero(found)
    square = (known >= 66) & (known < 106)
    assert square.sum() == 20 and (found[known[square]] == 5).all()
    assert (found[known[~square]] == 20).all()
    assert not found[106:124].any()  # the left eye does not see what is beside the square there
    assert len(known) > 80


def test_unknown_stays_unknown_and_slopes_stay_whole() -> None:
    assert not seen_from_right(np.zeros((2, 50), np.float32), FOCAL_BASELINE).any()
    wall = np.linspace(30, 5, 200, dtype=np.float32)[None]  # nearer to the right
    found = seen_from_right(wall, FOCAL_BASELINE)[0]
    kept = found[found > 0]
    assert len(kept) > 150 and (np.diff(kept) < 0).all()


def test_the_mirrored_depth_is_that_of_the_mirrored_pictures() -> None:
    sample = Clips([Drive(3, 4, "crowded")], TINY).sample(0)
    twice = mirrored(mirrored(sample))
    assert sample.depth is not None and twice.depth is not None
    both = (twice.depth > 0) & (sample.depth > 0)
    assert both.mean() > 0.5 * (sample.depth > 0).mean()
    error = np.abs(twice.depth[both] - sample.depth[both])
    assert np.quantile(error / sample.depth[both], 0.98) < 0.1  # rounded to a column twice
    other = mirrored(sample)
    assert other.depth is not None
    rows, columns = np.nonzero(other.depth > 0)
    shift = sample.fit.calibration.focal_baseline / other.depth[rows, columns]
    at = np.rint(columns - shift).astype(int)
    inside = at >= 0
    left, right = other.frames[0].left.astype(float), other.frames[0].right.astype(float)
    right_place = right[rows[inside], at[inside]]
    difference = np.abs(left[rows[inside], columns[inside]] - right_place).mean()
    moved = np.abs(left[rows[inside], columns[inside]] - right[rows[inside], (at[inside] + 12) % 416]).mean()
    assert difference < 0.6 * moved
