"""Recall at K and CKA on cases that can be done by hand."""

import pytest
import torch

from effcli.distill.clip_kd.retrieval import cka, recalls


def test_the_same_embeddings_find_each_other() -> None:
    rows = torch.eye(12)
    found = recalls(rows, rows, torch.arange(12))
    assert found == {f"{way}_r{k}": 1.0 for way in ("i2t", "t2i") for k in (1, 5, 10)}


def test_a_wrong_order_counts_from_its_rank_on() -> None:
    """Text i is nearest to image i + 1 and second nearest to its own."""
    images = torch.eye(6)
    texts = 0.6 * torch.eye(6) + 0.8 * torch.eye(6).roll(1, dims=1)
    found = recalls(images, texts, torch.arange(6), ranks=(1, 2))
    assert found == {"i2t_r1": 0.0, "i2t_r2": 1.0, "t2i_r1": 0.0, "t2i_r2": 1.0}


def test_any_of_an_images_captions_is_a_match() -> None:
    """Three captions each; only the last one is near the image."""
    images = torch.eye(4)
    owners = torch.arange(4).repeat_interleave(3)
    texts = torch.stack(
        [images[(o + 1) % 4] if i % 3 < 2 else images[o] for i, o in enumerate(owners.tolist())]
    )
    found = recalls(images, texts, owners, ranks=(1, 3))
    assert found["i2t_r3"] == 1.0
    assert found["t2i_r1"] == pytest.approx(1 / 3)


def test_fewer_things_than_the_rank() -> None:
    found = recalls(torch.eye(3), torch.eye(3).roll(1, dims=1), torch.arange(3))
    assert found["i2t_r1"] == 0.0 and found["i2t_r5"] == found["t2i_r10"] == 1.0


def test_cka_does_not_see_rotation_and_scale() -> None:
    x = torch.randn(40, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    turn, _ = torch.linalg.qr(
        torch.randn(8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    )
    assert cka(x, 3 * x @ turn + 1) == pytest.approx(1.0)
    other = torch.randn(40, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert cka(x, other) < 0.5
