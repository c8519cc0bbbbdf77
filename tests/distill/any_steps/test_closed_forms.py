"""Targets against a Gaussian data set, whose denoiser and whose ODE are known: docs/methods/cd.md and shortcut.md."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from effcli.distill.any_steps.consistency import consistency_target
from effcli.distill.any_steps.shortcut import target_of_sizes
from effcli.distill.targets import Denoiser
from effcli.distill.time_grid import Point, TimeGrid

CPU = torch.device("cpu")
C = 0.5
"""Standard deviation of the data."""

TABLE = {"_class_name": "DDIMScheduler", "num_train_timesteps": 1024, "beta_schedule": "squaredcos_cap_v2"}
CONFIGS: list[dict[str, Any]] = [
    TABLE,
    {"_class_name": "FlowMatchEulerDiscreteScheduler"},
    {"_class_name": "EDMEulerScheduler"},
]
KINDS = pytest.mark.parametrize("config", CONFIGS, ids=["table", "flow", "edm"])


def length(point: Point) -> Tensor:
    return (C**2 * point.alpha.square() + point.sigma.square()).sqrt()


def denoise(z: Tensor, point: Point) -> Tensor:
    """The mean of x given z."""
    return point.alpha * C**2 * z / length(point).square()


def exact_image(z: Tensor, point: Point) -> Tensor:
    """Where the ODE from z ends: z keeps its place among the quantiles."""
    return C * z / length(point)


@KINDS
def test_the_consistency_function_is_the_end_of_the_ode(config: dict[str, Any]) -> None:
    grid, n = TimeGrid(config, CPU), 1024
    k = torch.arange(1, n + 1)
    now, end = grid.at(k, n), grid.at(k - 1, n)
    z = length(now) * torch.randn(n, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    found = consistency_target(denoise, exact_image, z, now, end, k == 1)
    torch.testing.assert_close(found, exact_image(z, now), atol=0.02, rtol=0)
    inner = slice(n // 16, None)
    torch.testing.assert_close(found[inner], exact_image(z, now)[inner], atol=2e-3, rtol=0)


@KINDS
def test_the_boundary_condition_holds_whatever_the_network_says(config: dict[str, Any]) -> None:
    grid = TimeGrid(config, CPU)
    clean = grid.at(torch.zeros(3, dtype=torch.long), 4)
    x = torch.randn(3, 1, 4, 4)
    prediction = {"DDIMScheduler": "v_prediction", "EDMEulerScheduler": "edm"}.get(
        config["_class_name"], "flow_prediction"
    )

    def network(z: Tensor, t: Tensor) -> Tensor:
        return 100 * torch.randn_like(z)

    torch.testing.assert_close(Denoiser(network, prediction)(clean.alpha * x, clean), x)


@pytest.mark.parametrize("n", [1, 2, 8])
@KINDS
def test_two_exact_half_steps_are_an_exact_step(config: dict[str, Any], n: int) -> None:
    grid = TimeGrid(config, CPU)

    def jump(steps: int) -> Any:
        """x~ with which one of so many steps lands where the ODE does."""
        every = torch.arange(1, steps + 1)
        starts, ends = grid.at(every, steps), grid.at(every - 1, steps)

        def call(z: Tensor, point: Point) -> Tensor:
            rows = (starts.sigma.flatten() - point.sigma.flatten()[:, None]).abs().argmin(1)
            end_alpha, end_sigma = ends.alpha[rows], ends.sigma[rows]
            end = Point(point.t, end_alpha, end_sigma, point.data_std)
            r = end_sigma / point.sigma
            return (z * length(end) / length(point) - r * z) / (end_alpha - r * point.alpha)

        return call

    k = torch.arange(1, n + 1)
    now = grid.at(k, n)
    z = length(now) * torch.randn(n, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    steps = torch.full((n,), n)
    found = target_of_sizes(jump(2 * n), z, k, steps, grid)
    torch.testing.assert_close(found, jump(n)(z, now), atol=1e-4, rtol=1e-3)


def test_many_halvings_of_a_teacher_end_at_the_exact_image() -> None:
    """From 256 DDIM steps, each size learned perfectly from the one below it."""
    grid = TimeGrid(TABLE, CPU)

    def student(n: int, z: Tensor, k: Tensor) -> Tensor:
        def follow(z: Tensor, point: Point) -> Tensor:
            if 2 * n == 256:
                return denoise(z, point)
            every = grid.at(torch.arange(1, 2 * n + 1), 2 * n).t
            return student(2 * n, z, (every == point.t[:, None]).float().argmax(1) + 1)

        return target_of_sizes(follow, z, k, torch.full_like(k, n), grid)

    z = torch.randn(4, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    k = torch.ones(4, dtype=torch.long)
    torch.testing.assert_close(student(1, z, k), exact_image(z, grid.at(k, 1)), atol=0.01, rtol=0)
