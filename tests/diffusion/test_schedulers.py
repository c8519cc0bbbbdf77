"""Which schedulers are understood, and that DDIM with their levels is what diffusers' own pipelines do."""

import inspect
from itertools import pairwise

import diffusers
import pytest
import torch

from effcli.core.errors import InputError
from effcli.diffusion.ddim import alpha_sigma, ddim_scheduler, sample, timesteps_of
from effcli.diffusion.processes import describe
from effcli.diffusion.schedulers import CLASSES, ddim_config, notices
from tests.diffusion.tiny_models import tiny_unet


@pytest.mark.parametrize("name", sorted(set(CLASSES) - {"DPMSolverSDEScheduler"}))
def test_defaults_are_those_of_the_class(name):
    settings = ddim_config({"_class_name": name})
    signature = inspect.signature(getattr(diffusers, name).__init__).parameters
    own = {key: signature[key].default for key in settings if key in signature}
    assert len(own) >= 6
    assert {key: settings[key] for key in own} == own


@pytest.mark.parametrize("name", sorted(set(CLASSES) - {"DPMSolverSDEScheduler", "TCDScheduler"}))
@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_levels_are_those_of_the_class_as_it_saves_itself(name, schedule, tmp_path):
    scheduler = getattr(diffusers, name)(num_train_timesteps=64, beta_schedule=schedule)
    scheduler.save_config(tmp_path)
    config = getattr(diffusers, name).load_config(tmp_path)
    assert torch.equal(ddim_scheduler(config, 4).alphas_cumprod, scheduler.alphas_cumprod)


PIXELS = {"_class_name": "DDIMScheduler", "num_train_timesteps": 64, "beta_schedule": "squaredcos_cap_v2"}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"prediction_type": "v_prediction", "timestep_spacing": "trailing", "rescale_betas_zero_snr": True},
        {"prediction_type": "sample", "clip_sample": False, "timestep_spacing": "linspace"},
        {"set_alpha_to_one": False, "steps_offset": 1, "clip_sample_range": 2.0},
        {"thresholding": True, "sample_max_value": 1.5},
        {"beta_schedule": "linear", "beta_start": 0.002, "beta_end": 0.2},
        {"trained_betas": [0.01 + 0.002 * i for i in range(64)]},
        {"_class_name": "DDPMScheduler", "variance_type": "fixed_large"},
        {"_class_name": "PNDMScheduler", "skip_prk_steps": True, "steps_offset": 1},
        {"_class_name": "LCMScheduler"},
    ],
)
def test_samples_are_those_of_the_ddim_pipeline(changes):
    config = PIXELS | changes
    unet = tiny_unet()
    own = getattr(diffusers, config["_class_name"]).from_config(config)
    saved = {"clip_sample": False} | {k: v for k, v in own.config.items() if k != "_use_default_values"}
    pipeline = diffusers.DDIMPipeline(unet, diffusers.DDIMScheduler.from_config(saved))
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        batch_size=2, num_inference_steps=5, generator=torch.Generator().manual_seed(3), output_type="np"
    ).images
    noise = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        ours = sample(lambda x, t: unet(x, t).sample, ddim_scheduler(config, 5), noise)
    images = (ours / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    torch.testing.assert_close(images, torch.from_numpy(theirs), rtol=1e-5, atol=1e-5)


def test_euler_steps_at_the_same_timesteps_end_at_the_same_image():
    config = {
        "_class_name": "EulerDiscreteScheduler",
        "num_train_timesteps": 64,
        "beta_start": 0.002,
        "beta_end": 0.2,
        "timestep_spacing": "trailing",
    }
    unet = tiny_unet()
    euler = diffusers.EulerDiscreteScheduler.from_config(config)
    euler.set_timesteps(8)
    noise = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    x = noise * euler.init_noise_sigma
    ours = ddim_scheduler(config, 8)
    assert timesteps_of(ours) == euler.timesteps.long().tolist()
    start = (
        x / (1 + euler.sigmas[0] ** 2).sqrt()
    )  # diffusers begins a trailing grid a little beyond unit variance
    with torch.no_grad():
        for t in euler.timesteps:
            x = euler.step(unet(euler.scale_model_input(x, t), t).sample, t, x).prev_sample
        images = sample(lambda x, t: unet(x, t).sample, ours, start)
    torch.testing.assert_close(images, x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "DDPMScheduler", "HeunDiscreteScheduler"])
