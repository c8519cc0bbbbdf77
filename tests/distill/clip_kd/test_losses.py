"""The losses of CLIP-KD against closed forms, their definitions, and open_clip's own."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from effcli.distill.clip_kd import losses
from effcli.distill.clip_kd.losses import (
    ClipKdLoss,
    Embeddings,
    SeveralTeachersLoss,
    clip_loss,
    contrastive_gradients,
    crd,
    fd,
    gd,
    icl,
    info_nce,
    one_way_gradients,
    released_gd,
    row_divergence,
    soft_target_entropy,
)
from effcli.distill.clip_kd.recipe import ClipLossSection

N, D = 12, 16
A, A_T = torch.tensor(14.3, dtype=torch.float64), torch.tensor(60.0, dtype=torch.float64)
OFF = {"clip": 1.0, "crd": 0.0, "fd": 0.0, "icl": 0.0}


def unit(n: int = N, d: int = D, seed: int = 0) -> Tensor:
    rows = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.normalize(rows, dim=1)


@pytest.fixture
def four() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    v, s = unit(seed=1).requires_grad_(), unit(seed=2).requires_grad_()
    return v, s, unit(seed=3), unit(seed=4)


def test_fd_is_a_cosine_loss(four: tuple[Tensor, ...]) -> None:
    v, s, v_t, s_t = four
    cosines = [(1 - (x * y).sum(1)).mean() for x, y in ((v, v_t), (s, s_t))]
    torch.testing.assert_close(fd(v, s, v_t, s_t, "mean"), 2 / D * sum(cosines), atol=1e-6, rtol=0)
    torch.testing.assert_close(fd(v, s, v_t, s_t, "sample"), D * fd(v, s, v_t, s_t, "mean"))
    assert fd(v_t, s_t, v_t, s_t, "mean") == 0


def test_fd_of_random_vectors_is_the_papers_first_value() -> None:
    v, s, v_t, s_t = (unit(1024, 512, seed) for seed in range(4))
    assert 2000 * float(fd(v, s, v_t, s_t, "mean")) == pytest.approx(15.6, abs=0.1)
    assert 2000 / 512 * float(fd(v, s, v_t, s_t, "sample")) == pytest.approx(15.6, abs=0.1)


def test_crd_of_the_teacher_itself_is_zero_and_flat(four: tuple[Tensor, ...]) -> None:
    _, _, v_t, s_t = four
    v, s = v_t.clone().requires_grad_(), s_t.clone().requires_grad_()
    loss = crd(v, s, A_T, v_t, s_t, A_T)
    loss.backward()
    assert abs(loss.item()) < 1e-12
    assert v.grad is not None and s.grad is not None
    assert max(float(v.grad.abs().max()), float(s.grad.abs().max())) < 1e-12


def test_crd_does_not_see_a_rotation_but_fd_and_icl_do(four: tuple[Tensor, ...]) -> None:
    v, s, v_t, s_t = four
    turn, _ = torch.linalg.qr(unit(D, D, 9))
    torch.testing.assert_close(
        crd(v @ turn, s @ turn, A, v_t, s_t, A_T), crd(v, s, A, v_t, s_t, A_T), atol=1e-6, rtol=0
    )
    assert (fd(v @ turn, s @ turn, v_t, s_t, "mean") - fd(v, s, v_t, s_t, "mean")).abs().item() > 1e-3
    assert (icl(v @ turn, s @ turn, v_t, s_t, A) - icl(v, s, v_t, s_t, A)).abs().item() > 1e-3


def test_crd_against_open_clips_distillation_term(four: tuple[Tensor, ...]) -> None:
    """Theirs is the cross-entropy: ours and the teacher's mean entropy, with the same gradients."""
    from open_clip.loss import DistillClipLoss

    v, s, v_t, s_t = four
    parts = DistillClipLoss()(v, s, A, v_t, s_t, A_T, output_dict=True)
    theirs = parts["distill_loss"]
    entropies = []
    for logits in (A_T * v_t @ s_t.T, A_T * s_t @ v_t.T):
        p = logits.softmax(1)
        entropies.append(-(p * p.log()).sum(1).mean())
    ours = crd(v, s, A, v_t, s_t, A_T)
    torch.testing.assert_close(theirs - ours, sum(entropies) / 2, atol=1e-9, rtol=0)
    for one, other in zip(
        torch.autograd.grad(theirs, (v, s)), torch.autograd.grad(ours, (v, s)), strict=True
    ):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-9)


def test_icl_of_the_teacher_itself_is_its_own_loss(four: tuple[Tensor, ...]) -> None:
    v, s, v_t, s_t = four
    torch.testing.assert_close(icl(v_t, s_t, v_t, s_t, A_T), clip_loss(v_t, s_t, A_T))
    assert not torch.allclose(v @ s_t.T, (s @ v_t.T).T)
    # Its second half is not the first one transposed.
    halves = [info_nce(v, s_t, A), info_nce(s_t, v, A)]
    assert (icl(v, s, v_t, s_t, A) - sum(halves) / 2).abs().item() > 1e-3


