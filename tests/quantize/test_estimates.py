"""What the plan says that a run will take."""

import torch
from torch import nn

from effcli.quantize.estimates import cost_of_run, cost_of_weights, timed_calls
from tests.diffusion.tiny_models import tiny_unet
from tests.quantize.quantized_tiny import recipe_of


def test_seconds_and_memory_grow_with_the_weights():
    recipe = recipe_of("w4", allocation={"rule": "uniform"})
    with torch.device("meta"):
        networks = [nn.ModuleList(nn.Linear(side, side) for _ in range(6)) for side in (512, 4096)]
    state = torch.random.get_rng_state()
    small, large = (cost_of_weights(network, recipe) for network in networks)
    assert large["estimated_s"] > 0
    assert large["estimated_s"] > small["estimated_s"]
    assert 20 * small["estimated_memory_mb"] < large["estimated_memory_mb"]
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_run_is_counted_in_calls_of_the_network():
    recipe = recipe_of(
        "w4a8",
        calibration={"n_images": 2, "n_inputs": 3},
        train={"trajectories": 5, "batch_size": 7},
        eval={"n_images": 11},
    )
    none, one = (cost_of_run(tiny_unet(), recipe, 4, seconds)["estimated_s"] for seconds in (0, 100))
    assert round((one - none) / 100) == 4 * 2 + 5 * 3 + 4 * 4 * 5 * 7 + 2 * 4 * 11


def test_calls_are_timed():
    network = nn.Linear(2, 2)
    with timed_calls(network) as seconds:
        network(torch.zeros(1, 2))
    network(torch.zeros(1, 2))
    assert len(seconds) == 1
