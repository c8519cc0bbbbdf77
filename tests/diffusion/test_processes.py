"""Flow matching, EDM and score SDEs: the steps are those of diffusers, and a perfect network ends at its image."""

from __future__ import annotations

from pathlib import Path

import diffusers
import pytest
import torch

from effcli.core.errors import InputError
from effcli.diffusion.ddim import ddim_scheduler, ends_of, sample, timesteps_of
from effcli.diffusion.models import load_model, network_timesteps, save_folder
from effcli.diffusion.processes import IMAGE_TOKENS, describe, levels_at, process_of, sigmas_of
from effcli.diffusion.schedulers import DISTILLED_TIMESTEPS
from effcli.distill.targets import Denoiser, to_x0, two_step_target
from effcli.distill.time_grid import TimeGrid
from effcli.quantize.unread_models import open_model
from tests.diffusion.tiny_denoisers import tiny_denoiser

CPU = torch.device("cpu")
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
EDM = {"_class_name": "EDMEulerScheduler"}
EDM_V = {
    "_class_name": "EDMDPMSolverMultistepScheduler",
    "prediction_type": "v_prediction",
    "sigma_data": 0.7,
}
SCORE = {"_class_name": "ScoreSdeVeScheduler", "sigma_max": 50.0}
ALL = {"flow": FLOW, "edm": EDM, "edm-v": EDM_V, "score": SCORE}


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def network(x: torch.Tensor, t: float) -> torch.Tensor:
    """Any smooth function of both."""
    return torch.tanh(x * 0.7 + float(t) * 0.001) - 0.1 * x.roll(1, -1)


@pytest.mark.parametrize(
    "config",
    [
        FLOW,
        {**FLOW, "shift": 1.0, "use_karras_sigmas": True},
        EDM,
        {**EDM, "final_sigmas_type": "sigma_min"},
        {**EDM, "prediction_type": "v_prediction", "sigma_data": 0.7},
    ],
)
def test_steps_are_those_of_diffusers(config: dict[str, object]) -> None:
    theirs = getattr(diffusers, str(config["_class_name"])).from_config(config)
    theirs.set_timesteps(6)
    ours = ddim_scheduler(config, 6)
    torch.testing.assert_close(ours.timesteps, theirs.timesteps.float(), rtol=1e-5, atol=1e-5)
    start = noise(2, 1, 4, 4)
    x = start * getattr(theirs, "init_noise_sigma", 1.0)
    for t in theirs.timesteps:
        given = theirs.scale_model_input(x, t) if hasattr(theirs, "scale_model_input") else x
        x = theirs.step(network(given, float(t)), t, x).prev_sample
    images = sample(network, ours, start)
    torch.testing.assert_close(images, x, rtol=1e-4, atol=1e-4)


def test_a_shift_that_depends_on_the_image_is_that_of_flux() -> None:
    config = {
        "_class_name": FLOW["_class_name"],
        "use_dynamic_shifting": True,
        "base_shift": 0.5,
        "max_shift": 1.15,
    }
    theirs = diffusers.FlowMatchEulerDiscreteScheduler.from_config(config)
    theirs.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25], mu=0.5 + (1024 - 256) * 0.65 / (4096 - 256))
    ours = ddim_scheduler({**config, IMAGE_TOKENS: 1024}, 4)
    torch.testing.assert_close(ours.timesteps, theirs.timesteps)
    with pytest.raises(InputError, match="use_dynamic_shifting needs the size of the image"):
        ddim_scheduler(config, 4)


@pytest.mark.parametrize(
    ("name", "timesteps"), [("flux", [1.0, 0.75, 0.5, 0.25]), ("sd3", [1000.0, 667.0, 334.0, 1.0])]
)
def test_even_sigmas_are_those_that_the_pipeline_asks_for(
    name: str, timesteps: list[float], tmp_path: Path
) -> None:
    """Flux.1 schnell: its pipeline does not take the levels of the scheduler."""
    save_folder(tmp_path, tiny_denoiser(name), {**FLOW, "shift": 1.0})
    model = load_model(str(tmp_path))
    assert network_timesteps(model, 4) == pytest.approx(timesteps, rel=1e-3)
    assert network_timesteps(open_model(str(tmp_path)).model, 4) == network_timesteps(model, 4)


def test_solvers_of_flow_matching() -> None:
    config = {
        "_class_name": "DPMSolverMultistepScheduler", "prediction_type": "flow_prediction", "use_flow_sigmas": True,
        "flow_shift": 3.0,
    }  # fmt: skip
    theirs = diffusers.DPMSolverMultistepScheduler.from_config(config)
    theirs.set_timesteps(5)
    ours = ddim_scheduler(config, 5)
    assert [round(t) for t in timesteps_of(ours)] == pytest.approx(theirs.timesteps.tolist(), abs=1)


