"""The buffer: what a loop over single items keeps, and nothing lost on the way."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from effcli.continual.methods.buffer import Reservoir, reservoir_slots

CPU = torch.device("cpu")


def in_a_loop(draws: np.ndarray, n_seen: int, places: list[int], size: int) -> list[int]:
    """Reservoir sampling one item after another, with given random numbers."""
    places = list(places)
    for item, draw in enumerate(draws):
        number = n_seen + item
        if len(places) < size:
            places.append(number)
        else:
            place = int(draw * (number + 1))
            if place < size:
                places[place] = number
    return places


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("size", "batch"), [(5, 3), (5, 32), (50, 32), (7, 1), (1, 4)])
def test_a_batch_at_once_keeps_what_a_loop_keeps(seed: int, size: int, batch: int) -> None:
    np.random.seed(seed)
    buffer, wanted = Reservoir(size, CPU), list[int]()
    for start in range(0, 6 * batch, batch):
        state = np.random.get_state()
        draws = np.random.random(batch)
        np.random.set_state(state)
        wanted = in_a_loop(draws, start, wanted, size)
        numbers = torch.arange(start, start + batch)
        buffer.offer(numbers[:, None].float(), numbers)
        assert buffer.labels().tolist() == wanted and len(buffer) == len(wanted)
    assert buffer.n_seen == 6 * batch


def test_every_item_of_a_stream_is_kept_equally_often() -> None:
    """40 items, room for 8: each is kept with probability 1/5 (four standard deviations)."""
    np.random.seed(0)
    n_streams, counts = 4000, np.zeros(40)
    for _ in range(n_streams):
        kept: list[int] = [-1] * 8
        n_filled = 0
        for start in range(0, 40, 10):
            rows, slots = reservoir_slots(10, start, n_filled, 8)
            n_filled = min(8, n_filled + 10)
            for row, slot in zip(rows, slots, strict=True):
                kept[slot] = start + row
        counts[kept] += 1
    spread = (n_streams * 0.2 * 0.8) ** 0.5
    assert np.abs(counts - n_streams / 5).max() < 4 * spread


def test_items_keep_their_labels_and_logits() -> None:
    np.random.seed(0)
    torch.manual_seed(0)
    buffer = Reservoir(10, CPU)
    for start in range(0, 60, 6):
        numbers = torch.arange(start, start + 6)
        buffer.offer(numbers[:, None].to(torch.uint8), numbers, numbers[:, None].float() * torch.ones(6, 3))
    kept = buffer.draw(99)
    assert kept.logits is not None and len(kept.labels) == 10 == len(set(kept.labels.tolist()))
    assert kept.items.dtype == torch.uint8
    assert torch.equal(kept.items[:, 0].long(), kept.labels)
    assert torch.equal(kept.logits, kept.labels[:, None].float() * torch.ones(10, 3))


def test_a_draw_has_no_item_twice() -> None:
    buffer = Reservoir(10, CPU)
    buffer.offer(torch.arange(10)[:, None], torch.arange(10))
    draws = [tuple(sorted(buffer.draw(4).labels.tolist())) for _ in range(20)]
    assert all(len(set(one)) == 4 for one in draws) and len(set(draws)) > 5


def test_floats_may_be_kept_in_half_precision() -> None:
    for dtype, size in ((torch.float16, 2), (None, 4)):
        buffer = Reservoir(4, CPU, dtype)
        buffer.offer(torch.full((2, 3, 2, 2), 0.5), torch.zeros(2, dtype=torch.long), torch.zeros(2, 5))
        assert buffer.n_bytes == 4 * (12 * size + 8 + 5 * 4)
        kept = buffer.draw(2)
        assert kept.items.dtype == torch.float32 and bool((kept.items == 0.5).all())
    whole = Reservoir(4, CPU, torch.float16)
    whole.offer(torch.full((2, 3, 2, 2), 200, dtype=torch.uint8), torch.zeros(2, dtype=torch.long))
    assert whole.draw(1).items.dtype == torch.uint8


def test_gradients_are_not_kept() -> None:
    buffer = Reservoir(4, CPU)
    logits = torch.zeros(2, 5, requires_grad=True)
    buffer.offer(torch.zeros(2, 1), torch.zeros(2, dtype=torch.long), logits * 2)
    kept = buffer.draw(2)
    assert kept.logits is not None and not kept.logits.requires_grad


def test_logits_grow_with_the_classes() -> None:
    buffer = Reservoir(4, CPU)
    buffer.grow(2)
    buffer.offer(torch.zeros(2, 1), torch.zeros(2, dtype=torch.long), torch.ones(2, 3))
    buffer.grow(2)
    kept = buffer.draw(2)
    assert kept.logits is not None and kept.logits.tolist() == [[1, 1, 1, 0, 0]] * 2


def test_a_state_brings_everything_back() -> None:
    buffer = Reservoir(4, CPU)
    buffer.offer(torch.rand(9, 2), torch.arange(9), torch.rand(9, 3))
    state = copy.deepcopy(buffer.state_dict())
    again = Reservoir(4, CPU)
    again.load_state_dict(state)
    for one in (buffer, again):
        np.random.seed(0)
        one.offer(torch.ones(5, 2), torch.arange(5), torch.ones(5, 3))
    assert again.n_seen == buffer.n_seen == 14 and torch.equal(again.labels(), buffer.labels())
    torch.manual_seed(0)
    first = buffer.draw(3)
    torch.manual_seed(0)
    assert torch.equal(again.draw(3).items, first.items)


def test_an_emptied_buffer_starts_again() -> None:
    buffer = Reservoir(4, CPU)
    buffer.offer(torch.rand(9, 2), torch.arange(9))
    buffer.clear()
    assert (len(buffer), buffer.n_seen, buffer.n_bytes, buffer.has_logits) == (0, 0, 0, False)
    buffer.offer(torch.rand(2, 7), torch.arange(2))  # of another shape
    assert len(buffer) == 2


def test_a_buffer_without_places_keeps_nothing() -> None:
    buffer = Reservoir(0, CPU)
    buffer.offer(torch.rand(9, 2), torch.arange(9))
    assert len(buffer) == 0 and buffer.n_bytes == 0
