"""Stacks of exposures as pairs, and names that are held out."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from effcli.core.errors import InputError
from effcli.enhance.data.exposure_batches import ExposureBatch, darkened, exposure_batch, level_batch
from effcli.enhance.data.pairs import PairSet, load_pairs
from effcli.enhance.network.exposure import exposed, level, log_gain_for_level, thumbnail
from effcli.enhance.recipe import WalMaFaDataSection


@pytest.fixture
def stacks(tmp_path: Path) -> Path:
    """Scenes a, b and c with two darker pictures each; one folder without a reference, one with nothing beside it."""
    draws = np.random.default_rng(0)
    for scene in ("a", "b", "c", "no-reference", "alone"):
        for name in ("dark_0", "dark_1", "reference"):
            if (scene == "no-reference" and name == "reference") or (
                scene == "alone" and name != "reference"
            ):
                continue
            path = tmp_path / "stacks" / scene / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            top = {"dark_0": 40, "dark_1": 90, "reference": 256}[name]
            Image.fromarray(draws.integers(0, top, (48, 64, 3), dtype=np.uint8)).save(path)
    return tmp_path / "stacks"


def test_each_darker_picture_makes_a_pair_with_the_reference(stacks: Path, tmp_path: Path) -> None:
    names = ("a/dark_0", "a/dark_1", "b/dark_0", "b/dark_1", "c/dark_0", "c/dark_1")
    pairs = load_pairs(stacks, "train")
    assert pairs.names == names
    assert torch.equal(pairs[0][1], pairs[1][1])
    with tarfile.open(tmp_path / "stacks.tar", "w") as archive:
        archive.add(stacks, "./")
    packed = load_pairs(tmp_path / "stacks.tar", "eval")
    assert packed.names == names
    assert all(
        torch.equal(a, b)
        for one, two in zip(pairs, packed, strict=True)
        for a, b in zip(one, two, strict=True)
    )


def test_what_is_held_out_is_measured_and_not_learned(stacks: Path) -> None:
    held_out = ("b", "c/dark_1")
    assert load_pairs(stacks, "train", held_out=held_out).names == ("a/dark_0", "a/dark_1", "c/dark_0")
    assert load_pairs(stacks, "eval", held_out=held_out).names == ("b/dark_0", "b/dark_1", "c/dark_1")
    assert len(load_pairs(stacks, "eval", held_out=["elsewhere"])) == 6


def test_what_is_left_out_or_not_found_is_said(stacks: Path, warnings_logged: list[str]) -> None:
    load_pairs(stacks, "train", held_out=["b", "slip"])
    assert f"data.held_out: no pairs of these names in {stacks}: slip" in warnings_logged
    assert (
        f"{stacks}: left out: 2 folders without a reference or darker pictures, as alone/" in warnings_logged
    )


def test_two_pictures_of_one_name_are_refused(stacks: Path) -> None:
    (stacks / "a" / "dark_0.jpg").write_bytes((stacks / "a" / "dark_0.png").read_bytes())
    with pytest.raises(InputError, match="has the same name as"):
        load_pairs(stacks, "train")


def test_a_folder_of_neither_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(InputError, match="no images in low/ and high/"):
        load_pairs(tmp_path, "train")


def section(**data: float) -> WalMaFaDataSection:
    return WalMaFaDataSection(
        patch=32,
        **{"identity": 0, "darken": 0, "charts": 0, "recolour": 0, "other_levels": 0, **data},
    )


def batch_of(pairs: PairSet, **data: float) -> ExposureBatch:
    return exposure_batch(pairs, section(**data), 0, 4, seed=1)


def levels_of(pairs: PairSet) -> list[float]:
    return [float(level(reference.float() / 255)) for _, reference in pairs]


def test_patches_are_lit_as_their_whole_pictures_are(stacks: Path) -> None:
    pairs = load_pairs(stacks, "train")
    low, high, log_gain = batch_of(pairs)
    assert low.shape == high.shape == (4, 3, 32, 32)
    gains = []
    for dark, reference in pairs:
        small = thumbnail(dark[None].float() / 255)
        gains.append(float(log_gain_for_level(small, level(reference[None].float() / 255))))
    for gain in log_gain:
        assert min(abs(float(gain) - one) for one in gains) < 1e-5


def test_identity_pairs_are_references_with_themselves(stacks: Path) -> None:
    low, high, log_gain = batch_of(load_pairs(stacks, "train"), identity=1)
    assert torch.equal(low, high)
    assert float(log_gain.abs().max()) < 1e-3


def test_other_levels_change_the_reference(stacks: Path) -> None:
    pairs = load_pairs(stacks, "train")
    plain, other = batch_of(pairs), batch_of(pairs, other_levels=1)
    assert float((plain.log_gain - other.log_gain).abs().min()) > 0.01


@pytest.mark.parametrize("batch", [exposure_batch, level_batch])
def test_batches_follow_from_the_seed_and_are_shared_out(stacks: Path, batch: Callable[..., Any]) -> None:
    pairs = load_pairs(stacks, "train")
    data = WalMaFaDataSection(patch=32)
    whole = batch(pairs, data, 3, 4, seed=5)
    halves = [batch(pairs, data, 3, 4, seed=5, rank=rank, world=2) for rank in (0, 1)]
    for part, one, two in zip(whole, *halves, strict=True):
        assert torch.equal(part, torch.cat((one, two)))
    assert not torch.equal(whole[0], batch(pairs, data, 4, 4, seed=5)[0])


def test_levels_that_are_learned_are_those_of_parts_of_references(stacks: Path) -> None:
    pairs = load_pairs(stacks, "train")
    thumbnails, wanted = level_batch(pairs, section(), 0, 8, seed=1)
    assert thumbnails.shape == (8, 3, 96, 96) and wanted.shape == (8,)
    wholes = levels_of(pairs)
    for one in wanted:
        assert min(wholes) - 0.15 < float(one) < max(wholes) + 0.15
    references, wanted = level_batch(pairs, section(identity=1), 0, 8, seed=1)
    assert torch.allclose(level(references), wanted, atol=1e-3)


def test_charts_are_what_the_common_curve_makes_of_them(stacks: Path) -> None:
    low, high, log_gain = batch_of(load_pairs(stacks, "train"), charts=1)
    assert low.shape == high.shape == (4, 3, 32, 32)
    assert bool(((log_gain >= 0) & (log_gain <= 3)).all())
    error = (exposed(low, log_gain) - high).abs()
    assert float(error.flatten(1).median(1).values.max()) < 0.1  # noise and 8 bits
    assert bool((high.amax((1, 2, 3)) <= 1).all())


def test_a_darkened_picture_is_darker_and_in_8_bits() -> None:
    reference = torch.full((3, 40, 40), 0.7)
    for seed in range(20):
        dark = darkened(reference, np.random.default_rng(seed))
        assert float(dark.mean()) < 0.75
        assert torch.equal((dark * 255).round() / 255, dark)
