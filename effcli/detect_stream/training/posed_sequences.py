"""Sequences to learn from whose poses are not recorded: they are found in the pictures."""

from __future__ import annotations

import numpy as np

from effcli.detect_stream.data.labelled_sequences import Clip
from effcli.detect_stream.data.stereo_sequence import StereoSequence
from effcli.detect_stream.network.config import NetworkConfig
from effcli.detect_stream.network.frame_fitting import fit_of, fitted_pair
from effcli.detect_stream.stream.visual_odometry import VisualOdometry


class PosedByPictures(Clip):
    """A sequence without poses: they are found in its pictures, all at once when the first is asked for.

    Args:
        sequence: the whole.
        config: of the network that will see the pictures; it says how large they are.
    """

    def __init__(self, sequence: StereoSequence, config: NetworkConfig) -> None:
        super().__init__(sequence, 0, len(sequence))
        self.name, self._config = sequence.name, config
        self._poses: list[np.ndarray] = []

    def pose(self, i: int) -> np.ndarray:
        """As visual odometry has it."""
        if not self._poses:
            size = self.frame(0).left.shape
            fit = fit_of((size[0], size[1]), self.calibration, self._config)
            odometry = VisualOdometry(fit.calibration, (fit.height, fit.width), self.fps)
            self._poses = [
                odometry.track(*fitted_pair(self.frame(k), fit, self._config), k) for k in range(len(self))
            ]
        return self._poses[i]