@pytest.mark.parametrize("config", ALL.values(), ids=ALL)
def test_a_network_that_knows_the_image_ends_at_it(config: dict[str, object]) -> None:
    process = process_of(config)
    assert process is not None
    x = noise(2, 1, 4, 4, seed=3).clamp(-1, 1)

    def perfect(z: torch.Tensor, t: float) -> torch.Tensor:
        level = levels_at(process, sigmas_of(process, [t]))
        alpha, sigma = level.alpha.float(), level.sigma.float()
        eps = (z - alpha * x) / sigma
        d = process.data_std
        return {
            "flow_prediction": eps - x,
            "score": -eps / sigma,
            "edm": (x - d * d * alpha * z) / (d * sigma),
            "edm_v": (d * d * alpha * z - x) / (d * sigma),
        }[process.prediction]

    for eta in (0.0, 1.0):
        images = sample(
            perfect, ddim_scheduler(config, 8), noise(2, 1, 4, 4), eta=eta, generator=torch.Generator()
        )
        torch.testing.assert_close(images, x, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("config", ALL.values(), ids=ALL)
def test_students_and_teachers_share_the_axis(config: dict[str, object]) -> None:
    grid, process = TimeGrid(config, CPU), process_of(config)
    assert process is not None
    k = torch.arange(1, 5)
    now, same = grid.at(k, 4), grid.at(2 * k, 8)
    assert all(torch.equal(a, b) for a, b in zip(now, same, strict=True))
    x, eps = noise(4, 1, 4, 4, seed=1).clamp(-1, 1), noise(4, 1, 4, 4, seed=2)
    z = now.alpha * x + now.sigma * eps
    teacher = lambda z, point: to_x0(network(z, 0.0), z, point, process.prediction)  # noqa: E731
    middle, end = grid.at(2 * k - 1, 8), grid.at(k - 1, 4)
    target = two_step_target(teacher, z, now, middle, end)
    one_step = end.alpha * target + end.sigma * (z - now.alpha * target) / now.sigma
    two_steps = z
    for a, b in ((now, middle), (middle, end)):
        clean = teacher(two_steps, a)
        two_steps = b.alpha * clean + b.sigma * (two_steps - a.alpha * clean) / a.sigma
    torch.testing.assert_close(one_step, two_steps, rtol=1e-3, atol=1e-3)


def test_a_student_samples_at_the_timesteps_it_was_trained_at() -> None:
    timesteps = TimeGrid(FLOW, CPU).timesteps(2)
    assert timesteps == pytest.approx([1000.0, 750.0])
    scheduler = ddim_scheduler({**FLOW, "clip_sample": True, DISTILLED_TIMESTEPS: timesteps})
    assert timesteps_of(scheduler) == timesteps
    images = sample(lambda x, t: -10 * torch.ones_like(x), scheduler, noise(1, 1, 2, 2))
    assert images.tolist() == torch.ones(1, 1, 2, 2).tolist()
    with pytest.raises(InputError, match="distilled for 2 steps"):
        ddim_scheduler({**FLOW, DISTILLED_TIMESTEPS: timesteps}, 4)


def test_denoisers_take_what_the_network_is_told() -> None:
    told: list[torch.Tensor] = []

    def network(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        told.append(t)
        return z

    point = TimeGrid(EDM, CPU).at(torch.tensor([1, 2]), 2)
    Denoiser(network, "edm")(noise(2, 1, 2, 2), point)
    assert told[0].tolist() == pytest.approx(
        [0.25 * torch.tensor(s).log().item() for s in (2.514, 80.0)], abs=1e-3
    )


def test_ends_are_known() -> None:
    assert ends_of(FLOW, 4) == (0.0, 0.0)
    first, last = ends_of({**EDM, "sigma_max": 1.0, "final_sigmas_type": "sigma_min", "sigma_min": 0.1}, 4)
    assert first == pytest.approx(0.2, abs=1e-3)
    assert last == pytest.approx(0.01 / 0.26, abs=1e-3)
    assert describe(FLOW) == (
        "FlowMatchEulerDiscreteScheduler, flow matching, predicts flow_prediction, Euler steps"
    )


SOLVER = {
    "_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction", "use_flow_sigmas": True
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({**SOLVER, "use_dynamic_shifting": True}, "use_dynamic_shifting is True, which is not supported"),
        ({**SOLVER, "shift_terminal": 0.1}, "shift_terminal is 0.1, which is not supported"),
        ({**SOLVER, "thresholding": True}, "thresholding is True, which is not supported"),
        ({**SOLVER, "final_sigmas_type": "sigma_min"}, "final_sigmas_type is 'sigma_min', which is not"),
        ({**SOLVER, "flow_shift": 0.0}, "flow_shift is 0.0, not a number above 0"),
        ({**SOLVER, "flow_shft": 3.0}, "flow_shft (3.0) is not understood"),
        ({**SOLVER, "_class_name": "DDIMScheduler"}, "prediction_type is 'flow_prediction', which is not"),
        ({**SOLVER, "_class_name": "NoScheduler"}, "NoScheduler is not supported"),
        ({**FLOW, "invert_sigmas": True}, "invert_sigmas (True) is not understood"),
        ({**FLOW, "stochastic_sampling": True}, "stochastic_sampling (True) is not understood"),
        ({**FLOW, "shift": -1.0}, "shift is -1.0, not a number above 0"),
        ({**EDM, "prediction_type": "sample"}, "prediction_type is 'sample', which is not supported"),
        ({**EDM, "sigma_min": 90.0}, "sigma_min is 90.0, its sigma_max 80.0"),
        ({**EDM_V, "thresholding": True}, "thresholding (True) is not understood"),
        ({**SCORE, "new_key": 1}, "new_key (1) is not understood"),
    ],
)
def test_what_is_not_understood_is_named(config: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        ddim_scheduler(config, 2)
    assert message in str(caught.value)
