"""From an output to what is published: boxes aimed at a moment, as a line of JSON, written to files."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from effcli.detect_stream.data.boxes3d import to_camera
from effcli.detect_stream.data.frame_objects import FrameObjects
from effcli.detect_stream.stream.output import StreamOutput

_RECENT = 10


@dataclass
class Aim:
    """Moves boxes to ``horizon`` milliseconds after the capture; ``auto``: to the age that results have."""

    horizon: float | Literal["auto"] | None
    ages_ms: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))

    def __call__(self, output: StreamOutput) -> StreamOutput:
        """The output with boxes where they are at the moment aimed at."""
        self.ages_ms.append(output.age_ms)
        if self.horizon is None:
            return output
        horizon_ms = float(np.mean(self.ages_ms)) if self.horizon == "auto" else self.horizon
        return output.at(output.captured_s + horizon_ms / 1000)


class OutputWriter(Protocol):
    """What writes outputs to a file."""

    def add(self, line: str, output: StreamOutput) -> None:
        """Write an output, which is ``line`` in JSON."""


@dataclass
class Publisher:
    """Makes a line of JSON of each output, publishes it and writes it."""

    name: str
    least_score: float
    publish: Callable[[str], None]
    writers: Sequence[OutputWriter] = ()

    def __call__(self, output: StreamOutput) -> None:
        """Publish the boxes of an output that are sure enough."""
        shown = output.above(self.least_score)
        line = json.dumps(json_line(shown, self.name))
        self.publish(line)
        for writer in self.writers:
            writer.add(line, shown)


def json_line(output: StreamOutput, name: str) -> dict[str, Any]:
    """An output as one line of JSON."""
    return {
        "seq": name,
        "frame": output.frame,
        "target_frame": output.target_frame,
        "t_capture": round(output.captured_s, 4),
        "t_start": round(output.started_s, 4),
        "t_finish": round(output.finished_s, 4),
        "t_target": round(output.target_s, 4),
        "latency_ms": round(output.latency_ms, 2),
        "age_ms": round(output.age_ms, 2),
        "dropped": output.dropped,
        "history": output.detected.history,
        "objects": json_objects(output.objects, output.detected.velocities),
    }


def json_objects(objects: FrameObjects, velocities: np.ndarray) -> list[dict[str, Any]]:
    """Objects as JSON has them, in the frame of the left camera; ``velocities`` ``[N, 2]`` of the ground frame."""
    xyz, hwl, rotation_y = to_camera(objects.boxes)
    return [
        {
            "id": int(objects.track_ids[i]),
            "cls": objects.kinds[i],
            "score": round(float(objects.scores[i]), 4),
            "xyz": [round(float(v), 3) for v in xyz[i]],
            "hwl": [round(float(v), 3) for v in hwl[i]],
            "ry": round(float(rotation_y[i]), 4),
            "bbox": [round(float(v), 1) for v in objects.image_boxes[i]],
            "velocity": [round(float(0 - velocities[i, 1]), 2), round(float(velocities[i, 0]), 2)],
        }
        for i in range(len(objects))
    ]