@pytest.mark.parametrize("n_steps", [4, 7, 20])
def test_steps_of_uneven_timesteps_end_where_the_next_begins(name, n_steps):
    scheduler = ddim_scheduler(
        {"_class_name": name, "timestep_spacing": "linspace", "clip_sample": False}, n_steps
    )
    image, eps = (torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(i)) for i in (0, 1))

    def at(t):
        alpha, sigma = alpha_sigma(scheduler.alphas_cumprod, torch.tensor([int(t)]))
        return alpha * image + sigma * eps

    timesteps, z = timesteps_of(scheduler), at(timesteps_of(scheduler)[0])
    for t, following in pairwise(timesteps):
        z = scheduler.step(eps, t, z).prev_sample
        torch.testing.assert_close(z, at(following), rtol=1e-3, atol=1e-3)
    last = scheduler.step(eps, timesteps[-1], z).prev_sample
    torch.testing.assert_close(last, image, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "the configuration has no _class_name"),
        ({"_class_name": "KarrasVeScheduler"}, "KarrasVeScheduler is not supported"),
        (
            {"_class_name": "CMStochasticIterativeScheduler"},
            "CMStochasticIterativeScheduler is not supported: consistency models predict the image itself",
        ),
        (
            {"_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction"},
            "UniPCMultistepScheduler's prediction_type is 'flow_prediction', which is not supported",
        ),
        (
            {"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True},
            "UniPCMultistepScheduler's use_flow_sigmas is True",
        ),
        (
            {"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous"},
            "EulerDiscreteScheduler's timestep_type is 'continuous'",
        ),
        (
            {"_class_name": "DDPMScheduler", "beta_schedule": "sigmoid"},
            "DDPMScheduler's beta_schedule is 'sigmoid'",
        ),
        (
            {"_class_name": "DDPMScheduler", "snr_shift_scale": 3.0},
            "DDPMScheduler's snr_shift_scale (3.0) is not",
        ),
        (
            {"_class_name": "DDIMScheduler", "timestep_spacing": "log"},
            "DDIMScheduler's timestep_spacing is 'log'",
        ),
        (
            {"_class_name": "DDIMScheduler", "trained_betas": [0.1]},
            "trained_betas are 1, num_train_timesteps is 1000",
        ),
        (
            {"_class_name": "DDIMScheduler", "num_train_timesteps": 2, "trained_betas": [0.1, 1.5]},
            "trained_betas are not numbers from 0 to below 1",
        ),
        (
            {"_class_name": "DDIMScheduler", "rescale_betas_zero_snr": True},
            "rescale_betas_zero_snr does not work with prediction_type 'epsilon'",
        ),
        ({"_class_name": "DDIMScheduler", "beta_end": 2.0}, "its betas are 0.0001 to 2, not within 0 to 1"),
        ({"_class_name": "DDPMScheduler", "variance_type": "guessed"}, "variance_type is 'guessed'"),
    ],
)
def test_what_is_not_understood_is_named(config, message):
    with pytest.raises(InputError) as caught:
        ddim_scheduler(config, 2)
    assert message in str(caught.value)
    assert str(caught.value).startswith("scheduler: ")


def test_a_sigma_grid_of_its_own_is_said():
    config = {"_class_name": "DPMSolverMultistepScheduler", "use_karras_sigmas": True}
    assert notices(config) == [
        "DPMSolverMultistepScheduler's use_karras_sigmas is not used: DDIM steps at its own timesteps"
    ]
    assert notices(config | {"use_karras_sigmas": False}) == []
    assert describe(config) == "DPMSolverMultistepScheduler, sampled with DDIM, predicts epsilon"


def test_the_last_step_ends_where_the_class_ends():
    def final(**config):
        return float(ddim_scheduler(config, 2).final_alpha_cumprod)

    assert final(_class_name="EulerDiscreteScheduler") == 1
    assert final(_class_name="EulerDiscreteScheduler", final_sigmas_type="sigma_min") < 1
    assert final(_class_name="PNDMScheduler") < 1
    assert final(_class_name="DEISMultistepScheduler") < 1


def test_early_names_of_what_is_predicted():
    assert (
        ddim_config({"_class_name": "DDPMScheduler", "predict_epsilon": False})["prediction_type"] == "sample"
    )
    assert (
        ddim_config({"_class_name": "DDPMScheduler", "predict_epsilon": True})["prediction_type"] == "epsilon"
    )
