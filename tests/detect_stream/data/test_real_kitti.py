"""KITTI's own files: the stereo sequence that tests are given, and label files of 14 more sequences."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest

from effcli.detect_stream.data.boxes3d import cut_to_image, image_boxes
from effcli.detect_stream.data.frame_objects import FrameObjects
from effcli.detect_stream.data.kitti_labels import read_tracking_labels, tracking_lines
from effcli.detect_stream.data.kitti_tracking import KittiSequence
from effcli.detect_stream.evaluation.kitti_ap import Rule, average_precision, precision_curve
from effcli.detect_stream.network.config import TINY
from effcli.detect_stream.stream.output_pairing import pair_outputs
from effcli.detect_stream.training.posed_sequences import PosedByPictures
from tests.data_root import data_file
from tests.detect_stream.simulated_outputs import simulate


@pytest.fixture(scope="module")
def sequence(tmp_path_factory: pytest.TempPathFactory) -> KittiSequence:
    root = tmp_path_factory.mktemp("kitti")
    with tarfile.open(data_file("kitti-stereo-sequence/kitti_tracking_0000_frames_049-139.tar")) as archive:
        archive.extractall(root, filter="data")
    return KittiSequence(root, "0000")


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> list[dict[int, FrameObjects]]:
    root = tmp_path_factory.mktemp("labels")
    with tarfile.open(data_file("kitti-stereo-sequence/kitti_tracking_labels_0002-0015.tar.gz")) as archive:
        archive.extractall(root, filter="data")
    return [read_tracking_labels(file) for file in sorted(root.rglob("*.txt"))]


def test_boxes_are_where_the_label_says_in_the_picture(sequence: KittiSequence) -> None:
    assert len(sequence) == 91
    assert sequence.calibration.focal_baseline == pytest.approx(384.38, abs=0.1)
    errors = []
    height, width = sequence.frame(0).left.shape[:2]
    for i in range(len(sequence)):
        objects = sequence.objects(i)
        chosen = objects.pick([n for n, kind in enumerate(objects.kinds) if kind != "DontCare"])
        whole = chosen.pick((chosen.truncated == 0) & (chosen.boxes[:, 0] < 40))
        seen = cut_to_image(image_boxes(whole.boxes, sequence.calibration.left), height, width)
        errors += np.abs(seen - whole.image_boxes).max(1).tolist()
    assert len(errors) > 100
    assert np.median(errors) < 6  # annotators drew them by hand


@pytest.mark.slow
def test_visual_odometry_agrees_with_the_speed_of_the_gps(sequence: KittiSequence) -> None:
    posed = PosedByPictures(sequence, TINY)
    steps = [np.linalg.norm(posed.pose(i)[:3, 3] - posed.pose(i - 1)[:3, 3]) for i in range(1, 91)]
    rows = np.loadtxt(sequence.root / "oxts" / "0000.txt")
    assert list(rows[:, 0]) == list(range(49, 140))
    speed = (rows[1:, 9] + rows[:-1, 9]) / 2  # forward, metres a second; a frame takes 0.1033 s
    errors = np.abs(np.array(steps) - 0.10328 * speed)
    assert errors.mean() < 0.02  # of half a metre; disparities are half a pixel smaller than by the LiDAR
    assert errors.max() < 0.05


def test_disparity_agrees_with_the_lidar(sequence: KittiSequence) -> None:
    frame, depth = sequence.frame(40), sequence.depth(40)
    assert depth is not None
    rows, columns = np.nonzero((depth > 5) & (depth < 40))
    left, right = (picture.mean(2) for picture in (frame.left, frame.right))

    def error(factor: float) -> float:
        at = np.rint(columns - factor * sequence.calibration.focal_baseline / depth[rows, columns]).astype(
            int
        )
        inside = (at >= 0) & (at < right.shape[1])
        return float(np.abs(right[rows[inside], at[inside]] - left[rows[inside], columns[inside]]).mean())

    assert error(1.0) < 0.8 * min(error(0.8), error(1.25))


def test_labels_come_back_as_they_were(sequence: KittiSequence, tmp_path: Path) -> None:
    for i in (0, 60, 90):
        objects = sequence.objects(i)
        file = tmp_path / "labels.txt"
        file.write_text("\n".join(tracking_lines(i, objects)) + "\n")
        again = read_tracking_labels(file)[i]
        assert again.kinds == objects.kinds
        real = [n for n, kind in enumerate(objects.kinds) if kind != "DontCare"]
        np.testing.assert_allclose(again.boxes[real, :6], objects.boxes[real, :6], atol=1e-5)
        np.testing.assert_allclose(np.cos(again.boxes[real, 6] - objects.boxes[real, 6]), 1, atol=1e-9)


def test_motion_is_smooth_in_the_world(sequence: KittiSequence) -> None:
    places = []
    for i in range(len(sequence)):
        pose = sequence.pose(i)
        assert pose is not None
        places.append(pose[:3, 3])
    speeds = np.linalg.norm(np.diff(places, axis=0), axis=1) * 10
    assert 1 < np.median(speeds) < 25
    assert np.abs(np.diff(speeds)).max() < 3


@pytest.mark.slow
def test_real_labels_as_detections_are_perfect_and_late_ones_are_not(
    labels: list[dict[int, FrameObjects]],
) -> None:
    assert len(labels) == 14
    rule = Rule("centre", 0.5)
    on_time, late, truth = [], [], []
    for frames in labels:
        n = max(frames) + 1
        empty = next(iter(frames.values())).pick([])
        sequence = [frames.get(i, empty) for i in range(n)]
        outputs = simulate([0.06], n, 10.0)
        moments = [i / 10 for i in range(n)]
        pairing = pair_outputs([one[2] for one in outputs], [one[0] / 10 for one in outputs], moments)
        truth += sequence
        on_time += sequence
        late += [empty if k is None else sequence[outputs[k][0]] for k in pairing]
    curves = [precision_curve(found, truth, "Car", rule) for found in (on_time, late)]
    assert curves[0] is not None and curves[1] is not None
    assert average_precision(curves[0]) == pytest.approx(100.0)
    assert average_precision(curves[1]) < 90  # one frame late, cars have moved by more than half a metre
