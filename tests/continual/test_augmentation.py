"""Crops and mirrorings of a batch, each looked for among all that there can be."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from effcli.continual.augmentation import random_crop_flip


def crops(image: Tensor, pad: int, step: int, *, flip: float) -> dict[tuple[int, int, bool], Tensor]:
    """All that may come out for an image, by offset and mirroring."""
    padded = F.pad(image, (pad,) * 4)
    height, width = image.shape[-2:]
    offsets = range(0, 2 * pad + 1, step)
    found = {}
    for top, left, mirrored in itertools.product(offsets, offsets, (False, True) if flip else (False,)):
        one = padded[:, top : top + height, left : left + width]
        found[top, left, mirrored] = one.flip(2) if mirrored else one
    return found


@pytest.mark.parametrize(("pad", "step", "flip"), [(2, 1, 0.5), (4, 2, 0.5), (3, 1, 0.0), (0, 1, 0.5)])
def test_each_image_is_one_of_its_own_crops_and_all_occur(pad: int, step: int, flip: float) -> None:
    torch.manual_seed(0)
    image = torch.randint(1, 256, (3, 5, 6), dtype=torch.uint8)
    possible = crops(image, pad, step, flip=flip)
    out = random_crop_flip(image.expand(1500, -1, -1, -1), pad, flip=flip, step=step)
    assert out.dtype == torch.uint8 and out.shape == (1500, 3, 5, 6)
    met = set()
    for one in out.unique(dim=0):
        matches = [key for key, wanted in possible.items() if torch.equal(one, wanted)]
        assert matches
        met |= set(matches)
    assert met == set(possible)


def test_every_image_of_a_batch_is_moved_by_itself() -> None:
    torch.manual_seed(0)
    batch = torch.rand(8, 1, 6, 6)
    out = random_crop_flip(batch, 2, flip=0.5)
    for image, one in zip(batch, out, strict=True):
        assert any(torch.equal(one, wanted) for wanted in crops(image, 2, 1, flip=0.5).values())


def test_nothing_happens_where_nothing_is_asked_for() -> None:
    batch = torch.rand(4, 3, 5, 7)
    assert torch.equal(random_crop_flip(batch, 0, flip=0.0), batch)


def test_the_border_is_filled_with_what_is_given() -> None:
    torch.manual_seed(1)
    fill = torch.tensor([0.25, -2.0])
    out = random_crop_flip(torch.ones(200, 2, 4, 4), 3, flip=0.0, fill=fill)
    for channel in range(2):
        assert set(out[:, channel].unique().tolist()) == {1.0, float(fill[channel])}


def test_channels_are_last_in_memory() -> None:
    out = random_crop_flip(torch.rand(4, 3, 8, 8), 2, flip=0.5)
    assert out.is_contiguous(memory_format=torch.channels_last)
