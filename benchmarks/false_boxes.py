"""How many boxes of `effcli detect-stream` stand on nothing, per frame, at the score that is shown.

    python benchmarks/false_boxes.py [--weights RUN] [--data DIR|synthetic:N:PRESET] [--frames 49-108] [--json FILE]

Labels of a real road do not name everything, so two rules say what a box stands on. Both take objects of any kind, Van
and Tram included, and DontCare. *In the picture*: a box stands on nothing where no label's 2D box has a pixel in common
with its own, DontCare's neither. *From above*: where no labelled object is within 2 m of its centre, and no DontCare
has a pixel in common with it; a box at the wrong depth behind a labelled car counts here alone. Each output is compared
with the labels of the frame that it is for; frames without one, such as the first, do not count.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from effcli.core.evidence.records import write_record
from effcli.core.runtime import Runtime, create_runtime
from effcli.detect_stream.data.frame_objects import FrameObjects
from effcli.detect_stream.data.frame_times import timeline_of
from effcli.detect_stream.data.labelled_sequences import labelled_sequences
from effcli.detect_stream.data.stereo_sequence import StereoSequence
from effcli.detect_stream.network.box_decoding import Limits
from effcli.detect_stream.network.config import CLASSES
from effcli.detect_stream.recipe import StreamRunSection
from effcli.detect_stream.sources.frame_source import SequenceSource
from effcli.detect_stream.stream.clocks import run_simulated
from effcli.detect_stream.stream.drawing import draw
from effcli.detect_stream.stream.stream_detector import StreamDetector
from effcli.detect_stream.weights import TrainedDetector, load_detector

NEAR_M = 2.0
LATENCY_S = 0.06
_COUNTED = ("boxes per frame", "on nothing in the picture", "on nothing from above")


def overlapping(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Which pairs of 2D boxes have an area in common: bool ``[D, G]`` of ``[D, 4]`` and ``[G, 4]``."""
    low = np.maximum(found[:, None, :2], true[None, :, :2])
    high = np.minimum(found[:, None, 2:], true[None, :, 2:])
    shared: np.ndarray = (high > low).all(-1)
    return shared


def on_nothing(found: FrameObjects, true: FrameObjects) -> tuple[np.ndarray, np.ndarray]:
    """Which boxes stand on nothing, in the picture and from above: two masks ``[D]``."""
    shares = overlapping(found.image_boxes, true.image_boxes)
    ignored = np.array([kind == "DontCare" for kind in true.kinds], bool)
    delta = found.boxes[:, None, :2] - true.boxes[None, ~ignored, :2]
    is_near = (np.linalg.norm(delta, axis=-1) <= NEAR_M).any(1)
    in_picture = np.logical_not(shares.any(axis=1))
    from_above = np.logical_not(is_near | shares[:, ignored].any(axis=1))
    return np.asarray(in_picture), np.asarray(from_above)


def compared(
    detector: TrainedDetector, sequence: StereoSequence, score: float, runtime: Runtime, pictures: Path | None
) -> list[tuple[FrameObjects, FrameObjects]]:
    """Boxes of at least a score for each frame that has an output, and its labels."""
    timeline = timeline_of(sequence)
    places = {number: i for i, number in enumerate(timeline.numbers)}
    source = SequenceSource(sequence)
    limits = Limits(score=min(score, 0.1))  # boxes below are followed, as in a stream
    stream_detector = StreamDetector(
        detector, sequence.calibration, sequence.frame(0).size, runtime, sequence.fps, limits
    )
    stream = run_simulated(source, stream_detector, source.frames(), (LATENCY_S,), lambda output: None)
    pairs = []
    for output in stream.outputs:
        place = places.get(output.target_frame)
        if place is None:
            continue
        found, true = output.above(score).detected.objects, sequence.objects(place)
        pairs.append((found, true))
        if pictures is not None:
            left = sequence.frame(place).left
            caption = f"frame {output.target_frame}"
            draw(left, sequence.calibration, found, true, caption).save(
                pictures / f"{sequence.name}-{output.target_frame:06d}.png"
            )
    return pairs


def counted(pairs: Sequence[tuple[FrameObjects, FrameObjects]]) -> list[dict[str, Any]]:
    """A row for all classes and for each: boxes per frame, and those that stand on nothing."""
    masks = [(found, *on_nothing(found, true)) for found, true in pairs]
    rows = []
    for name in ("all", *CLASSES):
        totals = np.zeros(3)
        for found, in_picture, from_above in masks:
            own = np.array([name in ("all", kind) for kind in found.kinds], bool)
            totals += own.sum(), (own & in_picture).sum(), (own & from_above).sum()
        rows.append(
            {"class": name} | dict(zip(_COUNTED, (totals / len(pairs)).round(2).tolist(), strict=True))
        )
    return rows


def main() -> None:
    """Count, print, and write where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", default="builtin:street-tiny")
    parser.add_argument("--data", default="synthetic:4:town", help="as of `effcli detect-stream eval`")
    parser.add_argument("--frames", help="of a folder, as of `effcli detect-stream eval`")
    parser.add_argument("--score", type=float, default=StreamRunSection().score, help="least score of a box")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="also draw every frame here")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    given = parser.parse_args()
    if given.pictures is not None:
        given.pictures.mkdir(parents=True, exist_ok=True)
    runtime = create_runtime(device="cpu", precision="fp32", threads=1)
    detector = load_detector(given.weights)
    pairs = [
        pair
        for sequence in labelled_sequences(given.data, "eval", "all", frames=given.frames)
        for pair in compared(detector, sequence, given.score, runtime, given.pictures)
    ]
    rows = counted(pairs)
    for row in rows:
        print("  ".join(f"{name}: {value}" for name, value in row.items()))
    print(f"{len(pairs)} frames, score {given.score:g}")
    write_record(given.json, rows, sys.argv)


if __name__ == "__main__":
    main()
