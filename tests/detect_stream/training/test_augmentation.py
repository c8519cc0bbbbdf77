"""Tracks pasted from another moment: what the pictures, the depth and the labels hold afterwards."""

from __future__ import annotations

import numpy as np
import pytest

from effcli.detect_stream.data.boxes3d import cut_to_image, image_boxes
from effcli.detect_stream.data.synthetic_drives import Drive
from effcli.detect_stream.network.config import TINY
from effcli.detect_stream.recipe import StreamAugmentSection
from effcli.detect_stream.training.batches import batch_of_step
from effcli.detect_stream.training.clips import Clips
from effcli.detect_stream.training.tracklet_paste import paste, with_tracklets


def clips() -> Clips:
    return Clips([Drive(seed, 8, "crowded") for seed in (1, 2, 3)], TINY)


@pytest.mark.slow
def test_pasted_tracks_bring_their_pixels_and_depth() -> None:
    all_clips = clips()
    calibration = all_clips.calibration(0)
    sample, donor = all_clips.sample(0), all_clips.sample(len(all_clips) - 1)
    together = paste(sample, donor, calibration, np.random.default_rng(0))
    n_old, n_new = len(sample.objects[1]), len(together.objects[1])
    assert n_new > n_old
    new = together.objects[1].pick(np.arange(n_new) >= n_old)
    ids = set(new.track_ids.tolist())
    for when in range(4):  # the same tracks in all frames, at the donor's places
        assert ids <= set(together.objects[when].track_ids.tolist())
        assert len(together.objects[when]) == len(sample.objects[when]) + len(ids)
    theirs = {tuple(box) for box in donor.objects[1].boxes}
    assert {tuple(box) for box in new.boxes} <= theirs
    nearest = int(np.argmin(new.boxes[:, 0]))
    assert together.depth is not None
    assert donor.depth is not None
    for eye, projection in (("left", calibration.left), ("right", calibration.right)):
        ours, from_there, before = (getattr(s.frames[0], eye) for s in (together, donor, sample))
        flat = cut_to_image(image_boxes(new.boxes[nearest : nearest + 1], projection), 128, 416)[0]
        row, column = int(flat[[1, 3]].mean()), int(flat[[0, 2]].mean())
        assert np.array_equal(ours[row, column], from_there[row, column])
        assert not np.array_equal(ours, before)
    changed = (together.frames[0].left != sample.frames[0].left).any(-1)
    assert 0 < changed.mean() < 0.5
    known = changed & (together.depth > 0)
    assert np.array_equal(together.depth[known], donor.depth[known])
    assert np.array_equal(
        sample.frames[0].left, all_clips.sample(0).frames[0].left
    )  # the sample itself is as it was


@pytest.mark.slow
def test_nothing_overlaps_and_no_class_grows_beyond_seven() -> None:
    all_clips = clips()
    rng = np.random.default_rng(1)
    sample = all_clips.sample(0)
    for item in range(1, len(all_clips)):
        sample = paste(sample, all_clips.sample(item), all_clips.calibration(0), rng)
    for kind in ("Car", "Pedestrian", "Cyclist"):
        own = all_clips.sample(0).objects[1].kinds.count(kind)
        assert sample.objects[1].kinds.count(kind) <= max(7, own)
    boxes = sample.objects[1].boxes
    apart = np.linalg.norm(boxes[:, None, :2] - boxes[None, :, :2], axis=-1) + 99 * np.eye(len(boxes))
    assert apart.min() > 0.3


@pytest.mark.slow
def test_batches_with_pasting_follow_from_the_seed() -> None:
    all_clips, section = clips(), StreamAugmentSection(paste=1.0)
    one, same = (batch_of_step(all_clips, 3, 2, section, 5) for _ in range(2))
    assert one.left.equal(same.left)
    plain = batch_of_step(all_clips, 3, 2, StreamAugmentSection(), 5)
    assert sum(len(moments[1].ids) for moments in one.objects) > sum(
        len(moments[1].ids) for moments in plain.objects
    )


def test_a_donor_of_other_cameras_lends_nothing() -> None:
    drive, other = Drive(1, 5, "crowded"), Drive(2, 5, "crowded")
    other.calibration = drive.calibration.scaled(0.5)
    both = Clips([drive, other], TINY)
    both.index = [(0, 2), *(entry for entry in both.index if entry[0] == 1)]
    sample = both.sample(0)
    assert with_tracklets(sample, 0, both, np.random.default_rng(0)) is sample
    other.calibration = drive.calibration
    assert len(with_tracklets(sample, 0, both, np.random.default_rng(0)).objects[1]) > len(sample.objects[1])
