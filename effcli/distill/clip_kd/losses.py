"""The losses of CLIP-KD, which compare the embeddings of student and teacher.

Yang et al., "CLIP-KD: An Empirical Study of CLIP Model Distillation", CVPR 2024. Symbols are the paper's: of a batch of
N pairs, v are embeddings of images and s of texts, all of unit length; v_p and s_p are the student's in the teacher's
width. Similarities are computed some rows at a time, so memory grows with N, not with its square: at most
:data:`CHUNK_ENTRIES` similarities, 16 MiB per copy in float32, are there at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from effcli.distill.clip_kd.recipe import ClipLossSection
from effcli.nn.gathering import gather_rows

CHUNK_ENTRIES = 1 << 22

FIRST_SCALE = math.log(1 / 0.07)
"""First value of every learned scale; 14.3 after exp."""

LARGEST_SCALE = math.log(100)


class Embeddings(NamedTuple):
    """A model's embeddings of a batch.

    Attributes:
        images: ``[N, D]``.
        texts: ``[N, D]``.
        scale: what cosines are multiplied by, a scalar.
        bias: what is added then, a scalar; None where there is none.
    """

    images: Tensor
    texts: Tensor
    scale: Tensor
    bias: Tensor | None = None


class ClipKdLoss(nn.Module):
    """All terms that have a weight, with their projections, fusion layers and scales (dropped after training).

    Args:
        settings: weights and choices.
        dim: d, width of the student's embeddings.
        teacher_dim: D, of the teacher's.
        own: whether L_CLIP, which needs no teacher, is among the terms.
    """

    def __init__(self, settings: ClipLossSection, dim: int, teacher_dim: int, own: bool = True) -> None:
        super().__init__()
        self.settings, self._own = settings, own
        needs_width = any(
            (settings.fd, settings.mfd, settings.icl, settings.gd, settings.cross, settings.vrd, settings.xrd)
        )
        self.project_images: nn.Module = nn.Identity()
        self.project_texts: nn.Module = nn.Identity()
        if dim != teacher_dim and needs_width:
            self.project_images = nn.Linear(dim, teacher_dim)
            self.project_texts = nn.Linear(dim, teacher_dim)
        first = FIRST_SCALE
        if settings.icl or settings.cross:
            self.cross_scale = nn.Parameter(torch.tensor(first))
        if settings.afd:
            self.fuse_images = nn.Linear(dim + teacher_dim, dim)
            self.fuse_texts = nn.Linear(dim + teacher_dim, dim)
            self.fusion_scale = nn.Parameter(torch.tensor(first))

    def forward(
        self, student: Embeddings, teacher: Embeddings | None, masked_images: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The terms by name, unweighted; those of all ranks' pairs together.

        Args:
            student: not normalised, of width d; this rank's rows.
            teacher: unit, of width D; this rank's rows. None where only L_CLIP has a weight.
            masked_images: the student's of masked images, not normalised, for mfd.
        """
        with torch.autocast(student.images.device.type, enabled=False):
            ours = Embeddings(*(None if one is None else one.float() for one in student))  # type: ignore[arg-type]
            v, s = (gather_rows(F.normalize(one, dim=1)) for one in (ours.images, ours.texts))
            terms = {"clip": self._contrast(v, s, ours)} if self._own else {}
            if teacher is not None:
                masked = None if masked_images is None else masked_images.float()
                terms |= self._compared(ours, v, s, teacher, masked)
            return terms

    def _contrast(self, v: Tensor, s: Tensor, student: Embeddings) -> Tensor:
        if self.settings.contrast == "softmax":
            return clip_loss(v, s, student.scale)
        assert student.bias is not None
        return siglip_loss(v, s, student.scale, student.bias)

    def _compared(
        self, student: Embeddings, v: Tensor, s: Tensor, teacher: Embeddings, masked_images: Tensor | None
    ) -> dict[str, Tensor]:
        settings, terms = self.settings, {}
        a, a_t = student.scale, teacher.scale.float()
        v_t, s_t = gather_rows(teacher.images.float()), gather_rows(teacher.texts.float())
        v_p = gather_rows(F.normalize(self.project_images(student.images), dim=1))
        s_p = gather_rows(F.normalize(self.project_texts(student.texts), dim=1))
        if settings.crd:
            terms["crd"] = crd(v, s, a, v_t, s_t, a_t)
        if settings.fd:
            terms["fd"] = fd(v_p, s_p, v_t, s_t, settings.fd_reduction)
        if settings.mfd and masked_images is not None:
            v_m = gather_rows(F.normalize(self.project_images(masked_images), dim=1))
            terms["mfd"] = fd(v_m, s_p, v_t, s_t, settings.fd_reduction)
        if settings.gd:
            if settings.gd_temperature == "scale":
                terms["gd"] = released_gd(v_p, s_p, a, v_t, s_t, a_t)
            else:
                terms["gd"] = gd(v_p, s_p, a, v_t, s_t, a_t)
        if settings.icl:
            terms["icl"] = icl(v_p, s_p, v_t, s_t, self._scale(self.cross_scale))
        if settings.cross:
            terms["cross"] = cross_kd(v_p, s_p, self._scale(self.cross_scale), v_t, s_t, a_t)
        if settings.vrd:
            terms["vrd"] = symmetric_divergence((v_p, v_t), (s_p, s_t), a_t)
        if settings.xrd:
            terms["xrd"] = symmetric_divergence((v_p, s_t), (s_p, v_t), a_t)
        if settings.afd:
            # The unprojected v: docs/methods/clip-kd.md, AFD of unequal widths.
            v_a = F.normalize(self.fuse_images(torch.cat([v, v_t], dim=1)), dim=1)
            s_a = F.normalize(self.fuse_texts(torch.cat([s, s_t], dim=1)), dim=1)
            terms["afd"] = clip_loss(v_a, s_a, self._scale(self.fusion_scale))
        return terms

    def total(self, terms: dict[str, Tensor]) -> Tensor:
        """The weighted sum."""
        return weighted_sum(self.settings, terms)

    def _scale(self, scale: Tensor) -> Tensor:
        return scale if self.settings.scales == "raw" else scale.exp()

    @torch.no_grad()
    def clamp_scales(self) -> None:
        """Keep learned scales in 1..100 after each step; raw ones have no bounds."""
        if self.settings.scales == "exp":
            for name in ("cross_scale", "fusion_scale"):
                if hasattr(self, name):
                    getattr(self, name).clamp_(0, LARGEST_SCALE)


