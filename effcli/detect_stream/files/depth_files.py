"""The depth of each frame as a picture in KITTI's form."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from effcli.core.files import atomic_path, make_folder
from effcli.detect_stream.files.background import Background
from effcli.detect_stream.stream.output import StreamOutput

STEPS_PER_METRE = 256
"""Of KITTI's 16-bit depth pictures, in which 0 is unknown."""


class DepthFiles:
    """``FRAME.png`` for each output: 16 bits, metres times 256, 0 where unknown.

    Args:
        folder: for them; made if it is not there.
        background: what writes them.
    """

    def __init__(self, folder: Path, background: Background) -> None:
        self._folder, self._background = make_folder(folder), background

    def add(self, line: str, output: StreamOutput) -> None:
        """Write the depth of the frame that an output was made of."""
        images = output.detected.images
        if images is not None and images.depth is not None:
            file = self._folder / f"{output.frame:06d}.png"
            self._background.do(partial(write_depth, file, images.depth))


def write_depth(file: Path, depth: np.ndarray) -> None:
    """Write depths in metres, 0 where unknown, ``[H, W]``, as a 16-bit PNG; what is beyond 255.99 m becomes that.

    Raises:
        RunError: the disk is full or the place cannot be written.
    """
    with atomic_path(file) as temporary:
        Image.fromarray(steps_of(depth)).save(temporary, "PNG", compress_level=3)


def steps_of(depth: np.ndarray) -> np.ndarray:
    """Metres as uint16, 256 per metre."""
    steps: np.ndarray = np.clip(np.rint(depth * STEPS_PER_METRE), 0, np.iinfo(np.uint16).max).astype(
        np.uint16
    )
    return steps
