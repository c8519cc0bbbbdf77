"""DDIM against its closed form."""

import itertools

import pytest
import torch

from effcli.core.errors import InputError
from effcli.diffusion.ddim import alpha_sigma, ddim_scheduler, sample, timesteps_of, trajectory
from tests.diffusion.tiny_models import SCHEDULER


def test_powers_of_two_are_exact_steps():
    config = SCHEDULER | {"num_train_timesteps": 1024}
    for n in (1, 2, 4, 8, 16, 32):
        expected = [1024 - 1 - i * (1024 // n) for i in range(n)]
        assert timesteps_of(ddim_scheduler(config, n)) == expected


def test_a_model_that_knows_the_image_ends_at_it():
    scheduler = ddim_scheduler(SCHEDULER | {"prediction_type": "sample"}, 8)
    x0 = torch.rand(2, 1, 4, 4) * 2 - 1
    out = sample(lambda x, t: x0, scheduler, torch.randn(2, 1, 4, 4))
    torch.testing.assert_close(out, x0)


def test_each_step_is_equation_12_of_ddim():
    scheduler = ddim_scheduler(SCHEDULER | {"prediction_type": "epsilon", "clip_sample": False}, 4)
    noise, eps = torch.randn(1, 1, 2, 2), torch.randn(1, 1, 2, 2)
    walk = list(trajectory(lambda x, t: eps, scheduler, noise))
    for (t, x, _), (s, after, _) in itertools.pairwise(walk):
        alpha, sigma = alpha_sigma(scheduler.alphas_cumprod, torch.tensor([t]))
        to_alpha, to_sigma = (torch.tensor(1.0), torch.tensor(0.0))
        if s >= 0:
            to_alpha, to_sigma = alpha_sigma(scheduler.alphas_cumprod, torch.tensor([s]))
        torch.testing.assert_close(after, to_alpha * (x - sigma * eps) / alpha + to_sigma * eps)


def test_noise_of_eta_comes_from_the_generator():
    scheduler = ddim_scheduler(SCHEDULER, 4)
    noise = torch.randn(1, 1, 4, 4)

    def draw(seed):
        generator = torch.Generator().manual_seed(seed)
        return sample(lambda x, t: 0.1 * x, scheduler, noise, eta=1.0, generator=generator)

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_predicted_variances_change_no_step():
    ours, plain = (ddim_scheduler(SCHEDULER | more, 4) for more in ({"variance_type": "learned_range"}, {}))
    assert timesteps_of(ours) == timesteps_of(plain)


def test_more_steps_than_noise_levels_are_refused():
    with pytest.raises(InputError, match="does not convert"):
        ddim_scheduler(SCHEDULER, 65)
