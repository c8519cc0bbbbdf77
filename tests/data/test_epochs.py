"""Epochs that end with a batch: every item once, no batch of one, and nothing but seed and step decides."""

from __future__ import annotations

import pytest

from effcli.data.epochs import batch_of_epoch, batches_per_epoch


@pytest.mark.parametrize(("n", "size"), [(10, 4), (9, 4), (8, 4), (3, 8), (1, 4), (2, 4), (33, 32), (5, 2)])
def test_an_epoch_has_every_item_once_and_no_batch_of_one(n: int, size: int) -> None:
    per_epoch = batches_per_epoch(n, size)
    for epoch in range(3):
        batches = [batch_of_epoch(epoch * per_epoch + k, n, size, 0, 0) for k in range(per_epoch)]
        assert {found for found, _ in batches} == {epoch}
        rows = [rows for _, rows in batches]
        assert sorted(item for batch in rows for item in batch.tolist()) == list(range(n))
        assert all(len(batch) <= size + 1 for batch in rows)
        assert n == 1 or all(len(batch) >= 2 for batch in rows)


def test_the_order_depends_on_seed_stream_and_epoch() -> None:
    first = batch_of_epoch(0, 50, 50, 0, 0)[1].tolist()
    assert first == batch_of_epoch(0, 50, 50, 0, 0)[1].tolist()
    others = [
        batch_of_epoch(*arguments)[1].tolist()
        for arguments in ((0, 50, 50, 1, 0), (0, 50, 50, 0, 1), (1, 50, 50, 0, 0))
    ]
    assert all(sorted(one) == sorted(first) and one != first for one in others)
