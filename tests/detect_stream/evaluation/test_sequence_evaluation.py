"""What a frame's truth meets when outputs are late and moved on."""

from __future__ import annotations

import numpy as np

from effcli.detect_stream.data.frame_objects import FrameObjects, objects_of
from effcli.detect_stream.evaluation.sequence_evaluation import at_frame, moved_on
from effcli.detect_stream.stream.output import StreamOutput
from effcli.detect_stream.stream.output_pairing import pair_outputs
from effcli.detect_stream.stream.stream_detector import DetectedFrame
from tests.detect_stream.simulated_outputs import simulate

FPS, N_FRAMES = 10.0, 12
START, VELOCITY = np.array([20.0, 1.0]), np.array([-7.0, 2.0])


def truth(frame: int) -> FrameObjects:
    return objects_of(["Car"], np.array([[*(START + VELOCITY * frame / FPS), 0, 4, 1.6, 1.5, 0.3]]))


def test_late_outputs_of_an_object_at_constant_velocity_are_moved_onto_it() -> None:
    runs = simulate([0.17, 0.26], N_FRAMES, FPS)
    outputs = []
    for frame, begun, done in runs:
        detected = DetectedFrame(truth(frame + 1), VELOCITY[None], 2, {})
        times = (frame / FPS, begun, done)
        outputs.append(
            StreamOutput(frame, frame + 1, *times, 0, detected, 0.0, (frame + 1) / FPS, detected.objects)
        )
    moments = [frame / FPS for frame in range(N_FRAMES)]
    pairing = pair_outputs([done for _, _, done in runs], [frame / FPS for frame, _, _ in runs], moments)
    found = moved_on(outputs, pairing, moments)
    assert [len(one) for one in found] == [0 if k is None else 1 for k in pairing]
    assert pairing.count(None) == 2
    for frame, one in enumerate(found):
        if len(one):
            np.testing.assert_allclose(one.boxes, truth(frame).boxes, atol=1e-9)
    late = [k for frame, k in enumerate(pairing) if k is not None and outputs[k].target_frame < frame]
    assert len(late) > N_FRAMES / 2


def test_a_moment_further_on_has_outputs_of_it_or_moved_there() -> None:
    labels = [truth(frame) for frame in range(N_FRAMES)]
    moments, places = [frame / FPS for frame in range(N_FRAMES)], {i: i for i in range(N_FRAMES)}
    off = np.array([[0.5, 0.0]])  # of what the velocity is thought to be
    outputs = []
    for frame, ahead in ((0, 1), (4, 2), (5, 1), (10, 2)):
        detected = DetectedFrame(truth(frame + ahead), VELOCITY[None] + off, 2, {}, ahead=ahead)
        times = (frame / FPS, frame / FPS, frame / FPS + 0.05)
        outputs.append(
            StreamOutput(
                frame, frame + ahead, *times, 0, detected, 0.0, (frame + ahead) / FPS, detected.objects
            )
        )
    found = at_frame(outputs, 2, moments, places, labels)
    assert len(found.found) == len(found.true) == 3  # there is no frame 12
    errors = [one.boxes[0, 0] - other.boxes[0, 0] for one, other in zip(found.found, found.true, strict=True)]
    np.testing.assert_allclose(errors, [0.5 / FPS, 0, 0.5 / FPS], atol=1e-9)
    assert found.found[1] is outputs[1].objects
