"""Features are computed once per image, whatever is asked for, and as they are read again."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
import torch
from torch import nn

from effcli.continual.kept_features import KeptFeatures, features_file
from effcli.core.errors import NonFiniteError, RunError


class Counted:
    """The mean of each channel, and how many images were asked for."""

    def __init__(self) -> None:
        self.n = 0

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        self.n += len(images)
        return images.float().mean((2, 3)) / 7


def images(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(256, (n, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_an_image_is_computed_once_in_any_order_and_any_process(tmp_path: Path) -> None:
    compute, some = Counted(), images(100)
    kept = KeptFeatures(tmp_path / "f.sqlite", 3, compute)
    first = kept.of(some)
    torch.testing.assert_close(first, (some.float().mean((2, 3)) / 7).half().float(), rtol=0, atol=0)
    order = torch.randperm(100)
    again = KeptFeatures(tmp_path / "f.sqlite", 3, compute).of(
        torch.cat([some[order], some[:2], images(3, 1)])
    )
    assert torch.equal(again[:100], first[order])
    assert torch.equal(again[100:102], first[:2])
    assert compute.n == 103


def test_equal_images_are_computed_once(tmp_path: Path) -> None:
    compute = Counted()
    found = KeptFeatures(tmp_path / "f.sqlite", 3, compute).of(images(1).expand(70, -1, -1, -1))
    assert compute.n == 1
    assert found.shape == (70, 3)


def test_shapes_are_part_of_an_image(tmp_path: Path) -> None:
    compute = Counted()
    kept = KeptFeatures(tmp_path / "f.sqlite", 3, compute)
    kept.of(torch.zeros(1, 3, 4, 4, dtype=torch.uint8))
    kept.of(torch.zeros(1, 3, 2, 8, dtype=torch.uint8))
    assert compute.n == 2


def test_what_is_not_finite_is_not_kept(tmp_path: Path) -> None:
    kept = KeptFeatures(tmp_path / "f.sqlite", 3, lambda x: torch.full((len(x), 3), 1e6))
    with pytest.raises(NonFiniteError, match="not finite in fp16"):
        kept.of(images(2))
    compute = Counted()
    KeptFeatures(tmp_path / "f.sqlite", 3, compute).of(images(2))
    assert compute.n == 2


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "f.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(RunError, match="the cached features cannot be used"):
        KeptFeatures(tmp_path / "f.sqlite", 3, Counted()).of(images(2))


def test_the_file_is_named_after_weights_and_preparation(tmp_path: Path) -> None:
    torch.manual_seed(0)
    one, other = nn.Linear(2, 2), nn.Linear(2, 2)
    names = {
        features_file(str(tmp_path), network, about) for network in (one, other) for about in ("224", "128")
    }
    assert len(names) == 4
    assert features_file(str(tmp_path), one, "224") in names


def test_it_is_a_database(tmp_path: Path) -> None:
    KeptFeatures(tmp_path / "f.sqlite", 3, Counted()).of(images(5))
    with sqlite3.connect(tmp_path / "f.sqlite") as database:
        assert database.execute("SELECT count(*) FROM features").fetchone() == (5,)
