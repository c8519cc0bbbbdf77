"""Raw mosaics of colour sensors are told from grey pictures."""

from __future__ import annotations

import numpy as np

from effcli.detect_stream.data.synthetic_drives import Drive
from effcli.detect_stream.stream.mosaic import is_mosaic


def test_a_raw_mosaic_is_told_from_grey_and_colour() -> None:
    colour = Drive(1).frame(0).left
    mosaic = colour[..., 1].copy()
    mosaic[::2, ::2], mosaic[1::2, 1::2] = colour[::2, ::2, 0], colour[1::2, 1::2, 2]
    noise = np.random.default_rng(0).normal(0, 8, mosaic.shape)
    grey = (colour.mean(2) + noise).clip(0, 255).astype(np.uint8)
    assert is_mosaic(np.stack(3 * [mosaic], 2))
    assert not is_mosaic(np.stack(3 * [grey], 2))
    assert not is_mosaic(colour)
    assert not is_mosaic(np.zeros((8, 8, 3), np.uint8))
