"""Relation distillation against its definition, pixel by pixel."""

import math

import pytest
import torch

from effcli.nn.relations import log_relation, pool_to, relation_distillation


def maps(seed, channels=5):
    return torch.randn(2, channels, 3, 4, generator=torch.Generator().manual_seed(seed))


def slow(student, teacher, temperature):
    total = 0.0
    for s, t in zip(student.flatten(2), teacher.flatten(2), strict=True):
        for i in range(s.shape[1]):
            rows = []
            for f in (s, t):
                cosines = [
                    float(f[:, i] @ f[:, j] / (f[:, i].norm() * f[:, j].norm())) for j in range(f.shape[1])
                ]
                weights = [math.exp(c / temperature) for c in cosines]
                rows.append([w / sum(weights) for w in weights])
            q, p = rows
            total += sum(b * math.log(b / a) for a, b in zip(q, p, strict=True))
    return total


@pytest.mark.parametrize("temperature", [1.0, 0.2])
def test_against_the_definition(temperature):
    student, teacher = maps(0), maps(1, channels=7)
    expected = slow(student, teacher, temperature)
    assert float(relation_distillation(student, teacher, temperature=temperature)) == pytest.approx(
        expected, rel=1e-4
    )
    mean = relation_distillation(student, teacher, temperature=temperature, reduction="mean")
    assert float(mean) == pytest.approx(expected / 24, rel=1e-4)


def test_equal_relations_cost_nothing_and_each_pixel_may_have_its_own_scale():
    features = maps(2)
    gains = torch.rand(2, 1, 3, 4, generator=torch.Generator().manual_seed(3)) + 0.1
    assert abs(float(relation_distillation(features, features))) < 1e-4
    assert abs(float(relation_distillation(features * gains, features))) < 1e-4


def test_gradients_reach_the_student_alone():
    student, teacher = maps(4).requires_grad_(), maps(5).requires_grad_()
    relation_distillation(student, teacher).backward()
    assert student.grad is not None and student.grad.abs().max() > 1e-4
    assert teacher.grad is None


def test_rows_are_distributions():
    torch.testing.assert_close(log_relation(maps(6)).exp().sum(-1), torch.ones(2, 12))


def test_pooling_bounds_the_sides():
    assert pool_to(torch.zeros(1, 2, 40, 8), 16).shape == (1, 2, 16, 8)
    features = maps(7)
    assert pool_to(features, 16) is features and pool_to(features, None) is features
    torch.testing.assert_close(pool_to(torch.full((1, 1, 32, 32), 3.0), 16), torch.full((1, 1, 16, 16), 3.0))
