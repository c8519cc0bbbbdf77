"""Anchors, codes and losses: closed forms and limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from effcli.detect_stream.losses import (
    ObjectTensors,
    box_losses,
    depth_loss,
    histories,
    motion_loss,
    score_loss,
    smooth_l1,
)
from effcli.detect_stream.network.anchors import (
    anchors_of,
    assign,
    decode,
    direction_bin,
    encode,
    with_direction,
)
from effcli.detect_stream.network.config import FULL, TINY

CAR = torch.tensor([20.0, 3.0, -0.9, 3.9, 1.6, 1.5, 0.2])


def test_codes_come_back() -> None:
    torch.manual_seed(0)
    anchors = anchors_of(TINY)[::997]
    boxes = anchors + torch.randn_like(anchors) * 0.2
    torch.testing.assert_close(decode(encode(boxes, anchors), anchors), boxes, rtol=1e-4, atol=1e-4)


def test_directions_come_back() -> None:
    theta = torch.linspace(-6, 6, 301)
    found = with_direction(theta % math.pi, direction_bin(theta))  # what is known up to half turns
    torch.testing.assert_close(torch.cos(found - theta), torch.ones(301), rtol=0, atol=1e-4)


def test_anchors_of_the_two_ways() -> None:
    ours, released = (anchors_of(c)[:, 0].unique() for c in (TINY, TINY.model_copy(update={"compat": True})))
    assert float(ours[0]) == pytest.approx(2.3)
    assert float(released[0]) == pytest.approx(2.0)
    assert float(anchors_of(FULL)[6, 0] - anchors_of(FULL)[0, 0]) == pytest.approx(51.2 / 255, abs=1e-4)


def test_assignment() -> None:
    anchors = anchors_of(TINY)
    boxes = torch.stack([CAR, torch.tensor([10.0, -5.0, -0.8, 0.8, 0.6, 1.7, 1.0])])
    found = assign(anchors, boxes, torch.tensor([0, 1]))
    cars, walkers = ((found.classes == n).nonzero()[:, 0] for n in (0, 1))
    assert len(cars) and len(walkers)  # the best anchor counts, however little it overlaps
    assert (found.objects[walkers] == 1).all()
    assert (anchors[cars, :2] - CAR[:2]).norm(dim=1).max() < 1.5
    assert (anchors[cars, 6] == 0).all()
    assert not (found.classes == 2).any()
    assert (assign(anchors, boxes[:0], torch.zeros(0, dtype=torch.long)).classes == -1).all()


def test_score_loss_of_certain_scores() -> None:
    classes = torch.tensor([0, -1, -2])
    good = torch.tensor([[20.0, -20, -20], [-20, -20, -20], [20, 20, 20]])  # the last one does not count
    assert float(score_loss(good, classes)) == pytest.approx(0, abs=1e-6)
    even = torch.zeros(1, 3)
    expected = (0.25 * 0.25 * math.log(2) + 2 * 0.75 * 0.25 * math.log(2)) / (1 + 10)
    assert float(score_loss(even, torch.tensor([0]))) == pytest.approx(expected)


def test_box_losses_of_the_truth_are_zero() -> None:
    anchors = anchors_of(TINY)[[100, 2000]]
    targets = anchors + torch.tensor([0.3, 0.1, 0, 0, 0, 0, 0.4])
    logits = torch.nn.functional.one_hot(direction_bin(targets[:, 6]), 2).float() * 40
    found = box_losses(encode(targets, anchors), logits, anchors, targets)
    assert all(float(value) == pytest.approx(0, abs=1e-3) for value in found.values())


def moving(acceleration: float) -> list[torch.Tensor]:
    """A car at t-2, t-1, t and t+1."""
    places = []
    for t in range(4):
        place = CAR.clone()
        place[0] += 1.0 * t + acceleration * t * (t - 1) / 2
        places.append(place[None])
    return places


def test_motion_loss_of_constant_velocity_is_zero() -> None:
    before2, before, now, following = moving(0.0)
    predicted = following.clone().requires_grad_()
    loss = motion_loss(predicted, now, before, before2, torch.ones(1), 1)
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6)


def test_motion_to_a_further_horizon_counts_per_frame() -> None:
    before2, before, now, _ = moving(0.0)
    third = now + 3 * (now - before)
    assert float(motion_loss(third, now, before, before2, torch.ones(1), 1, ahead=3)) == pytest.approx(
        0, abs=1e-6
    )
    third[0, 0] += 1.5
    off = motion_loss(third, now, before, before2, torch.ones(1), 1, ahead=3)
    assert float(off) == pytest.approx(1.2 * float(smooth_l1(torch.tensor(0.5))) / 10, abs=1e-5)


def test_motion_loss_of_constant_acceleration_has_its_first_term_alone() -> None:
    before2, before, now, following = moving(0.5)
    loss = motion_loss(following, now, before, before2, torch.ones(1), 1)
    assert float(loss) == pytest.approx(float(smooth_l1(torch.tensor(0.5))) / 10, abs=1e-5)


def test_motion_loss_moves_the_prediction_alone() -> None:
    parts = [part.clone().requires_grad_() for part in moving(0.7)]
    before2, before, now, following = parts
    known = [
        ObjectTensors(part.detach(), torch.zeros(1, dtype=torch.long), torch.tensor([7])) for part in parts
    ]
    places, use, use2 = histories([known[3], known[2], known[1], known[0]], by_overlap=False)
    assert use.all() and use2.all()
    motion_loss(following, places[:, 0], places[:, 1], places[:, 2], use2.float(), 1).backward()
    assert following.grad is not None and following.grad[0, 0] != 0
    assert all(part.grad is None for part in (before2, before, now))


def test_tracks_find_what_places_do_not() -> None:
    ahead = torch.tensor([9.0, 0, 0, 0, 0, 0, 0])
    fast = [
        ObjectTensors(CAR[None] + k * ahead, torch.zeros(1).long(), torch.tensor([3]))
        for k in (0, -1, -2, -3)
    ]
    assert histories(fast, by_overlap=False)[1].tolist() == [True]
    assert histories(fast, by_overlap=True)[1].tolist() == [False]
    gone = [
        fast[0],
        fast[1],
        ObjectTensors(torch.zeros(0, 7), torch.zeros(0).long(), torch.zeros(0).long()),
        fast[3],
    ]
    assert histories(gone, by_overlap=False)[1].tolist() == [False]


def test_depth_loss_of_the_right_logits_is_their_entropy() -> None:
    config = TINY
    depth = torch.zeros(1, 8, 8)
    depth[0, 0, 0] = 2.0 + 0.6 * 10.5  # the middle of bin 10 of 64
    logits = torch.full((1, 16, 2, 2), 0.0)
    even = depth_loss(logits, depth, config)
    assert float(even) == pytest.approx(math.log(64), abs=1e-4)
    slow = torch.nn.functional.interpolate(
        torch.randn(1, 1, 16, 2, 2, generator=torch.Generator().manual_seed(0)),
        scale_factor=4.0,
        mode="trilinear",
        align_corners=True,
    )
    small = torch.randn(1, 16, 2, 2, generator=torch.Generator().manual_seed(0))
    expected = -slow[0, 0].log_softmax(0)[10, 0, 0]
    assert float(depth_loss(small, depth, config)) == pytest.approx(float(expected), abs=1e-4)


def test_depth_between_two_bins_counts_for_both() -> None:
    depth = torch.zeros(1, 8, 8)
    depth[0, 0, 0] = 2.0 + 0.6 * 10.75
    small = torch.randn(1, 16, 2, 2, generator=torch.Generator().manual_seed(0))
    big = torch.nn.functional.interpolate(
        small[:, None], scale_factor=4.0, mode="trilinear", align_corners=True
    )
    log_p = big[0, 0].log_softmax(0)[:, 0, 0]
    expected = -(0.75 * log_p[10] + 0.25 * log_p[11])
    assert float(depth_loss(small, depth, TINY)) == pytest.approx(float(expected), abs=1e-4)
    assert float(depth_loss(small, torch.zeros(1, 8, 8), TINY)) == 0.0
    assert np.isfinite(float(depth_loss(small, depth * 100, TINY)))
