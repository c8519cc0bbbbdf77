"""The split of the released code, and names of synthetic drives."""

from __future__ import annotations

import time

import pytest

from effcli.core.errors import InterruptedRunError, UsageError
from effcli.detect_stream.data.drive_sets import parse_synthetic
from effcli.detect_stream.data.labelled_sequences import clip_starts, labelled_sequences

FRAMES = (
    154,
    443,
    233,
    144,
    314,
    297,
    270,
    800,
    390,
    803,
    294,
    373,
    78,
    340,
    106,
    376,
    209,
    145,
    339,
    1059,
    837,
)
"""With a scan, of the 21 sequences of KITTI Tracking."""


def test_the_split_of_the_released_code() -> None:
    clips = [clip for n in FRAMES for clip in clip_starts(n)]
    for part, n_frames, n_clips in (("train", 4291, 101), ("eval", 3673, 88)):
        own = [length for _, length, its_part in clips if its_part == part]
        assert (sum(own), len(own)) == (n_frames, n_clips)


def test_names_of_drives() -> None:
    assert parse_synthetic("kitti/") is None
    name = parse_synthetic("synthetic:3:turn+static")
    assert name is not None and (name.n_drives, name.presets) == (3, ("turn", "static"))
    for wrong in ("synthetic:0", "synthetic:x", "synthetic:3:no", "synthetic:3:turn:4"):
        with pytest.raises(UsageError, match="PRESET"):
            parse_synthetic(wrong)


@pytest.mark.slow
def test_drawing_stops_after_the_drive_at_hand() -> None:
    def stop() -> None:
        raise InterruptedRunError("stop")

    before = time.process_time()
    with pytest.raises(InterruptedRunError):
        labelled_sequences("synthetic:1000", "train", n_threads=1, check_stop=stop)
    assert time.process_time() - before < 60  # all of them take most of an hour
