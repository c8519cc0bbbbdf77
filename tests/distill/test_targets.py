"""The target of progressive distillation, and clean images from predictions, against closed forms."""

import pytest
import torch

from effcli.distill.targets import ddim_step, to_x0, two_step_target
from effcli.distill.time_grid import Point, TimeGrid
from tests.distill.test_time_grid import COSINE

CPU = torch.device("cpu")
TABLE = TimeGrid(COSINE | {"num_train_timesteps": 1025, "set_alpha_to_one": False}, CPU)
TRAILING = TimeGrid(COSINE | {"num_train_timesteps": 1024}, CPU)
both_grids = pytest.mark.parametrize("grid", [TABLE, TRAILING], ids=["table", "trailing"])


def wide(point: Point) -> Point:
    """In float64, with alpha^2 + sigma^2 = 1 to its precision."""
    alpha = point.alpha.double()
    return Point(point.t, alpha, (1 - alpha.square()).sqrt())


def places(grid: TimeGrid, k: torch.Tensor, steps: int) -> list[Point]:
    return [
        wide(p) for p in (grid.at(2 * k, 2 * steps), grid.at(2 * k - 1, 2 * steps), grid.at(k - 1, steps))
    ]


def noisy(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, eps = (torch.randn(n, 1, 4, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    return x, eps


@both_grids
@pytest.mark.parametrize("steps", [1, 2, 4, 512])
def test_a_perfect_teacher_gives_the_image(grid, steps):
    k = torch.linspace(1, steps, 8).round().long()
    now, middle, end = places(grid, k, steps)
    x, eps = noisy(8)
    z = now.alpha * x + now.sigma * eps
    torch.testing.assert_close(two_step_target(lambda z, point: x, z, now, middle, end), x, atol=1e-9, rtol=0)


@both_grids
def test_one_step_with_the_target_lands_where_two_teacher_steps_do(grid):
    def teacher(z, point):
        return torch.tanh(0.7 * z + point.alpha)

    k = torch.arange(1, 5)
    now, middle, end = places(grid, k, 4)
    z = noisy(4)[1]
    z_middle = ddim_step(teacher(z, now), z, now, middle)
    z_end = ddim_step(teacher(z_middle, middle), z_middle, middle, end)
    target = two_step_target(teacher, z, now, middle, end)
    torch.testing.assert_close(ddim_step(target, z, now, end), z_end, atol=1e-9, rtol=1e-9)


def test_gaussian_data_have_a_closed_form():
    """N(0, c^2): the best x^ is alpha c^2 z / (alpha^2 c^2 + sigma^2), and x~ is one constant times z."""
    c = 0.5

    def gain(point):
        return point.alpha * c**2 / (point.alpha**2 * c**2 + point.sigma**2)

    now, middle, end = (wide(TABLE.at(torch.tensor([k]), 8)) for k in (8, 7, 6))
    assert [p.t.item() for p in (now, middle, end)] == [1024, 896, 768]
    z = torch.linspace(-2, 2, 16, dtype=torch.float64).view(1, 1, 4, 4)
    target = two_step_target(lambda z, point: gain(point) * z, z, now, middle, end)
    # A step multiplies z by alpha' g + sigma' (1 - alpha g) / sigma.
    first = middle.alpha * gain(now) + middle.sigma * (1 - now.alpha * gain(now)) / now.sigma
    second = end.alpha * gain(middle) + end.sigma * (1 - middle.alpha * gain(middle)) / middle.sigma
    r = end.sigma / now.sigma
    constant = (first * second - r) / (end.alpha - r * now.alpha)
    torch.testing.assert_close(target, constant * z, atol=1e-12, rtol=1e-9)
    assert constant.item() == pytest.approx(0.02536, abs=5e-6)


def test_a_linear_student_of_gaussian_data_learns_the_closed_form():
    """All rounds 8 -> 1: least squares on the targets gives, round by round, the gains of the composed teacher."""
    c, grid = 0.5, TABLE
    gains: dict[tuple[int, int], float] = {}
    for k in range(1, 9):
        p = wide(grid.at(torch.tensor([k]), 8))
        gains[8, k] = (p.alpha * c**2 / (p.alpha**2 * c**2 + p.sigma**2)).item()
    exact = composed_gain(gains, grid)
    for steps in (4, 2, 1):
        for k in range(1, steps + 1):
            now, middle, end = places(grid, torch.tensor([k]), steps)
            pair = {id(now): gains[2 * steps, 2 * k], id(middle): gains[2 * steps, 2 * k - 1]}
            z = noisy(1)[1]
            target = two_step_target(lambda z, p, pair=pair: pair[id(p)] * z, z, now, middle, end)  # type: ignore[misc]
            gains[steps, k] = ((z * target).sum() / (z * z).sum()).item()
            torch.testing.assert_close(target, gains[steps, k] * z)
    top, clean = wide(grid.at(torch.tensor([1]), 1)), wide(grid.at(torch.tensor([0]), 1))
    z = noisy(1)[1]
    landed = ddim_step(gains[1, 1] * z, z, top, clean)
    torch.testing.assert_close(landed, exact * z, atol=1e-9, rtol=1e-6)


def composed_gain(gains, grid):
    """What eight DDIM steps multiply z by."""
    total = 1.0
    for k in range(8, 0, -1):
        now, end = (wide(grid.at(torch.tensor([i]), 8)) for i in (k, k - 1))
        g = gains[8, k]
        total *= (end.alpha * g + end.sigma * (1 - now.alpha * g) / now.sigma).item()
    return total


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_the_clean_image_follows_from_the_right_prediction(kind):
    x, eps = noisy(4)
    sigma = torch.tensor([0.1, 0.5, 0.8, 0.99], dtype=torch.float64)[:, None, None, None]
    alpha = (1 - sigma**2).sqrt()
    prediction = {"epsilon": eps, "sample": x, "v_prediction": alpha * eps - sigma * x}[kind]
    point = Point(torch.zeros(4), alpha, sigma)
    torch.testing.assert_close(to_x0(prediction, alpha * x + sigma * eps, point, kind), x)
