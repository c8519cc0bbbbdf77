"""The queue of M_P2P against its rules: docs/methods/rdd.md, Pixel queue and Queue as released."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from effcli.distill.losses import pixels_of
from effcli.distill.rdd import PixelQueue
from tests.distill.small_teacher import maps


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def is_row_of(vectors: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    return ((vectors[:, None] - rows).norm(dim=2) < 1e-5).any(1)


def test_the_queue_holds_true_pixels_of_length_one():
    queue = PixelQueue(6, 100, n_contrast=40, n_enqueued=20)
    m = maps(3)
    queue.enqueue(m, generator())
    assert (int(queue.pointer), int(queue.n_held)) == (20, 20)
    held = queue.pixels[:20]
    torch.testing.assert_close(held.norm(dim=1), torch.ones(20))
    true = F.normalize(
        torch.stack([m[b, :, i, j] for b in range(3) for i in range(4) for j in range(4)]), dim=1
    )
    assert is_row_of(held, true).all()
    torch.testing.assert_close(F.normalize(pixels_of(m), dim=1), true)


def test_the_released_queue_mixes_images_and_channels():
    m = torch.arange(6.0).view(2, 3, 1, 1)
    queue = PixelQueue(3, 8, n_contrast=4, n_enqueued=2, mixed=True)
    queue.enqueue(m, generator())
    columns = F.normalize(torch.tensor([[0.0, 2, 4], [1, 3, 5]]), dim=1)
    assert is_row_of(queue.pixels[:2], columns).all()
    assert not is_row_of(queue.pixels[:2], F.normalize(pixels_of(m), dim=1)).all()
    one = PixelQueue(3, 8, n_contrast=4, n_enqueued=16, mixed=True)
    one.enqueue(maps(1, 3, 2), generator())  # a single image is not mixed
    assert is_row_of(one.pixels[:4], F.normalize(pixels_of(maps(1, 3, 2)), dim=1)).all()


def test_the_pointer_and_the_reset():
    queue = PixelQueue(6, 100, n_contrast=40, n_enqueued=30)
    starts = []
    for n in range(7):
        queue.enqueue(maps(3, seed=n), generator(n))
        starts.append((int(queue.pointer), int(queue.n_held)))
    assert starts == [(30, 30), (60, 60), (90, 90), (0, 100), (30, 100), (60, 100), (90, 100)]


def test_slots_to_compare_with():
    released = PixelQueue(4, 20_000, n_contrast=4096, n_enqueued=128, mixed=True)
    slots = released.contrast_slots(generator())
    assert len(set(slots.tolist())) == 4096
    assert (int(slots[0]), int(slots[-1])) == (0, 19_999)
    correct = PixelQueue(4, 1000, n_contrast=50, n_enqueued=30)
    correct.enqueue(maps(3, 4), generator())
    assert sorted(correct.contrast_slots(generator()).tolist()) == list(range(30))  # those that are filled
    for n in range(40):
        correct.enqueue(maps(3, 4, seed=n), generator(n))
    seen = {int(slot) for n in range(200) for slot in correct.contrast_slots(generator(n))}
    assert len(correct.contrast_slots(generator())) == 50 and len(seen) > 990  # all of it is read
