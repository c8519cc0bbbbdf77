"""What a detector's depth leans on: its error on pictures as they are, moved up or down, and with one eye blinded.

    python benchmarks/depth_robustness.py [--weights RUN] [--data synthetic:4:town] [--rows 4] [--json FILE]

A detector that matches left and right keeps its error when both pictures move by a few rows (4 of 128 are about a
degree of pitch) and has none to speak of with a grey right eye. One that knows where the ground usually is fails the
first and passes the second.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from effcli.core.evidence.records import write_record
from effcli.core.runtime import create_runtime
from effcli.detect_stream.data.labelled_sequences import labelled_sequences
from effcli.detect_stream.data.stereo_sequence import StereoFrame, StereoSequence
from effcli.detect_stream.evaluation.sequence_evaluation import MeasureSettings, measure
from effcli.detect_stream.weights import load_detector

GREY = 128


class Changed:
    """A sequence whose pictures and depth are moved down by some rows, or whose right eye sees grey."""

    def __init__(self, sequence: StereoSequence, rows: int = 0, *, is_blind: bool = False) -> None:
        self.name, self.calibration, self.fps = sequence.name, sequence.calibration, sequence.fps
        self.has_labels = sequence.has_labels
        self.objects, self.pose = sequence.objects, sequence.pose
        self._sequence, self._rows, self._is_blind = sequence, rows, is_blind

    def __len__(self) -> int:
        return len(self._sequence)

    def frame(self, i: int) -> StereoFrame:
        """The changed pair."""
        frame = self._sequence.frame(i)
        left, right = (np.roll(eye, self._rows, 0) for eye in (frame.left, frame.right))
        return StereoFrame(left, np.full_like(right, GREY) if self._is_blind else right)

    def depth(self, i: int) -> np.ndarray | None:
        """Of the changed left picture; rows that came in from the other side are unknown."""
        known = self._sequence.depth(i)
        if known is None:
            return None
        depth = np.roll(known, self._rows, 0)
        if self._rows:
            depth[: self._rows] = 0
        return depth


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--weights", default="builtin:street-tiny")
    parser.add_argument("--data", default="synthetic:4:town")
    parser.add_argument("--rows", type=int, default=4, help="rows of the source's pictures")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.rows < 0:
        parser.error("--rows: pictures are moved down, by 0 rows or more")
    detector = load_detector(given.weights)
    runtime = create_runtime(device="cpu", precision="bf16", threads=1)
    sequences = labelled_sequences(given.data, "eval", "all")
    forms = {
        "as they are": [Changed(one) for one in sequences],
        f"moved down by {given.rows} rows": [Changed(one, given.rows) for one in sequences],
        "right eye grey": [Changed(one, is_blind=True) for one in sequences],
    }
    found = {}
    print(
        f"{'pictures':<24}{'median error, m':>16}{'above 1 m, %':>14}{'known, %':>10}{'error over first':>18}"
    )
    for name, form in forms.items():
        depth = found[name] = measure(detector, form, MeasureSettings(depth=True), runtime)["depth"]
        error, first = depth["median_error_m"], found["as they are"]["median_error_m"]
        print(
            f"{name:<24}{error:>16.3f}{depth['above_1m_percent']:>14.1f}{depth['known_percent']:>10.1f}"
            f"{error / first:>17.2f}x"
        )
    write_record(given.json, found, sys.argv)


if __name__ == "__main__":
    main()
