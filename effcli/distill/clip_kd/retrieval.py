"""Retrieval between images and captions: recall at K, both ways."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

RANKS = (1, 5, 10)
_ROWS = 1024
"""Queries whose similarities are in memory at a time."""


def recalls(images: Tensor, texts: Tensor, owners: Tensor, ranks: Sequence[int] = RANKS) -> dict[str, float]:
    """Share of the queries with a match among the K nearest, ``i2t_r1, i2t_r5, …, t2i_r1, …`` in 0..1.

    An image's matches are all its captions; a caption's is its image. With one caption per image this is the
    one-to-one protocol of CLIP-KD's tables, with all of them the usual one of COCO and Flickr.

    Args:
        images: unit embeddings ``[N, D]``.
        texts: unit embeddings ``[M, D]``.
        owners: the image of each caption, int64 ``[M]``.
        ranks: the K.
    """
    numbers = torch.arange(len(images), device=images.device)
    owners = owners.to(images.device)
    return {
        **_hits("i2t", images, texts, numbers, owners, ranks),
        **_hits("t2i", texts, images, owners, numbers, ranks),
    }


def _hits(
    name: str, queries: Tensor, keys: Tensor, wanted: Tensor, offered: Tensor, ranks: Sequence[int]
) -> dict[str, float]:
    most = min(max(ranks), len(keys))
    hits = torch.zeros(most, device=queries.device)
    for rows, want in zip(queries.split(_ROWS), wanted.split(_ROWS), strict=True):
        nearest = (rows @ keys.T).topk(most, dim=1).indices
        found = (offered[nearest] == want[:, None]).cummax(1).values
        hits += found.float().sum(0)
    return {f"{name}_r{k}": float(hits[min(k, most) - 1]) / len(queries) for k in ranks}


def cka(ours: Tensor, theirs: Tensor) -> float:
    """Linear centred kernel alignment of two sets of embeddings of the same items, ``[N, d]`` and ``[N, D]``; 0..1.

    It does not change when one set is rotated or scaled, so students of losses that leave the rotation free can be
    compared.
    """
    x, y = (one.double() - one.double().mean(0) for one in (ours, theirs))
    cross = (y.T @ x).square().sum()
    return float(cross / ((x.T @ x).norm() * (y.T @ y).norm()))
