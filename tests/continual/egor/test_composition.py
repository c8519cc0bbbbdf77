"""Pasting: pixels, places, and what chance depends on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from effcli.continual.egor.composition import Composer, free_place, paste
from effcli.continual.egor.inversion import Crop
from effcli.continual.egor.recipe import CompositionSection

PAPER = CompositionSection(online=False, scale=(1.0, 1.0), flip=0.0)


def crops(n: int = 5) -> list[Crop]:
    torch.manual_seed(0)
    return [Crop(torch.randint(0, 256, (3, 12 + 3 * i, 20), dtype=torch.uint8), i) for i in range(n)]


def image() -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randint(0, 256, (3, 96, 128), dtype=torch.uint8)


def test_lambda_1_changes_nothing_and_0_copies() -> None:
    before = image()
    same, _ = Composer(crops(), PAPER.model_copy(update={"blend": 1.0}), 0)(before, torch.zeros(0, 4), 0, 0)
    assert torch.equal(same, before)
    crop = crops()[0].pixels
    canvas = before.clone()
    assert paste(canvas, crop, (10, 20), 0.0) == (10, 20, 30, 32)
    assert torch.equal(canvas[:, 20:32, 10:30], crop)
    canvas[:, 20:32, 10:30] = before[:, 20:32, 10:30]
    assert torch.equal(canvas, before)


def test_blending_rounds_and_clips_at_the_border() -> None:
    canvas = torch.full((3, 10, 10), 100, dtype=torch.uint8)
    crop = torch.full((3, 6, 6), 201, dtype=torch.uint8)
    assert paste(canvas, crop, (-2, 7), 0.5) == (0, 7, 4, 10)
    assert canvas[:, 7:, :4].unique().tolist() == [150]  # 150.5 to the even one
    assert canvas[:, :7].unique().tolist() == [100]
    assert canvas[:, :, 4:].unique().tolist() == [100]


def test_every_pasted_box_leaves_the_earlier_ones_visible() -> None:
    own = torch.tensor([[40.0, 30, 70, 60]])
    seen = 0
    for item in range(30):
        composer = Composer(crops(), PAPER, seed=3)
        _, new = composer(image(), own, item, 0)
        assert len(new.boxes) <= 6
        seen += len(new.boxes)
        taken = own.tolist()
        for box in new.boxes.tolist():
            assert 0 <= box[0] < box[2] <= 128
            assert 0 <= box[1] < box[3] <= 96
            for other in taken:
                wide = min(box[2], other[2]) - max(box[0], other[0])
                high = min(box[3], other[3]) - max(box[1], other[1])
                both = max(0, wide) * max(0, high)  # without the end pixels it is less
                assert both / ((other[2] - other[0] + 1) * (other[3] - other[1] + 1)) <= 0.3
            taken.append(box)
    assert seen > 60


def test_a_place_is_refused_by_either_rule() -> None:
    rng = np.random.default_rng(0)
    assert free_place((20, 20), (64, 64), np.zeros((0, 4)), rng) is not None
    everything = np.array([[0.0, 0, 64, 64]])
    for _ in range(20):
        place = free_place((20, 20), (64, 64), everything, rng)
        if place is not None:  # mostly outside the image, so little of it is covered
            x, y = place
            both = max(0, min(x + 20, 64) - max(x, 0) + 1) * max(0, min(y + 20, 64) - max(y, 0) + 1)
            assert both / 21**2 <= 0.1


def vectorised_place(
    size: tuple[int, int], canvas: tuple[int, int], taken: np.ndarray, rng: np.random.Generator
) -> tuple[int, int] | None:
    """The same rules, all places and boxes at once."""
    x, y = rng.random((2, 40))
    x[:20], y[:20] = 0.6 * canvas[0] * x[:20], 0.4 * canvas[1] * y[:20]
    x[20:] = canvas[0] * (0.4 + 0.6 * x[20:]) - size[0]
    y[20:] = canvas[1] * (0.6 + 0.4 * y[20:]) - size[1]
    left, top = np.rint(x), np.rint(y)
    wide = np.minimum(left[:, None] + size[0], taken[:, 2]) - np.maximum(left[:, None], taken[:, 0]) + 1
    high = np.minimum(top[:, None] + size[1], taken[:, 3]) - np.maximum(top[:, None], taken[:, 1]) + 1
    both = np.maximum(wide, 0) * np.maximum(high, 0)
    others = (taken[:, 2] - taken[:, 0] + 1) * (taken[:, 3] - taken[:, 1] + 1)
    own = (size[0] + 1) * (size[1] + 1)
    fits = (both <= np.minimum(0.3 * others, 0.1 * own)).all(1)
    first = int(fits.argmax())
    return (int(left[first]), int(top[first])) if fits[first] else None


def test_places_are_those_of_the_vectorised_search() -> None:
    rng = np.random.default_rng(0)
    refused = 0
    for seed in range(500):
        corners = rng.uniform(0, 60, (rng.integers(0, 8), 2))
        taken = np.concatenate([corners, corners + rng.uniform(1, 60, corners.shape)], 1)
        size = (int(rng.integers(4, 60)), int(rng.integers(4, 60)))
        ours = free_place(size, (96, 64), taken, np.random.default_rng(seed))
        assert ours == vectorised_place(size, (96, 64), taken, np.random.default_rng(seed))
        refused += ours is None
    assert 50 < refused < 450


@pytest.mark.parametrize("blend", [0.0, 0.21, 0.5, 0.8765, 1.0])
def test_every_pair_of_values_is_blended_as_in_torch(blend: float) -> None:
    under = torch.arange(256, dtype=torch.uint8).expand(3, 256, 256)
    over = under.transpose(1, 2)
    canvas = under.clone()
    paste(canvas, over, (0, 0), blend)
    slow = (blend * under.float() + (1 - blend) * over.float()).round().clamp(0, 255).to(torch.uint8)
    assert torch.equal(canvas, slow)


def test_an_image_filled_by_an_object_stays_as_it_is() -> None:
    full = torch.tensor([[0.0, 0, 97, 73]])  # 0.76 of both sides
    before = image()
    after, new = Composer(crops(), PAPER, 0)(before, full, 0, 0)
    assert torch.equal(after, before)
    assert len(new.boxes) == 0
    almost = torch.tensor([[0.0, 0, 95, 73]])
    assert len(Composer(crops(), PAPER, 0)(before, almost, 0, 0)[1].boxes) > 0


def test_what_is_pasted_depends_on_the_epoch_only_online() -> None:
    def boxes(settings: CompositionSection, item: int, epoch: int) -> list[list[float]]:
        found: list[list[float]] = Composer(crops(), settings, 7)(image(), torch.zeros(0, 4), item, epoch)[
            1
        ].boxes.tolist()
        return found

    assert boxes(PAPER, 0, 0) == boxes(PAPER, 0, 5)
    assert boxes(PAPER, 0, 0) != boxes(PAPER, 1, 0)
    online = CompositionSection()
    assert boxes(online, 0, 0) != boxes(online, 0, 5)
    assert boxes(online, 0, 5) == boxes(online, 0, 5)


def test_objects_are_scaled_within_the_range() -> None:
    settings = CompositionSection(scale=(0.5, 0.6), blend=0.0)
    square = [Crop(torch.full((3, 40, 40), 255, dtype=torch.uint8), 2)]
    sides = set()
    for item in range(20):
        _, new = Composer(square, settings, 0)(image(), torch.zeros(0, 4), item, 0)
        inside = new.boxes[(new.boxes[:, 0] > 0) & (new.boxes[:, 1] > 0)]
        inside = inside[(inside[:, 2] < 128) & (inside[:, 3] < 96)]
        sides |= set((inside[:, 2] - inside[:, 0]).tolist())
        assert new.labels.unique().tolist() in ([2], [])
    assert min(sides) >= 20
    assert max(sides) <= 24


def test_lambda_has_the_mean_and_variance_of_beta_2_2() -> None:
    dark = torch.zeros(3, 400, 400, dtype=torch.uint8)  # so large that pastes rarely meet
    white = [Crop(torch.full((3, 16, 16), 255, dtype=torch.uint8), 0)]
    values = []
    for item in range(400):
        after, new = Composer(white, PAPER, 0)(dark, torch.zeros(0, 4), item, 0)
        left, top, _, _ = new.boxes[0].int().tolist()
        values.append(1 - float(after[0, top, left]) / 255)
    assert np.mean(values) == pytest.approx(0.5, abs=0.04)
    assert np.var(values) == pytest.approx(0.05, abs=0.01)
