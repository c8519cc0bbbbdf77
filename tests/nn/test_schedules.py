"""Learning rates."""

from typing import Any

import pytest
import torch

from effcli.nn.schedules import cosine, set_rate


def test_half_a_cosine():
    assert cosine(0, 100, 1.0, 0.2) == pytest.approx(1.0)
    assert cosine(50, 100, 1.0, 0.2) == pytest.approx(0.6)
    assert cosine(100, 100, 1.0, 0.2) == pytest.approx(0.2)


def test_set_rate_reaches_every_group():
    first, second = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))
    groups: list[dict[str, Any]] = [{"params": [first]}, {"params": [second], "lr": 5.0}]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    set_rate(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]