def test_gradients_of_one_direction_against_autograd(four: tuple[Tensor, ...]) -> None:
    p, k, _, _ = four
    tau = 0.07
    loss = F.cross_entropy(p @ k.T / tau, torch.arange(N))
    for ours, theirs in zip(one_way_gradients(p, k, tau), torch.autograd.grad(loss, (p, k)), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=0)


def test_gradients_of_both_directions_against_autograd(four: tuple[Tensor, ...]) -> None:
    v, s, _, _ = four
    theirs = torch.autograd.grad(clip_loss(v, s, A), (v, s))
    for ours, other in zip(contrastive_gradients(v, s, A), theirs, strict=True):
        torch.testing.assert_close(ours * A / N, other, atol=1e-10, rtol=0)


def test_gd_of_the_teacher_itself_is_zero_in_both_forms(four: tuple[Tensor, ...]) -> None:
    _, _, v_t, s_t = four
    for form in (gd, released_gd):
        assert abs(float(form(v_t, s_t, A_T, v_t, s_t, A_T))) < 1e-20


def test_released_gd_divides_by_the_scale() -> None:
    """The term is tiny beside L_CLIP at the published weight: docs/methods/clip-kd.md, Temperature of GD."""
    v, s, v_t, s_t = (unit(1024, 512, seed) for seed in range(4))
    scale = torch.tensor(100.0, dtype=torch.float64)
    r, r_t = ((a @ b.T / scale).softmax(1) - torch.eye(1024) for a, b in ((v, s), (v_t, s_t)))
    anchors = F.mse_loss(r @ s / scale / 1024, r_t @ s_t / scale / 1024)
    value = released_gd(v, s, scale, v_t, s_t, scale)
    assert float(anchors) < float(value)
    assert 1e8 * float(value) == pytest.approx(1.5e-4, rel=0.1)


