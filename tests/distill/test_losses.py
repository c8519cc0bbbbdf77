"""The losses against slow, obvious forms: docs/methods/rdd.md, Properties that the tests check."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from effcli.core.runtime import create_runtime
from effcli.distill import losses
from effcli.distill.losses import (
    cfd,
    maps_distance,
    memory_relation_loss,
    min_snr_loss,
    pair_relation_loss,
    truncated_snr_loss,
)
from effcli.distill.rcfd import FeatureLoss
from effcli.distill.rdd import RelationLoss
from effcli.distill.time_grid import Point
from effcli.nn.relations import relation_distillation
from tests.distill.small_teacher import feature_network, maps, recipe, teacher, whole

WIDE = torch.float64


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "_CHUNK_ENTRIES", 100)  # rows of 2 or 3 at a time, and a rest


def kl(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def slow_pairs(student: torch.Tensor, target: torch.Tensor, tau: float) -> torch.Tensor:
    """Every pair of images by itself."""
    total, n_rows = torch.zeros(()), 0
    ours, theirs = (F.normalize(m.flatten(2), dim=1) for m in (student, target))
    for b in range(len(ours)):
        for d in range(len(ours)):
            rows = kl(
                torch.log_softmax(theirs[b].T @ theirs[d] / tau, -1),
                torch.log_softmax(ours[b].T @ ours[d] / tau, -1),
            )
            total, n_rows = total + rows.sum(), n_rows + len(rows)
    assert n_rows == len(ours) ** 2 * ours.shape[2]
    return total / n_rows


def test_the_distance_of_all_maps_is_that_of_unit_channels():
    ours, theirs = ([maps(2, 6, 4, seed), maps(2, 3, 2, seed)] for seed in (0, 1))
    expected = 0.0
    for a, b in zip(ours, theirs, strict=True):
        cosines = F.cosine_similarity(a, b, dim=1)
        expected += float((2 - 2 * cosines).mean())
    assert float(maps_distance(ours, theirs)) == pytest.approx(expected, rel=1e-5)
    scaled = [3 * one for one in ours]
    assert float(maps_distance(scaled, ours)) == pytest.approx(0, abs=1e-6)


def slow_memory(student, target, contrast, tau):
    ours, theirs = (F.normalize(m.flatten(2), dim=1) for m in (student, target))
    rows = [
        kl(torch.log_softmax(contrast @ t[:, i] / tau, -1), torch.log_softmax(contrast @ s[:, i] / tau, -1))
        for s, t in zip(ours, theirs, strict=True)
        for i in range(s.shape[1])
    ]
    return torch.stack(rows).mean()


def both(fast, slow, student: torch.Tensor) -> None:
    """Equal values and equal gradients."""
    found = []
    for function in (fast, slow):
        x = student.clone().requires_grad_()
        value = 3 * function(x)  # a factor, as weights are
        (gradient,) = torch.autograd.grad(value, x)
        found.append((value.detach().to(WIDE), gradient))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("tau", [1.0, 0.1])
def test_pairs(tau, small_chunks):
    student, target = maps(3), maps(3, seed=1)
    both(lambda x: pair_relation_loss(x, target, tau), lambda x: slow_pairs(x, target, tau), student)


@pytest.mark.parametrize("tau", [1.0, 0.1])
def test_memory(tau, small_chunks):
    student, target = maps(3), maps(3, seed=1)
    contrast = F.normalize(maps(1, 40, 6, seed=2)[0].flatten(1)[:, :6], dim=1)
    both(
        lambda x: memory_relation_loss(x, target, contrast, tau),
        lambda x: slow_memory(x, target, contrast, tau),
        student,
    )


def test_one_image_has_only_itself_to_relate_to():
    student, target = maps(1), maps(1, seed=1)
    intra = relation_distillation(student, target, reduction="mean")
    torch.testing.assert_close(pair_relation_loss(student, target), intra)
    two, other = maps(2), maps(2, seed=1)
    assert not torch.isclose(
        pair_relation_loss(two, other), relation_distillation(two, other, reduction="mean")
    )


def test_equal_maps_cost_nothing():
    m = maps()
    contrast = F.normalize(torch.randn(20, 6), dim=1)
    for value in (pair_relation_loss(m, m), memory_relation_loss(m, m, contrast, 0.1)):
        assert abs(value.item()) < 1e-6


def test_only_sharpening_costs_equal_features():
    phi = maps().mean((2, 3))
    assert abs(cfd(phi, phi, 1.0).item()) < 1e-6
    assert cfd(phi, phi, 0.9).item() > 1e-5
    p, q = torch.softmax(phi / 0.9, 1), torch.softmax(maps(seed=3).mean((2, 3)), 1)
    expected = (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(cfd(maps(seed=3).mean((2, 3)), phi, 0.9), expected)


def test_relations_do_not_see_the_length_of_pixel_vectors():
    student, target = maps(), maps(seed=1)
    scale = 0.5 + torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(4))
    contrast = F.normalize(torch.randn(20, 6), dim=1)
    for loss in (pair_relation_loss, lambda s, t: memory_relation_loss(s, t, contrast, 0.1)):
        torch.testing.assert_close(loss(student * scale, target), loss(student, target), rtol=1e-4, atol=1e-7)


def test_gradients_reach_the_student_alone():
    network = nn.Conv2d(1, 6, 3, 2, 1)
    features = feature_network()
    features = type(features)("trainable", network, lambda x: [network(x)])
    loss = RelationLoss(
        recipe(), features, whole(teacher()).guided, create_runtime(device="cpu", precision="fp32")
    )
    x, target = (maps(4, 1, 8, seed=s).requires_grad_() for s in (0, 1))
    terms = loss(x, target, point(4))
    assert terms.keys() == {"cfd", "pixel", "is_p2p", "m_p2p"}
    for name in ("cfd", "is_p2p", "m_p2p"):
        network.zero_grad()
        (gradient,) = torch.autograd.grad(terms[name], x, retain_graph=True)
        assert gradient.abs().sum() > 0, name
        assert torch.autograd.grad(terms[name], target, retain_graph=True, allow_unused=True) == (None,)


def point(n: int) -> Point:
    alpha = torch.linspace(0.3, 0.9, n)[:, None, None, None]
    return Point(torch.zeros(n, dtype=torch.long), alpha, (1 - alpha**2).sqrt())


def total(loss, x, target) -> torch.Tensor:
    terms = loss(x, target, point(len(x)))
    return sum(loss.weights[name] * term for name, term in terms.items())


def test_rdd_without_relations_is_rcfd_and_with_pixels_alone_it_is_pd():
    features, runtime = feature_network(), create_runtime(device="cpu", precision="fp32")
    x, target = maps(4, 1, 8), maps(4, 1, 8, seed=1)
    none = recipe(relations={"is_weight": 0.0, "m_weight": 0.0})
    plain = total(FeatureLoss(recipe(), features), x, target)
    assert total(RelationLoss(none, features, whole(teacher()).guided, runtime), x, target) == plain
    pixels = recipe(relations={"is_weight": 0.0, "m_weight": 0.0}, cfd_weight=0.0, pixel_weight=1.0)
    place = point(4)
    assert total(
        RelationLoss(pixels, features, whole(teacher()).guided, runtime), x, target
    ) == truncated_snr_loss(x, target, place.alpha, place.sigma)


def test_loss_is_the_larger_of_both_errors():
    x, eps, alpha, sigma = parts()
    x_hat = x + 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    eps_hat = (alpha * x + sigma * eps - alpha * x_hat) / sigma
    errors = [((a - b) ** 2).mean((1, 2, 3)) for a, b in ((x_hat, x), (eps_hat, eps))]
    torch.testing.assert_close(truncated_snr_loss(x_hat, x, alpha, sigma), torch.maximum(*errors).mean())


def parts():
    generator = torch.Generator().manual_seed(0)
    x, eps = (torch.randn(4, 1, 3, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    sigma = torch.tensor([0.1, 0.5, 0.8, 0.99], dtype=torch.float64)[:, None, None, None]
    return x, eps, (1 - sigma**2).sqrt(), sigma


def test_min_snr_is_that_of_the_velocity_in_closed_form() -> None:
    x, x_hat = torch.randn(2, 6, 3, 4, 4, dtype=WIDE)
    angle = torch.linspace(0.05, 1.5, 6, dtype=WIDE).reshape(-1, 1, 1, 1)
    alpha, sigma = angle.cos(), angle.sin()
    eps, snr = torch.randn_like(x), (alpha / sigma).square().flatten()
    z = alpha * x + sigma * eps
    v, v_hat = alpha * eps - sigma * x, (alpha * z - x_hat) / sigma  # the velocity whose image is x_hat
    by_velocity = (snr.clamp(max=5) / (snr + 1) * (v_hat - v).square().mean((1, 2, 3))).mean()
    torch.testing.assert_close(min_snr_loss(x_hat, x, alpha, sigma), by_velocity)