class SeveralTeachersLoss(nn.Module):
    """The losses of several teachers, each with projections and scales of its own, averaged by weight.

    Args:
        settings: weights and choices.
        dim: d, width of the student's embeddings.
        teacher_dims: D of each teacher.
        weights: of each teacher; their sum does not matter.
    """

    def __init__(
        self, settings: ClipLossSection, dim: int, teacher_dims: Sequence[int], weights: Sequence[float]
    ) -> None:
        super().__init__()
        self.settings = settings
        self._weights = [weight / sum(weights) for weight in weights]
        self.of_teachers = nn.ModuleList(
            ClipKdLoss(settings, dim, width, own=number == 0) for number, width in enumerate(teacher_dims)
        )

    def forward(
        self, student: Embeddings, teachers: Sequence[Embeddings], masked_images: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The terms by name; as :class:`ClipKdLoss`, with the embeddings of each teacher."""
        terms: dict[str, Tensor] = {}
        for loss, weight, teacher in zip(self.of_teachers, self._weights, teachers, strict=True):
            for name, term in loss(student, teacher, masked_images).items():
                share = term if name == "clip" else weight * term
                terms[name] = terms[name] + share if name in terms else share
        return terms

    def total(self, terms: dict[str, Tensor]) -> Tensor:
        """The weighted sum."""
        return weighted_sum(self.settings, terms)

    def clamp_scales(self) -> None:
        """Keep learned scales in 1..100 after each step; raw ones have no bounds."""
        for loss in self.of_teachers:
            loss.clamp_scales()  # type: ignore[operator]


def weighted_sum(settings: ClipLossSection, terms: dict[str, Tensor]) -> Tensor:
    """The sum of the terms by the weights of their names."""
    return torch.stack([getattr(settings, name) * term for name, term in terms.items()]).sum()


def clip_loss(v: Tensor, s: Tensor, scale: Tensor) -> Tensor:
    """L_CLIP: mean over both directions of the cross-entropy of each row with its own pair (Eq. 1-3)."""
    return (info_nce(v, s, scale) + info_nce(s, v, scale)) / 2


def siglip_loss(v: Tensor, s: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """SigLIP's: each pair of the batch by itself is right or wrong (Zhai et al., "Sigmoid Loss for Language Image
    Pre-Training", ICCV 2023, Eq. 1); the sum over texts, averaged over images.
    """

    def of_rows(rows: Tensor) -> Tensor:
        return F.softplus(scale * rows @ s.T + bias).sum(1)

    own = scale * (v * s).sum(1) + bias
    wrong = torch.cat(_by_rows(of_rows, len(s), v))
    return (wrong - own).mean()  # softplus(z) - z = softplus(-z), the term of a right pair


def soft_target_entropy(v_t: Tensor, s_t: Tensor, scale_t: Tensor) -> Tensor:
    """Mean entropy in nats of the teacher's softmax over the batch, both directions: of CRD's targets.

    Between 0, where each target is a label, and ln N.
    """

    def of_rows(rows: Tensor, keys: Tensor) -> Tensor:
        log_p = torch.log_softmax(scale_t * rows @ keys.T, dim=1)
        return -(log_p.exp() * log_p).sum(1)

    parts = [
        torch.cat([of_rows(rows, keys) for rows in anchors.split(max(1, CHUNK_ENTRIES // len(keys)))])
        for anchors, keys in ((v_t, s_t), (s_t, v_t))
    ]
    return torch.cat(parts).mean()


def crd(v: Tensor, s: Tensor, scale: Tensor, v_t: Tensor, s_t: Tensor, scale_t: Tensor) -> Tensor:
    """L_CRD: mean over both directions of KL(teacher's || student's softmax over the batch).

    Eq. 8-10, halved: docs/methods/clip-kd.md, Halved CRD.
    """
    return (
        row_divergence(v, s, scale, v_t, s_t, scale_t) + row_divergence(s, v, scale, s_t, v_t, scale_t)
    ) / 2


def fd(v_p: Tensor, s_p: Tensor, v_t: Tensor, s_t: Tensor, reduction: Literal["mean", "sample"]) -> Tensor:
    """L_FD: squared distances (Eq. 11), summed over the width (``sample``) or averaged over it (``mean``)."""
    total = (v_p - v_t).square().sum(1).mean() + (s_p - s_t).square().sum(1).mean()
    return total if reduction == "sample" else total / v_t.shape[1]


def icl(v_p: Tensor, s_p: Tensor, v_t: Tensor, s_t: Tensor, scale: Tensor) -> Tensor:
    """L_ICL: the student's images against the teacher's texts, its texts against the teacher's images (Eq. 14-16)."""
    return (info_nce(v_p, s_t, scale) + info_nce(s_p, v_t, scale)) / 2


def cross_kd(v_p: Tensor, s_p: Tensor, scale: Tensor, v_t: Tensor, s_t: Tensor, scale_t: Tensor) -> Tensor:
    """KL between the teacher's softmax and that of the logits of ICL; docs/methods/clip-kd.md, Cross-KD."""
    first = row_divergence(v_p, s_t, scale, v_t, s_t, scale_t)
    return (first + row_divergence(s_p, v_t, scale, s_t, v_t, scale_t)) / 2


def symmetric_divergence(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor], scale_t: Tensor) -> Tensor:
    """Mean of both KL divergences between the rows' softmaxes of two sets of similarities, with gradients to both.

    VRD of CLIP-RD compares (v_p, v_t) and (s_p, s_t), XRD (v_p, s_t) and (s_p, v_t); docs/methods/clip-kd.md, CLIP-RD.

    Args:
        one, other: anchors and keys of each, ``[N, D]``.
        scale_t: the teacher's; a learned one could make both uniform.
    """
    there = row_divergence(*one, scale_t, *other, scale_t)
    return (there + row_divergence(*other, scale_t, *one, scale_t)) / 2


