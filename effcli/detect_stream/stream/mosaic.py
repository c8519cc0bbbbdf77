"""Whether pictures are what a sensor with a colour filter gives, before colours are made of it (Bayer)."""

from __future__ import annotations

import logging

import numpy as np

from effcli.detect_stream.data.stereo_sequence import StereoFrame

log = logging.getLogger(__name__)

_BLOCK = 32
_LEAST_LEVELS = 1.5
"""Of 255: in pictures of cameras both diagonals of 2x2 pixels differ by about 0.2 in the median."""


def warn_if_mosaic(frame: StereoFrame) -> None:
    """Log that a frame's pictures look like a raw mosaic, if they do."""
    if is_mosaic(frame.left):
        log.warning(
            "the pictures look like raw mosaics of a colour sensor (Bayer): make colours of them first, or "
            "fewer objects are found"
        )


def is_mosaic(picture: np.ndarray) -> bool:
    """Whether a grey picture has green at one diagonal of each 2x2 pixels, and red and blue at the other.

    Args:
        picture: uint8 ``[H, W, 3]``.
    """
    if not (picture[..., :1] == picture).all():
        return False
    height, width = (side // _BLOCK for side in picture.shape[:2])
    if not height or not width:
        return False
    grey = picture[: height * _BLOCK, : width * _BLOCK, 0].astype(np.float32)
    cells = grey.reshape(height, _BLOCK // 2, 2, width, _BLOCK // 2, 2).mean((1, 4))  # [H', 2, W', 2]
    diagonals = (cells[:, 0, :, 0] + cells[:, 1, :, 1] - cells[:, 0, :, 1] - cells[:, 1, :, 0]) / 2
    return bool(np.median(np.abs(diagonals)) >= _LEAST_LEVELS)
