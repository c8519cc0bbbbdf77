"""Whether the cameras of labelled sequences are as they should be: what a stream checks of its first frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from effcli.detect_stream.data.stereo_sequence import StereoSequence
from effcli.detect_stream.network.config import NetworkConfig
from effcli.detect_stream.network.frame_fitting import fit_of, warn_of_horizons
from effcli.detect_stream.sources.frame_source import Arrival
from effcli.detect_stream.stream.eye_check import checked_eyes
from effcli.detect_stream.stream.mosaic import warn_if_mosaic
from effcli.detect_stream.stream.rectification import warn_if_not_rectified, warn_if_size_is_odd

_N_FRAMES = 3


def check_rigs(sequences: Sequence[StereoSequence], config: NetworkConfig) -> None:
    """Log what looks wrong with the pictures, once per pair of cameras: horizon, size, rows, swapped eyes.

    Raises:
        InputError: left and right are the same picture, or a picture is missing or damaged.
    """
    warn_of_horizons(sequences, config)
    cameras = {id(one.calibration): one for one in reversed(sequences)}
    for sequence in reversed(cameras.values()):
        first = sequence.frame(0)
        fit = fit_of(first.size, sequence.calibration, config)
        warn_if_size_is_odd(first.size, config)
        warn_if_mosaic(first)
        warn_if_not_rectified(first, fit, config)
        for _ in checked_eyes(_first_frames(sequence), fit, config):
            pass


def _first_frames(sequence: StereoSequence) -> Iterator[Arrival]:
    for i in range(min(_N_FRAMES, len(sequence))):
        yield Arrival(i, sequence.frame(i))
