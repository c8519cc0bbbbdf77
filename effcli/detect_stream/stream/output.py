"""What is published of a frame, and at which moment."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from effcli.detect_stream.data.boxes3d import ImageView
from effcli.detect_stream.data.frame_objects import FrameObjects
from effcli.detect_stream.stream.stream_detector import DetectedFrame


@dataclass(frozen=True)
class StreamOutput:
    """What was published for a frame.

    Attributes:
        frame: its number.
        target_frame: the one whose boxes these are.
        captured_s, started_s, finished_s: seconds after the first frame.
        dropped: frames left out since the output before.
        detected: the result.
        read_ms: for reading and preparing the frame, in another thread where the clock is real.
        target_s: the moment that is published, seconds after the first frame.
        objects: what is published: the result, or where its boxes are at another moment.
    """

    frame: int
    target_frame: int
    captured_s: float
    started_s: float
    finished_s: float
    dropped: int
    detected: DetectedFrame
    read_ms: float
    target_s: float
    objects: FrameObjects

    @property
    def latency_ms(self) -> float:
        """From the start of the work to its end."""
        return 1000 * (self.finished_s - self.started_s)

    @property
    def age_ms(self) -> float:
        """From the capture of the frame to the result: latency and waiting."""
        return 1000 * (self.finished_s - self.captured_s)

    def above(self, score: float) -> StreamOutput:
        """With boxes of at least this score alone; those below serve the evaluation."""
        keep = self.objects.scores >= score
        objects, velocities = self.detected.objects.pick(keep), self.detected.velocities[keep]
        kept = replace(self.detected, objects=objects, velocities=velocities)
        return replace(self, detected=kept, objects=self.objects.pick(keep))

    def without_images(self) -> StreamOutput:
        """The same, small enough to be kept."""
        return replace(self, detected=replace(self.detected, images=None))

    def at(self, moment_s: float) -> StreamOutput:
        """The same, but what is published is where boxes are at another moment, at constant velocity."""
        objects = moved(self.objects, self.detected.velocities, moment_s - self.target_s, self.detected.view)
        return replace(self, objects=objects, target_s=moment_s)


def moved(
    objects: FrameObjects, velocities: np.ndarray, seconds: float, view: ImageView | None = None
) -> FrameObjects:
    """Objects some seconds later, or earlier, at constant velocity, and what the camera sees of them there."""
    boxes = objects.boxes.copy()
    boxes[:, :2] += velocities * seconds
    seen = objects.image_boxes if view is None else view.image_boxes(boxes)
    return replace(objects, boxes=boxes, image_boxes=seen)
