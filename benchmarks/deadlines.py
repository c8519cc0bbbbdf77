"""Deadlines of `effcli detect-stream`: sAP and missed deadlines at 10 to 50 frames per second, alone and beside others.

    python benchmarks/deadlines.py [--json FILE] [--later RUN] [--latency MS]

A drive is replayed faster than it was taken: things move as much from frame to frame as at 10 per second, and there is
less time. On the virtual clock each frame takes what it took, or ``--latency``; on the real one beside busy processes.
A deadline is missed where the result of a frame is not there when the next one comes, or the frame was left out.
Three forms: results as they are; moved on by the tracker to the frame that asks; and with ``--later RUN``, trained with
``loss.horizons``, boxes of the frame that comes when the result is there, as they are and moved on.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from effcli.core.evidence.records import write_record
from effcli.core.runtime import Runtime, create_runtime
from effcli.detect_stream.data.frame_objects import FrameObjects, no_objects
from effcli.detect_stream.data.kitti_labels import grade
from effcli.detect_stream.data.labelled_sequences import labelled_sequences
from effcli.detect_stream.data.stereo_sequence import FPS, StereoSequence
from effcli.detect_stream.evaluation.kitti_ap import Rule, average_precision, height_scale, precision_curve
from effcli.detect_stream.evaluation.precision_tables import LEVEL
from effcli.detect_stream.evaluation.stream_summary import percentiles
from effcli.detect_stream.network.box_decoding import Limits
from effcli.detect_stream.network.config import CLASSES
from effcli.detect_stream.sources.frame_source import Arrival
from effcli.detect_stream.stream.clocks import StreamRecord, run_simulated, run_wall, warm_up
from effcli.detect_stream.stream.output import StreamOutput, moved
from effcli.detect_stream.stream.output_pairing import pair_outputs
from effcli.detect_stream.stream.stream_detector import StreamDetector
from effcli.detect_stream.weights import TrainedDetector, load_detector

RATES, BUSY = "10,20,35,40,50", "0,1,2,4"
DISTANCES_M = (2.0, 1.0)


class Replay:
    """A sequence as a source whose frames come ``fps`` times per second."""

    is_live = False

    def __init__(self, sequence: StereoSequence, fps: float) -> None:
        self.name, self.calibration, self.fps = sequence.name, sequence.calibration, fps
        self.n_frames: int | None = len(sequence)
        self.sequence: StereoSequence | None = None  # its own times are not those of the replay
        self._sequence = sequence

    def frames(self) -> Iterator[Arrival]:
        """All frames; they are numbered, so their moments are those of the rate."""
        for i in range(len(self._sequence)):
            yield Arrival(i, self._sequence.frame(i))


@dataclass(frozen=True)
class Setting:
    """How drives are replayed.

    Attributes:
        fps: frames per second.
        is_real: on the real clock, not the virtual one.
        latency_s: of each frame on the virtual clock; None: what it took.
    """

    fps: float
    is_real: bool
    latency_s: float | None = None


def played(
    detector: TrainedDetector, sequence: StereoSequence, how: Setting, runtime: Runtime
) -> StreamRecord:
    """All outputs of a drive."""
    source = Replay(sequence, how.fps)
    size = sequence.frame(0).size
    # the detector's seconds are those in which the drive was taken
    machine = StreamDetector(detector, sequence.calibration, size, runtime, FPS, Limits(score=0.05))
    warm_up(machine, next(source.frames()))
    if how.is_real:
        return run_wall(source, machine, source.frames(), lambda output: None)
    latencies_s = None if how.latency_s is None else (how.latency_s,)
    return run_simulated(source, machine, source.frames(), latencies_s, lambda output: None)


def met(record: StreamRecord, fps: float, *, are_moved: bool) -> list[FrameObjects]:
    """What was there for each frame's truth, moved on to the frame or not."""
    outputs = list(record.outputs)
    moments = [captured_s for _, captured_s in record.moments]
    pairing = pair_outputs([one.finished_s for one in outputs], [one.captured_s for one in outputs], moments)

    def objects(one: StreamOutput, moment_s: float) -> FrameObjects:
        if not are_moved:
            return one.objects
        seconds = (moment_s - one.target_s) * fps / FPS  # in which the drive was taken
        return moved(one.objects, one.detected.velocities, seconds, one.detected.view)

    return [
        no_objects() if k is None else objects(outputs[k], moment_s)
        for k, moment_s in zip(pairing, moments, strict=True)
    ]


def average_precisions(
    found: Sequence[FrameObjects], true: Sequence[FrameObjects], scale: float
) -> dict[str, float]:
    """AP by distance of the centres, per cent: of cars, and the mean of the classes."""
    row = {}
    for distance_m in DISTANCES_M:
        curves = [
            precision_curve(found, true, kind, Rule("centre", distance_m, LEVEL, scale)) for kind in CLASSES
        ]
        values = [np.nan if curve is None else average_precision(curve, 40) for curve in curves]
        row[f"cars_{distance_m:g}m"] = round(float(values[0]), 1)
        row[f"mean_{distance_m:g}m"] = round(float(np.nanmean(values)), 1)
    return row


