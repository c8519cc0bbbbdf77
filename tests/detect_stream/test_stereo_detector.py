"""The detector in Python says what the command's stream says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import effcli.detect_stream
from effcli.core.errors import InputError
from effcli.core.runtime import Runtime
from effcli.detect_stream.data.synthetic_drives import Drive
from effcli.detect_stream.network.box_decoding import Limits
from effcli.detect_stream.sources.frame_source import Arrival
from effcli.detect_stream.stream.publishing import json_objects
from effcli.detect_stream.stream.stream_detector import StreamDetector
from effcli.detect_stream.weights import load_detector


@pytest.mark.slow
def test_frames_give_what_the_stream_gives() -> None:
    drive = Drive(4, 5)
    detector = effcli.detect_stream.load(calibration=drive.calibration, score=0.05, device="cpu")
    assert detector.horizon == 1
    runtime = Runtime(torch.device("cpu"), "fp32", 0)
    limits = Limits(score=0.05)
    stream = StreamDetector(
        load_detector("builtin:street-tiny"), drive.calibration, (128, 416), runtime, 10.0, limits
    )
    numbers = (0, 1, 3)
    ours = [detector.detect(drive.frame(i).left, drive.frame(i).right, number=i) for i in numbers]
    theirs = [stream.detect(stream.prepare(Arrival(i, drive.frame(i)))) for i in numbers]
    assert ours == [json_objects(one.objects, one.velocities) for one in theirs]
    assert any(ours)
    detector.reset()
    assert detector.detect(drive.frame(0).left, drive.frame(0).right) == ours[0]


def test_pictures_that_do_not_fit_are_refused() -> None:
    drive = Drive(4, 5)
    detector = effcli.detect_stream.load(calibration=drive.calibration, device="cpu")
    picture = np.zeros((128, 416, 3), np.uint8)
    with pytest.raises(InputError, match="not uint8"):
        detector.detect(picture.astype(np.float32), picture)
    with pytest.raises(InputError, match="the right one"):
        detector.detect(picture, picture[:, :400])
    detector.detect(picture, picture)
    with pytest.raises(InputError, match="the first one was 416x128"):
        detector.detect(picture[:64], picture[:64])
    with pytest.raises(InputError, match="cannot be read"):
        effcli.detect_stream.load(calibration="no/such/calib.txt")
