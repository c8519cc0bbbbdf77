"""Distillation: identities, a slow reference, and the scale of each term."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align

from effcli.continual.egor.detectors.detector import Raw
from effcli.continual.egor.detectors.gfl import Gfl, resnet50_config, tiny_config
from effcli.continual.egor.losses import (
    box_distance,
    chosen_places,
    class_distance,
    distillation,
    feature_distance,
    level_of,
    without_duplicates,
)
from effcli.continual.egor.recipe import DistillationSection

ONE = torch.tensor(1.0)


@pytest.fixture(scope="module")
def teacher() -> Gfl:
    torch.manual_seed(0)
    detector = Gfl(tiny_config(4)).eval()
    with torch.no_grad():
        detector.gfl_cls.weight.normal_(0, 0.1)
        detector.gfl_reg.weight.normal_(0, 0.1)
    return detector


@pytest.fixture
def student(teacher: Gfl) -> Gfl:
    torch.manual_seed(1)
    grown = copy.deepcopy(teacher)
    grown.grow(2)
    return grown


def looked(detector: Gfl, seed: int = 0) -> Raw:
    """What a student, which learns, or the teacher, which does not, says of three images."""
    torch.manual_seed(seed)
    with torch.set_grad_enabled(detector.n_classes > 4):
        raw: Raw = detector(torch.randn(3, 3, 64, 64))
    return raw


PASTED = (
    torch.tensor([[4.0, 4, 40, 30]]),
    torch.zeros(0, 4),
    torch.tensor([[0.0, 0, 60, 60], [10, 10, 30, 40]]),
)


def test_nothing_is_lost_where_nothing_has_changed(teacher: Gfl, student: Gfl) -> None:
    new, old = looked(student), looked(teacher)
    terms = distillation(student, new, old, PASTED, 4, ONE, DistillationSection())
    assert terms["class_distance"].item() == 0
    assert terms["feature_distance"].item() == 0
    torch.stack(list(terms.values())).sum().backward()
    for name, parameter in student.named_parameters():
        gradient = 0.0 if parameter.grad is None else float(parameter.grad.abs().max())
        assert gradient == pytest.approx(0, abs=1e-4), name


def test_new_columns_get_no_gradient_from_distillation(teacher: Gfl, student: Gfl) -> None:
    with torch.no_grad():
        student.gfl_cls.weight.add_(0.05)
        student.gfl_reg.weight.mul_(1.5)
    terms = distillation(student, looked(student), looked(teacher), PASTED, 4, ONE, DistillationSection())
    torch.stack(list(terms.values())).sum().backward()
    gradient = student.gfl_cls.weight.grad
    assert gradient is not None
    assert float(gradient[4:].abs().max()) == 0
    assert float(gradient[:4].abs().max()) > 0


def test_the_balance_multiplies_every_term(teacher: Gfl, student: Gfl) -> None:
    with torch.no_grad():
        student.gfl_cls.weight.add_(0.05)
        student.gfl_reg.weight.mul_(1.5)
        student.cls_tower[0].weight.add_(0.02)
    new, old = looked(student), looked(teacher)
    settings = DistillationSection()
    whole = distillation(student, new, old, PASTED, 4, ONE, settings)
    half = distillation(student, new, old, PASTED, 4, ONE / 2, settings)
    none = distillation(student, new, old, PASTED, 4, ONE * 0, settings)
    off = distillation(student, new, old, PASTED, 4, ONE / 2, DistillationSection(balance=False))
    for name, value in whole.items():
        assert float(value) > 0, name
        assert float(half[name]) == pytest.approx(float(value) / 2, rel=1e-5)
        assert float(none[name]) == 0
        assert float(off[name]) == pytest.approx(float(value), rel=1e-5)


def test_class_distance_against_a_loop(teacher: Gfl, student: Gfl) -> None:
    with torch.no_grad():
        student.gfl_cls.weight.add_(0.05)
    new, old = looked(student), looked(teacher)
    places = chosen_places(old.logits.sigmoid().amax(-1), DistillationSection(top_k=7))
    expected = 0.0
    for b in range(3):
        best = sorted(range(80), key=lambda i: -float(old.logits[b, i].max()))[:7]
        squares = [float((new.logits[b, i, c] - old.logits[b, i, c]) ** 2) for i in best for c in range(4)]
        expected += sum(squares) / (7 * 4)
    assert float(class_distance(new, old, places, 4)) == pytest.approx(expected, rel=1e-4)


def test_the_scale_of_the_box_term() -> None:
    detector = Gfl(resnet50_config(1))
    teacher_edges, student_edges = torch.zeros(1, 68), torch.zeros(1, 4, 17)
    student_edges[..., 3] = 10.0
    value = detector.box_distances(student_edges.flatten(1), teacher_edges)
    assert value.tolist()[0] == pytest.approx([0.2204] * 4, abs=5e-5)
    log_q = (student_edges / 10).log_softmax(-1)
    textbook = 100 * F.kl_div(log_q[0], torch.full((4, 17), 1 / 17), reduction="none").sum(-1)
    assert textbook.tolist() == pytest.approx([3.7464] * 4, abs=5e-4)


def test_box_distance_weights_by_the_students_old_scores(teacher: Gfl, student: Gfl) -> None:
    with torch.no_grad():
        student.gfl_reg.weight.mul_(1.5)
    new, old = looked(student), looked(teacher)
    places = torch.zeros(3, 80, dtype=torch.bool)
    places[1, 5] = places[2, 70] = True
    expected = 0.0
    for b, i in ((1, 5), (2, 70)):
        w = float(new.logits[b, i, :4].sigmoid().max())
        for edge in range(4):
            p = (old.edges[b, i].view(4, 9)[edge] / 10).softmax(-1)
            log_q = (new.edges[b, i].view(4, 9)[edge] / 10).log_softmax(-1)
            expected += w * 100 * float((p * (p.log() - log_q)).mean()) / 4
    assert float(box_distance(student, new, old, places, 4)) == pytest.approx(expected, rel=1e-3)


def test_top_places_do_not_fail_on_small_images() -> None:
    response = torch.rand(2, 538)
    assert int(chosen_places(response, DistillationSection(top_k=1000)).sum()) == 2 * 538
    chosen = chosen_places(response, DistillationSection(top_k=100))
    assert chosen.sum(1).tolist() == [100, 100]
    assert float(response[chosen].min()) >= float(response[~chosen].max()) - 1  # of each image its own
    for row in range(2):
        assert float(response[row][chosen[row]].min()) >= float(response[row][~chosen[row]].max())


def test_erd_takes_places_above_mean_and_two_deviations() -> None:
    response = torch.rand(2, 538)
    response[0, :9] = 5.0
    chosen = chosen_places(response, DistillationSection(select="threshold"))
    for row in range(2):
        limit = float(response[row].mean() + 2 * response[row].std())
        assert chosen[row].tolist() == [value > limit for value in response[row].tolist()]
    assert chosen[0].sum() == 9


def said(boxes_of: dict[int, float], detector: Gfl) -> Raw:
    """Places with edges of the given length in strides, and falling scores of class 0."""
    features = tuple(torch.zeros(1, 64, 64 // s, 64 // s) for s in detector.strides)
    logits = torch.full((1, 80, 4), -9.0)
    edges = torch.full((1, 80, 4, 9), -30.0)
    edges[..., 0] = 0
    for rank, (place, length) in enumerate(boxes_of.items()):
        logits[0, place, 0] = 3.0 - rank
        edges[0, place, :, 0] = -30
        edges[0, place, :, int(length)] = 30
    return Raw(logits, edges.flatten(2), features)


def test_the_nms_of_the_release_keeps_neighbours_that_a_right_one_removes(teacher: Gfl) -> None:
    raw = said({9: 2, 10: 2, 11: 2, 12: 2}, teacher)  # centres 8 pixels apart, boxes of 32 or of 4 pixels
    places = torch.zeros(1, 80, dtype=torch.bool)
    places[0, 9:13] = True
    scores = raw.logits.sigmoid()
    assert without_duplicates(teacher, raw, scores, places, "strides")[0].nonzero()[:, 0].tolist() == [
        9,
        10,
        11,
        12,
    ]
    assert without_duplicates(teacher, raw, scores, places, "pixels")[0].nonzero()[:, 0].tolist() == [9]


def test_images_and_classes_do_not_suppress_each_other(teacher: Gfl) -> None:
    one = said({9: 2, 10: 2}, teacher)
    one.logits[0, 10] = torch.tensor([-9.0, 2.5, -9, -9])
    raw = Raw(torch.cat([one.logits] * 2), torch.cat([one.edges] * 2), features=one.features)
    places = torch.zeros(2, 80, dtype=torch.bool)
    places[:, 9:11] = True
    kept = without_duplicates(teacher, raw, raw.logits.sigmoid(), places, "pixels")
    assert kept.nonzero().tolist() == [[0, 9], [0, 10], [1, 9], [1, 10]]


def test_feature_distance_is_one_norm_a_level() -> None:
    torch.manual_seed(0)
    new: list[Tensor] = [torch.randn(3, 5, 16, 16), torch.randn(3, 5, 8, 8)]
    old: list[Tensor] = [torch.randn(3, 5, 16, 16), torch.randn(3, 5, 8, 8)]
    small, large = torch.tensor([[4.0, 4, 40, 30]]), torch.tensor([[0.0, 0, 127, 127]])
    pasted = (torch.cat([small, large]), torch.zeros(0, 4), small + 10)
    expected = 0.0
    for level, stride, rois in (
        (0, 8, [[0.0, *small[0].tolist()], [2.0, *(small + 10)[0].tolist()]]),
        (1, 16, [[0.0, *large[0].tolist()]]),
    ):
        mine, theirs = (
            roi_align(maps[level], torch.tensor(rois), 3, 1 / stride, -1, aligned=True) for maps in (new, old)
        )
        expected += math.sqrt(float((mine - theirs).square().sum()))
    assert float(feature_distance(new, old, pasted, (8, 16))) == pytest.approx(expected, rel=1e-4)


def test_levels_of_boxes() -> None:
    sides = torch.tensor([10.0, 56, 111, 113, 225, 2000])
    boxes = torch.stack([torch.zeros(6), torch.zeros(6), sides, sides], 1)
    assert level_of(boxes, 5).tolist() == [0, 0, 0, 1, 2, 4]
    assert level_of(boxes, 2).tolist() == [0, 0, 0, 1, 1, 1]


def test_images_are_summed_or_scaled_to_a_batch_of_8(teacher: Gfl, student: Gfl) -> None:
    with torch.no_grad():
        student.gfl_cls.weight.add_(0.05)
    new, old = looked(student), looked(teacher)
    summed = distillation(student, new, old, PASTED, 4, ONE, DistillationSection(reduction="sum"))
    scaled = distillation(student, new, old, PASTED, 4, ONE, DistillationSection())
    assert float(scaled["class_distance"]) == pytest.approx(float(summed["class_distance"]) * 8 / 3, rel=1e-5)
    assert float(scaled["feature_distance"]) == pytest.approx(float(summed["feature_distance"]), rel=1e-5)
