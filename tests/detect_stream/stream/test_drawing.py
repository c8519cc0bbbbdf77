"""What is drawn of the truth, and what is said of odd pictures and of what a detector has learned from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from effcli.detect_stream.data.frame_objects import no_objects
from effcli.detect_stream.data.synthetic_drives import Drive
from effcli.detect_stream.network.config import TINY
from effcli.detect_stream.stream.drawing import draw
from effcli.detect_stream.stream.rectification import warn_if_size_is_odd
from effcli.detect_stream.weights import trained_on


def test_parts_of_the_picture_that_do_not_count_are_not_drawn() -> None:
    drive = Drive(4, 3)
    left, truth = drive.frame(0).left, drive.objects(0)
    nowhere = replace(truth, kinds=("DontCare",) * len(truth))
    plain = np.asarray(draw(left, drive.calibration, no_objects(), None, ""))
    assert np.array_equal(plain, np.asarray(draw(left, drive.calibration, no_objects(), nowhere, "")))
    assert not np.array_equal(plain, np.asarray(draw(left, drive.calibration, no_objects(), truth, "")))


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((128, 416), None),
        ((375, 1242), None),
        ((48, 64), "the pictures are 64x48, the network sees 416x128"),
        ((1242, 832), "upright: of 1242 rows the network sees 256"),
    ],
)
def test_tiny_and_upright_pictures_get_a_hint(
    size: tuple[int, int], message: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    warn_if_size_is_odd(size, TINY)
    assert caplog.text == "" if message is None else message in caplog.text


def test_what_a_built_in_detector_has_learned_from_is_on_its_card() -> None:
    assert (trained_on("builtin:street-tiny") or "").startswith("synthetic drives")
    assert trained_on("my-run") is None and trained_on("builtin:none") is None
