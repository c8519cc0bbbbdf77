"""One time axis for all numbers of steps."""

import pytest
import torch

from effcli.core.errors import UsageError
from effcli.diffusion.ddim import ddim_scheduler, timesteps_of
from effcli.distill.time_grid import TimeGrid

CPU = torch.device("cpu")
COSINE = {
    "_class_name": "DDIMScheduler",
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "sample",
    "timestep_spacing": "trailing",
}
RELEASED = TimeGrid(COSINE | {"num_train_timesteps": 1025, "set_alpha_to_one": False}, CPU)
OURS = TimeGrid(COSINE | {"num_train_timesteps": 1024}, CPU)
THOUSAND = TimeGrid(
    {"_class_name": "DDPMScheduler", "num_train_timesteps": 1000, "beta_schedule": "linear"}, CPU
)


def test_the_released_table():
    k = torch.arange(1025)
    point = RELEASED.at(k, 1024)
    level = point.alpha.flatten().double().square()
    assert point.t.tolist() == list(range(1025))
    assert (level[1:] < level[:-1]).all()
    assert float(level[0]) == pytest.approx(0.99995978, abs=1e-7)
    assert float(level[512]) == pytest.approx(0.49308, abs=1e-5)
    assert float(level[1024]) == pytest.approx(2.31e-9, rel=2e-3)
    assert float(point.sigma[0]) == pytest.approx(0.00634, abs=1e-5)


def test_the_released_steps_are_multiples():
    assert RELEASED.timesteps(4) == [1024, 768, 512, 256]
    assert RELEASED.timesteps(1) == [1024]
    assert RELEASED.span == OURS.span == 1024


@pytest.mark.parametrize("steps", [1, 2, 4, 8, 64, 1024])
def test_other_steps_are_the_trailing_ones_of_diffusers(steps):
    assert OURS.timesteps(steps) == timesteps_of(
        ddim_scheduler(COSINE | {"num_train_timesteps": 1024}, steps)
    )
    assert OURS.at(torch.tensor([0]), steps).sigma.item() == 0


@pytest.mark.parametrize("grid", [RELEASED, OURS, THOUSAND], ids=["released", "1024", "1000"])
def test_teacher_and_student_are_at_the_same_place(grid):
    for steps in (1, 2, 4, 8, 16, 64, 256):
        k = torch.arange(steps + 1)
        ours, theirs = grid.at(k, steps), grid.at(2 * k, 2 * steps)
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_steps_are_checked():
    THOUSAND.check_steps(1, 512)
    for steps, teacher_steps, message in (
        (3, 8, "3 is not a power of two"),
        (1, 12, "12 is not a power of two"),
        (16, 8, "more than the teacher's 8 steps"),
        (1, 1024, "more than the model's 1000 noise levels"),
    ):
        with pytest.raises(UsageError, match=message):
            THOUSAND.check_steps(steps, teacher_steps)
