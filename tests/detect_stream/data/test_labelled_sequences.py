"""The split of the released code, names of synthetic drives, and frames by their numbers."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from effcli.core.errors import InterruptedRunError, UsageError
from effcli.core.recipe import parse_set
from effcli.core.registry import find_recipe
from effcli.data.picture_folders import say_once
from effcli.detect_stream.data.drive_sets import parse_synthetic
from effcli.detect_stream.data.frame_times import timeline_of
from effcli.detect_stream.data.kitti_tracking import KittiSequence, write_sequence
from effcli.detect_stream.data.labelled_sequences import chosen_frames, clip_starts, labelled_sequences
from effcli.detect_stream.data.synthetic_drives import Drive
from effcli.detect_stream.recipe import StreamDsgnRecipe
from effcli.detect_stream.training.training_data import training_data

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


@pytest.fixture(scope="module")
def kitti(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames 49 to 56 of sequence 0000, without 54, and frames 0 to 3 of 0001, which has no labels."""
    root = tmp_path_factory.mktemp("kitti")
    for name, n_frames, first in (("0000", 8, 49), ("0001", 4, 0)):
        assert list(write_sequence(root, name, Drive(3, n_frames))) == list(range(n_frames))
        for eye in ("image_02", "image_03"):
            for file in sorted((root / "training" / eye / name).iterdir(), reverse=True):
                file.rename(file.with_name(f"{int(file.stem) + first:06d}.png"))
            (root / "training" / eye / name / "000054.png").unlink(missing_ok=True)
        labels = root / "training" / "label_02" / f"{name}.txt"
        rows = [line.split(" ", 1) for line in labels.read_text().splitlines()]
        labels.write_text("".join(f"{int(frame) + first} {rest}\n" for frame, rest in rows))
    (root / "training" / "label_02" / "0001.txt").unlink()
    return root


def recipe_of(kitti: Path, *pairs: str) -> StreamDsgnRecipe:
    words = [f"data.source={kitti}", f"eval.data={kitti}", *pairs]
    recipe = find_recipe("detect-stream", "default", [parse_set(word) for word in words])
    assert isinstance(recipe, StreamDsgnRecipe)
    return recipe


def test_frames_are_chosen_by_the_numbers_of_their_names(kitti: Path) -> None:
    first, second = labelled_sequences(str(kitti), "train", frames="50-52,55-56")
    assert [timeline_of(one).numbers for one in (first, second)] == [(50, 51, 52), (55, 56)]
    assert (first.name, second.name) == ("0000-50", "0000-55")
    whole = KittiSequence(kitti, "0000")
    assert np.array_equal(second.frame(0).left, whole.frame(5).left)  # 54 is missing
    assert np.array_equal(second.objects(1).boxes, whole.objects(6).boxes) and len(second.objects(1))
    (named,) = labelled_sequences(str(kitti), "eval", "sequences", frames="0000:53-56")
    assert timeline_of(named).numbers == (53, 55, 56)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ("48-52", "sequence 0000 has frames 49 to 56, not 48-52"),
        ("50-57", "sequence 0000 has frames 49 to 56, not 50-57"),
        ("54-54", "no frame of sequence 0000 is in 54-54"),
        ("0001:0-3", "no sequence '0001' with labels"),
        ("56-49", "--frames: 56-49 is empty"),
    ],
)
def test_frames_that_are_not_there_are_refused(kitti: Path, frames: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        labelled_sequences(str(kitti), "eval", frames=frames)


def test_frames_of_which_sequence(kitti: Path) -> None:
    with pytest.raises(UsageError, match="does not say which of the") as caught:
        chosen_frames([Drive(1, 4), Drive(2, 4)], "1-2", "data.frames")
    assert caught.value.place == "data.frames"
    assert caught.value.hint == f"name it: {Drive(1, 4).name}:1-2"
    with pytest.raises(UsageError, match="frames of a folder, and synthetic:2 is not a folder"):
        labelled_sequences("synthetic:2", "train", frames="1-2")


def test_what_is_learned_and_measured_is_told_apart(kitti: Path, caplog: pytest.LogCaptureFixture) -> None:
    apart = training_data(recipe_of(kitti, "data.frames=49-52", "eval.frames=53-56"))
    assert apart.sequences is not None and len(apart.sequences[0]) == 4
    assert apart.held_out is not None and len(apart.held_out[0]) == 3
    assert "used both for training" not in caplog.text
    training_data(recipe_of(kitti, "data.frames=49-53", "eval.frames=52-56"))
    assert (
        "2 frames of sequence 0000, from 52 to 53, are used both for training and for evaluation"
        in caplog.text
    )
    assert "missing" not in caplog.text
    training_data(recipe_of(kitti, "data.frames=49-56", "eval.data=null"))
    assert (
        "2 frames are not used for training, because the frame before or after them is missing" in caplog.text
    )
    with pytest.raises(UsageError, match="has no frames to train on"):
        training_data(recipe_of(kitti, "data.frames=49-50", "eval.data=null"))


def test_sequences_without_labels_are_said(kitti: Path, caplog: pytest.LogCaptureFixture) -> None:
    say_once.cache_clear()
    assert [one.name for one in labelled_sequences(str(kitti), "train")] == ["0000"]
    assert "left out, as they have no labels: sequences 0001" in caplog.text
