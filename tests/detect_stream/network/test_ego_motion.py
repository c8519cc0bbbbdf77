"""The cameras' own motion: on the ground, in a map, in the flow, and through augmentation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from effcli.core.runtime import Runtime
from effcli.detect_stream.data.synthetic_drives import Drive
from effcli.detect_stream.network.box_decoding import Limits
from effcli.detect_stream.network.config import TINY
from effcli.detect_stream.network.ego_motion import EgoSetting, bev_motion, ego_flow, ego_motion_of, moved_map
from effcli.detect_stream.network.streamdsgn import StreamDsgn
from effcli.detect_stream.sources.frame_source import Arrival
from effcli.detect_stream.stream.stream_detector import StreamDetector
from effcli.detect_stream.training.augmentation import mirrored, random_turn
from effcli.detect_stream.training.clips import Clips, collate
from effcli.detect_stream.weights import TrainedDetector, load_detector


def moved(points: np.ndarray, motion: np.ndarray) -> np.ndarray:
    """Points ``[N, 2]`` of the ground after a turn and a shift."""
    cos, sin = np.cos(motion[0]), np.sin(motion[0])
    return points @ np.array([[cos, sin], [-sin, cos]]) + motion[1:]


def test_still_points_move_as_the_poses_say() -> None:
    drive = Drive(3, 6, "turn")
    before, now = drive.pose(2), drive.pose(4)
    ground = np.random.default_rng(0).uniform((5, -10), (35, 10), (20, 2))
    camera = np.stack([-ground[:, 1], np.ones(20), ground[:, 0], np.ones(20)])
    there = np.linalg.inv(now) @ before @ camera
    seen = np.stack([there[2], -there[0]], 1)
    motion = bev_motion(before, now)
    assert abs(motion[0]) > 0.005
    np.testing.assert_allclose(moved(ground, motion), seen, atol=1e-4)


def test_a_map_goes_where_the_flow_says() -> None:
    motion = torch.tensor([[0.05, -1.8, 0.6]])
    spot = torch.zeros(1, 1, 64, 64)
    spot[0, 0, 20, 40] = 1
    arrived = moved_map(spot, motion, TINY)[0, 0]
    row, column = divmod(int(arrived.argmax()), 64)
    flow = ego_flow(motion, TINY)[0, :, row, column]
    assert column - float(flow[0]) == pytest.approx(40, abs=0.7)
    assert row - float(flow[1]) == pytest.approx(20, abs=0.7)
    assert float(flow.abs().max()) > 2
    none = ego_flow(torch.zeros(2, 3), TINY)
    assert float(none.abs().max()) < 1e-5


def test_the_flow_of_a_still_scene_is_that_of_the_cameras_however_fast() -> None:
    torch.manual_seed(0)
    network = StreamDsgn(TINY).eval()
    before = torch.rand(1, 8, 64, 64).repeat_interleave(2, 1)
    motion = torch.tensor([[0.0, -12.0, 0.0]])  # 20 cells, farther than is looked for
    now = moved_map(before, motion, TINY)
    with_it, without = network.flow(now, before, motion), network.flow(now, before)
    inside = (slice(None), slice(None), slice(8, 56), slice(8, 36))
    torch.testing.assert_close(with_it[inside], ego_flow(motion, TINY)[inside], atol=1e-3, rtol=0)
    assert float(without[0, 0][8:56, 8:36].mean()) > -6


def test_augmentation_moves_the_motion_along() -> None:
    clips = Clips([Drive(5, 6, "turn")], TINY)
    sample = clips.sample(1)
    points = np.random.default_rng(1).uniform((5, -10), (35, 10), (20, 2))
    assert sample.motion is not None
    after = moved(points, sample.motion)
    flipped = mirrored(sample)
    assert flipped.motion is not None
    flip = np.array([1, -1])
    np.testing.assert_allclose(moved(points * flip, flipped.motion), after * flip, atol=1e-5)
    turn = random_turn(np.random.default_rng(2))
    batch = collate([sample], [turn], TINY)
    assert batch.motions is not None
    ground = turn[:2, :2].T
    np.testing.assert_allclose(moved(points @ ground, batch.motions[0].numpy()), after @ ground, atol=1e-4)
    assert collate([sample, replace(sample, motion=None)], [turn, turn], TINY).motions is None


def test_a_detector_uses_poses_as_it_was_trained_or_as_it_is_told() -> None:
    runtime, drive = Runtime(torch.device("cpu"), "fp32", 0), Drive(6, 4, "fast-ego")
    plain = load_detector("builtin:street-tiny")
    config = plain.network.config.model_copy(update={"ego_motion": True})
    network = StreamDsgn(config).eval()
    network.load_state_dict(plain.network.state_dict())

    def found(detector: TrainedDetector, setting: EgoSetting) -> np.ndarray:
        used = ego_motion_of(setting, detector.network.config.ego_motion, drive.pose(0))
        machine = StreamDetector(
            detector, drive.calibration, (128, 416), runtime, 10.0, Limits(score=0.05), ego_motion=used
        )
        for i in range(2):
            result = machine.detect(machine.prepare(Arrival(i, drive.frame(i), pose=drive.pose(i))))
        return result.velocities

    with_poses = found(plain, True)
    assert np.array_equal(found(TrainedDetector(network, "next"), None), with_poses)
    without = found(plain, None)
    assert without.shape != with_poses.shape or not np.allclose(without, with_poses)
    speed = np.linalg.norm(drive.pose(1)[:3, 3] - drive.pose(0)[:3, 3]) * 10
    assert np.median(with_poses[:, 0]) == pytest.approx(-speed, abs=float(0.5 * speed))
    seen = found(plain, "pictures")
    assert np.median(seen[:, 0]) == pytest.approx(np.median(with_poses[:, 0]), abs=float(0.05 * speed))


def test_where_the_motion_is_taken_from() -> None:
    pose = np.eye(4)
    assert ego_motion_of(None, False, pose) == ego_motion_of(False, True, pose) == "unused"
    assert ego_motion_of(None, True, pose) == ego_motion_of(True, False, pose) == "poses"
    assert ego_motion_of(None, True, None) == ego_motion_of("pictures", False, pose) == "pictures"
