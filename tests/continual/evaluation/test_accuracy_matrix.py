"""Metrics of class-incremental learning on matrices that can be done by hand."""

from __future__ import annotations

import numpy as np
import pytest

from effcli.continual.evaluation.accuracy_matrix import (
    average_incremental,
    backward_transfer,
    forgetting,
    last_average,
    stability_plasticity,
)

NAN = np.nan
R = np.array([[0.9, NAN, NAN], [0.5, 0.8, NAN], [0.6, 0.3, 0.7]])


def test_the_last_row_is_averaged_over_tasks() -> None:
    assert last_average(R) == pytest.approx((0.6 + 0.3 + 0.7) / 3)


def test_forgetting_is_what_is_gone_of_the_best() -> None:
    assert forgetting(R) == pytest.approx(((0.9 - 0.6) + (0.8 - 0.3)) / 2)


def test_a_task_that_is_best_at_the_end_counts_as_negative() -> None:
    assert forgetting(np.array([[0.5, NAN], [0.7, 0.9]])) == pytest.approx(-0.2)


def test_the_best_may_lie_between() -> None:
    better = np.array([[0.4, NAN, NAN], [0.8, 0.5, NAN], [0.6, 0.5, 0.9]])
    assert forgetting(better) == pytest.approx((0.8 - 0.6 + 0) / 2)
    assert backward_transfer(better) == pytest.approx((0.6 - 0.4 + 0) / 2)


def test_backward_transfer_starts_where_a_task_was_learned() -> None:
    assert backward_transfer(R) == pytest.approx(((0.6 - 0.9) + (0.3 - 0.8)) / 2)


def test_incremental_accuracy_counts_images_and_the_first_task() -> None:
    counts = np.array([100, 50, 50])
    wanted = (0.9 + (0.5 * 100 + 0.8 * 50) / 150 + (0.6 * 100 + 0.3 * 50 + 0.7 * 50) / 200) / 3
    assert average_incremental(R, counts) == pytest.approx(wanted)


def test_stability_plasticity_and_their_harmonic_mean() -> None:
    stability, plasticity = (0.6 + 0.3) / 2, (0.9 + 0.8 + 0.7) / 3
    wanted = (stability, plasticity, 2 * stability * plasticity / (stability + plasticity))
    assert stability_plasticity(R) == pytest.approx(wanted)
    assert stability_plasticity(np.zeros((2, 2))) == (0.0, 0.0, 0.0)


def test_one_task_has_nothing_to_forget() -> None:
    one = np.array([[0.9]])
    assert last_average(one) == 0.9 and average_incremental(one, np.array([10])) == pytest.approx(0.9)
    assert forgetting(one) is backward_transfer(one) is stability_plasticity(one) is None
