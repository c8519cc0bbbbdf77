"""More classes than there are: turned images, mixed classes, and ordinary mixup."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from effcli.continual.methods.enlargement import enlarged, mixed, mixed_classes, n_outputs, rotated
from tests.continual.streams import seed


def test_an_image_is_turned_four_times() -> None:
    x, labels = torch.randn(3, 2, 5, 5), torch.tensor([0, 2, 1])
    images, numbers = rotated(x, labels)
    assert images.shape == (12, 2, 5, 5)
    assert numbers.tolist() == [0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7]
    assert torch.equal(images[::4], x)
    for k in range(3):
        for r in range(4):
            turned = torch.from_numpy(np.rot90(x[k].numpy(), r, (1, 2)).copy())
            assert torch.equal(images[4 * k + r], turned)
    assert torch.equal(x.rot90(1, (2, 3)).rot90(3, (2, 3)), x)


@pytest.mark.parametrize(
    ("enlarge", "wanted"), [("rotation", 200), ("mixup", 50 + 1225), ("soft", 50), ("none", 50)]
)
def test_how_many_classes_fifty_become(enlarge: str, wanted: int) -> None:
    assert n_outputs(enlarge, 50) == wanted  # type: ignore[arg-type]


def test_each_pair_of_classes_is_a_class_whichever_way_round() -> None:
    """Images are their class in one-hot pixels, so a mixture shows what it was mixed from."""
    seed(0)
    m = 5
    labels = torch.arange(m).repeat(20)
    x = torch.nn.functional.one_hot(labels, m).float()[:, :, None, None].expand(-1, -1, 2, 2)
    images, numbers = mixed_classes(x, labels, m)
    assert torch.equal(images[: len(x)], x) and torch.equal(numbers[: len(x)], labels)
    pairs: dict[Any, Any] = {}
    for image, number in zip(images[len(x) :], numbers[len(x) :].tolist(), strict=True):
        parts = image[:, 0, 0].nonzero().flatten().tolist()
        assert len(parts) == 2  # never of one class
        share = float(image[parts[0], 0, 0])
        assert 0.4 <= share <= 0.6 and float(image[parts[1], 0, 0]) == pytest.approx(1 - share)
        assert pairs.setdefault(tuple(parts), number) == number
    assert sorted(pairs.values()) == list(range(m, m + 10)) and len(pairs) == 10


def test_one_class_has_nothing_to_mix_with() -> None:
    images, numbers = mixed_classes(torch.randn(4, 1, 2, 2), torch.zeros(4, dtype=torch.long), 1)
    assert len(images) == len(numbers) == 4 and n_outputs("mixup", 1) == 1


def test_mixed_labels_have_the_shares_of_the_images() -> None:
    seed(0)
    labels = torch.arange(3).repeat(4)
    x = torch.nn.functional.one_hot(labels, 3).float()[:, :, None, None].expand(-1, -1, 2, 2)
    images, shares = mixed(x, labels, 3)
    torch.testing.assert_close(images[:, :, 0, 0], shares)
    torch.testing.assert_close(shares.sum(1), torch.ones(12))


def test_nothing_is_done_where_nothing_is_asked_for() -> None:
    x, labels = torch.randn(3, 2, 5, 5), torch.tensor([0, 2, 1])
    images, numbers = enlarged(x, labels, 3, "none")
    assert images is x and numbers is labels