def row_of(records: Sequence[StreamRecord], fps: float) -> dict[str, Any]:
    """What all drives say of the deadlines."""
    outputs = [one for record in records for one in record.outputs]
    n_late = sum(one.age_ms > 1000 / fps for one in outputs)
    n_dropped = sum(record.mailbox_drops for record in records)
    n_frames = sum(record.frames for record in records)
    ahead = [one.detected.ahead for one in outputs]
    return {
        "missed_percent": round(100 * (n_late + n_dropped) / n_frames, 1),
        "dropped_percent": round(100 * n_dropped / n_frames, 1),
        "latency_ms": percentiles([one.latency_ms for one in outputs]),
        "horizons": {str(one): ahead.count(one) for one in sorted(set(ahead))},
    }


def measure(
    detectors: dict[str, TrainedDetector],
    sequences: Sequence[StereoSequence],
    how: Setting,
    runtime: Runtime,
) -> list[dict[str, Any]]:
    """A row for each detector, as it is and moved on."""
    truth = [
        replace(one, truncated=grade(one.truncated))
        for sequence in sequences
        for one in map(sequence.objects, range(len(sequence)))
    ]
    scale = height_scale(float(sequences[0].calibration.left[0, 0]))
    rows = []
    for name, detector in detectors.items():
        records = [played(detector, sequence, how, runtime) for sequence in sequences]
        row = row_of(records, how.fps)
        for are_moved in (False, True):
            found = [x for record in records for x in met(record, how.fps, are_moved=are_moved)]
            sap = average_precisions(found, truth, scale)
            form = f"{name}, moved on" if are_moved else name
            rows.append({"form": form, "fps": how.fps, "sap": sap, **row})
            print(
                f"{form:<24}{how.fps:>5g}{row['missed_percent']:>9}{row['latency_ms']['p50']:>8.1f}"
                f"{row['latency_ms']['p95']:>8.1f}" + "".join(f"{value:>9}" for value in sap.values()),
                flush=True,
            )
    return rows


@contextmanager
def neighbours(n: int) -> Iterator[None]:
    """So many busy processes."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def main() -> None:
    """Measure everything, print it, and write it where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    parser.add_argument("--weights", default="builtin:street-tiny", help="the detector of one horizon")
    parser.add_argument("--later", metavar="RUN", help="one of several horizons (default: left out)")
    parser.add_argument("--data", default="synthetic:6", help="drives, as of `effcli detect-stream eval`")
    parser.add_argument("--latency", type=float, metavar="MS", help="of each frame, on the virtual clock")
    parser.add_argument("--rates", default=RATES, help="frames per second")
    parser.add_argument("--busy", default=BUSY, help="numbers of busy processes, on the real clock")
    parser.add_argument("--clocks", default="sim,wall", help="of: sim, wall")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--threads", default="auto")
    options = parser.parse_args()
    threads = options.threads if options.threads == "auto" else int(options.threads)
    runtime = create_runtime(device="cpu", precision=options.precision, threads=threads)
    detectors = {"next frame": load_detector(options.weights)}
    if options.later:
        detectors["later frames"] = load_detector(options.later)
    sequences = labelled_sequences(options.data, "eval")
    rates = [float(one) for one in options.rates.split(",")]
    load = os.getloadavg()[0]
    latency_s = None if options.latency is None else options.latency / 1000
    print(f"{os.cpu_count()} cores, load average {load:.1f} before, {runtime.precision}")
    header = "".join(f"{f'{kind} {m:g} m':>9}" for m in DISTANCES_M for kind in ("cars", "mean"))
    print(f"{'':<24}{'fps':>5}{'missed %':>9}{'ms':>8}{'p95':>8}{header}")
    settings = [(clock, n) for clock in options.clocks.split(",") for n in busy_of(clock, options.busy)]
    rows = []
    for clock, n_busy in settings:
        print(f"clock {clock}, {n_busy} busy processes")
        with neighbours(n_busy):
            for fps in rates:
                how = Setting(fps, clock == "wall", latency_s)
                found = measure(detectors, sequences, how, runtime)
                rows += [{"clock": clock, "busy": n_busy, **row} for row in found]
    write_record(options.json, {"load_before": load, "rows": rows}, sys.argv)


def busy_of(clock: str, numbers: str) -> list[int]:
    """Numbers of busy processes; none beside the virtual clock."""
    return [int(one) for one in numbers.split(",")] if clock == "wall" else [0]


if __name__ == "__main__":
    main()