def gd(v: Tensor, s: Tensor, scale: Tensor, v_t: Tensor, s_t: Tensor, scale_t: Tensor) -> Tensor:
    """L_GD: squared distance of the gradients of L_CLIP with respect to the embeddings (Eq. 19-25), averaged over the
    batch.

    Each gradient is multiplied by N / scale, so that the size of the term depends on neither: docs/methods/clip-kd.md,
    Scaled GD.
    """
    g_v, g_s = contrastive_gradients(v, s, scale)
    with torch.no_grad():
        g_vt, g_st = contrastive_gradients(v_t, s_t, scale_t)
    return (g_v - g_vt).square().sum(1).mean() + (g_s - g_st).square().sum(1).mean()


def released_gd(v: Tensor, s: Tensor, scale: Tensor, v_t: Tensor, s_t: Tensor, scale_t: Tensor) -> Tensor:
    """GD with tau = scale, so that cosines are divided by the scale: docs/methods/clip-kd.md, Temperature of GD.

    Four mean squared errors: anchors and keys in both directions, each with 1 / N.
    """
    pairs = [(v, s, v_t, s_t), (s, v, s_t, v_t)]
    total = v.new_zeros(())
    for p, k, p_t, k_t in pairs:
        ours = one_way_gradients(p, k, scale)
        theirs = one_way_gradients(p_t, k_t, scale_t)
        total = total + sum(F.mse_loss(x, y.detach()) for x, y in zip(ours, theirs, strict=True))
    return total