def test_chunks_change_neither_values_nor_gradients(
    four: tuple[Tensor, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    v, s, v_t, s_t = four

    def all_terms() -> list[Tensor]:
        terms = [
            clip_loss(v, s, A),
            crd(v, s, A, v_t, s_t, A_T),
            icl(v, s, v_t, s_t, A),
            gd(v, s, A, v_t, s_t, A_T),
        ]
        total = torch.stack(terms).sum()
        return [*terms, *torch.autograd.grad(total, (v, s))]

    whole = all_terms()
    monkeypatch.setattr(losses, "CHUNK_ENTRIES", 5 * N)
    calls = []
    real = losses.checkpoint  # type: ignore[attr-defined]

    def spy(*a: Any, **k: Any) -> Any:
        calls.append(len(a[1]))
        return real(*a, **k)

    monkeypatch.setattr(losses, "checkpoint", spy)
    for one, other in zip(all_terms(), whole, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-9)
    assert max(calls) == 5


def test_row_divergence_against_its_definition(four: tuple[Tensor, ...]) -> None:
    v, s, v_t, s_t = four
    p, q = (A_T * v_t @ s_t.T).softmax(1), (A * v @ s.T).softmax(1)
    expected = sum(float(p[i, j] * (p[i, j] / q[i, j]).log()) for i in range(N) for j in range(N)) / N
    assert float(row_divergence(v, s, A, v_t, s_t, A_T)) == pytest.approx(expected, rel=1e-9)


def embeddings(d: int, seed: int, scale: float = 14.3) -> Embeddings:
    first, second = (torch.randn(N, d, generator=torch.Generator().manual_seed(seed + i)) for i in (0, 100))
    return Embeddings(first, second, torch.tensor(scale))


def teacher_embeddings(d: int = D) -> Embeddings:
    raw = embeddings(d, 7, 60.0)
    return Embeddings(F.normalize(raw.images, dim=1), F.normalize(raw.texts, dim=1), raw.scale)


def test_without_weights_it_is_the_plain_loss() -> None:
    from open_clip.loss import ClipLoss

    student = Embeddings(*(one.requires_grad_() for one in embeddings(D, 1)[:3]))
    loss = ClipKdLoss(ClipLossSection(**OFF), D, 2 * D)
    terms = loss(student, teacher_embeddings(2 * D))
    assert terms.keys() == {"clip"} and not list(loss.parameters())
    units = [F.normalize(one, dim=1) for one in student[:2]]
    plain = ClipLoss()(*units, student.scale)
    torch.testing.assert_close(loss.total(terms), plain)
    leaves = student[:3]
    for one, other in zip(
        torch.autograd.grad(loss.total(terms), leaves), torch.autograd.grad(plain, leaves), strict=True
    ):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_all_terms_with_a_wider_teacher() -> None:
    settings = ClipLossSection(mfd=1, gd=1, afd=1, cross=1)
    loss = ClipKdLoss(settings, D, 2 * D)
    assert loss.project_images.weight.shape == (2 * D, D) and loss.project_images.bias is not None
    assert loss.fuse_images.weight.shape == (D, 3 * D)
    student = Embeddings(*(one.requires_grad_() for one in embeddings(D, 1)[:3]))
    teacher = teacher_embeddings(2 * D)
    terms = loss(student, teacher, embeddings(D, 5).images)
    assert terms.keys() == {"clip", "crd", "fd", "mfd", "gd", "icl", "cross", "afd"}
    loss.total(terms).backward()
    assert all(
        one is not None and one.grad is not None and bool(one.grad.isfinite().all()) for one in student[:3]
    )
    assert all(one is None or one.grad is None for one in teacher)
    assert all(weight.grad is not None for weight in loss.parameters())


def test_equal_widths_need_no_projection() -> None:
    loss = ClipKdLoss(ClipLossSection(), D, D)
    assert [name for name, _ in loss.named_parameters()] == ["cross_scale"]
    assert float(loss.cross_scale.exp()) == pytest.approx(1 / 0.07)


def test_raw_scales_are_used_as_they_are_and_never_clamped() -> None:
    settings = ClipLossSection(**OFF | {"icl": 1.0}, scales="raw")
    loss = ClipKdLoss(settings, D, D)
    student, teacher = embeddings(D, 1), teacher_embeddings()
    units = [F.normalize(one, dim=1) for one in student[:2]]
    expected = icl(*units, teacher.images, teacher.texts, torch.tensor(math.log(1 / 0.07)))  # type: ignore[call-arg]
    torch.testing.assert_close(loss(student, teacher)["icl"], expected)
    for scales, kept in (("raw", 9.0), ("exp", math.log(100))):
        one = ClipKdLoss(ClipLossSection(scales=scales), D, D)
        one.cross_scale.data.fill_(9.0)
        one.clamp_scales()
        assert float(one.cross_scale) == pytest.approx(kept)


def test_several_teachers_are_averaged_by_weight() -> None:
    settings = ClipLossSection(fd=4.0, crd=2.0, icl=0.5)
    student, first, second = embeddings(D, 1), embeddings(D, 2), embeddings(2 * D, 3)
    several = SeveralTeachersLoss(settings, D, (D, 2 * D), (3.0, 1.0))
    terms = several(student, [first, second])
    alone = [loss(student, one) for loss, one in zip(several.of_teachers, (first, second), strict=True)]
    assert terms["clip"] == alone[0]["clip"] and "clip" not in alone[1]
    for name in ("crd", "fd", "icl"):
        torch.testing.assert_close(terms[name], 0.75 * alone[0][name] + 0.25 * alone[1][name])
    expected = terms["clip"] + 2 * terms["crd"] + 4 * terms["fd"] + 0.5 * terms["icl"]
    torch.testing.assert_close(several.total(terms), expected)


def test_the_entropy_of_soft_targets() -> None:
    first = embeddings(D, 2)
    v, s = (
        torch.nn.functional.normalize(first.images, dim=1),
        torch.nn.functional.normalize(first.texts, dim=1),
    )
    assert float(soft_target_entropy(v, s, torch.tensor(0.0))) == pytest.approx(math.log(len(v)))
    assert float(soft_target_entropy(v, v, torch.tensor(1e4))) == pytest.approx(0, abs=1e-4)
    p = torch.softmax(20 * v @ s.T, dim=1)
    q = torch.softmax(20 * s @ v.T, dim=1)
    expected = -(p * p.log()).sum(1).mean() / 2 - (q * q.log()).sum(1).mean() / 2
    torch.testing.assert_close(soft_target_entropy(v, s, torch.tensor(20.0)), expected)


def test_relations_of_clip_rd_by_hand() -> None:
    generator = torch.Generator().manual_seed(3)
    v_p, s_p, v_t, s_t = (
        F.normalize(torch.randn(5, 4, generator=generator, dtype=torch.float64), dim=1).requires_grad_()
        for _ in range(4)
    )
    scale = torch.tensor(7.0, dtype=torch.float64)

    def by_hand(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> Tensor:
        p, q = (torch.softmax(scale * anchors @ keys.T, 1) for anchors, keys in (one, other))
        return ((p * (p / q).log()).sum(1) + (q * (q / p).log()).sum(1)).mean() / 2

    for one, other in (((v_p, v_t), (s_p, s_t)), ((v_p, s_t), (s_p, v_t))):
        found = losses.symmetric_divergence(one, other, scale)
        torch.testing.assert_close(found, by_hand(one, other))
        ours = torch.autograd.grad(found, (v_p, s_p), retain_graph=True)
        torch.testing.assert_close(ours, torch.autograd.grad(by_hand(one, other), (v_p, s_p)))
    assert losses.symmetric_divergence((v_p, v_t), (v_p, v_t), scale).abs() < 1e-12
    settings = ClipLossSection(crd=0, fd=0, icl=0, vrd=2.0, xrd=3.0)
    loss = losses.ClipKdLoss(settings, 4, 4)
    student = losses.Embeddings(v_p.float(), s_p.float(), torch.tensor(1.0))
    terms = loss(student, losses.Embeddings(v_t, s_t, scale))
    assert set(terms) == {"clip", "vrd", "xrd"}
    torch.testing.assert_close(terms["xrd"].double(), by_hand((v_p, s_t), (s_p, v_t)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(loss.total(terms), terms["clip"] + 2 * terms["vrd"] + 3 * terms["xrd"])
