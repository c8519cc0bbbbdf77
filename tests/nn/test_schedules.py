"""Learning rates."""

import pytest

from effcli.nn.schedules import cosine


def test_half_a_cosine():
    assert cosine(0, 100, 1.0, 0.2) == pytest.approx(1.0)
    assert cosine(50, 100, 1.0, 0.2) == pytest.approx(0.6)
    assert cosine(100, 100, 1.0, 0.2) == pytest.approx(0.2)