def one_way_gradients(p: Tensor, k: Tensor, temperature: Tensor | float) -> tuple[Tensor, Tensor]:
    """Gradients of the cross-entropy of p k^T / tau by anchors and keys: R k / (tau N) and R^T p / (tau N)."""
    r = torch.softmax(p @ k.T / temperature, dim=1) - torch.eye(len(p), dtype=p.dtype, device=p.device)
    return r @ k / (temperature * len(p)), r.T @ p / (temperature * len(p))


def contrastive_gradients(v: Tensor, s: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of L_CLIP with respect to v and s, times N / scale: ``[N, D]`` each."""
    lse_v, lse_s = log_sums(v, s, scale), log_sums(s, v, scale)
    return _gradient(v, s, scale, lse_v, lse_s), _gradient(s, v, scale, lse_s, lse_v)


def _gradient(own: Tensor, other: Tensor, scale: Tensor, lse: Tensor, other_lse: Tensor) -> Tensor:
    def of_rows(rows: Tensor, rows_lse: Tensor, targets: Tensor) -> Tensor:
        logits = scale * rows @ other.T
        as_anchor, as_key = (logits - rows_lse[:, None]).exp(), (logits - other_lse).exp()
        return (as_anchor + as_key) @ other / 2 - targets

    return torch.cat(_by_rows(of_rows, len(other), own, lse, other))


def info_nce(anchors: Tensor, keys: Tensor, scale: Tensor) -> Tensor:
    """Mean cross-entropy of the rows of scale * anchors keys^T against their own indices."""
    own = scale * (anchors * keys).sum(1)
    return (log_sums(anchors, keys, scale) - own).mean()


def log_sums(anchors: Tensor, keys: Tensor, scale: Tensor) -> Tensor:
    """log sum exp of each row of scale * anchors keys^T, ``[N]``."""
    return torch.cat(_by_rows(lambda rows: (scale * rows @ keys.T).logsumexp(1), len(keys), anchors))


def row_divergence(
    anchors: Tensor, keys: Tensor, scale: Tensor, anchors_t: Tensor, keys_t: Tensor, scale_t: Tensor
) -> Tensor:
    """Mean over rows of KL(softmax(scale_t anchors_t keys_t^T) || softmax(scale anchors keys^T))."""

    def of_rows(rows: Tensor, rows_t: Tensor) -> Tensor:
        log_q = torch.log_softmax(scale * rows @ keys.T, dim=1)
        log_p = torch.log_softmax(scale_t * rows_t @ keys_t.T, dim=1)
        return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)

    return torch.cat(_by_rows(of_rows, len(keys), anchors, anchors_t)).mean()


def _by_rows(compute: Callable[..., Tensor], n_columns: int, *rows: Tensor) -> list[Tensor]:
    """``compute`` of some rows at a time; what it needs in between is computed again in the backward pass."""
    step = max(1, CHUNK_ENTRIES // n_columns)
    if len(rows[0]) <= step:
        return [compute(*rows)]
    parts = zip(*(one.split(step) for one in rows), strict=True)
    return [checkpoint(compute, *part, use_reentrant=False, preserve_rng_state=False) for part in parts]
