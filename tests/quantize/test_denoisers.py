"""Networks of every class through calibration, fine-tuning, packing, loading and export, with random weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from effcli.core.errors import InputError
from effcli.core.run import open_run
from effcli.core.runtime import create_runtime
from effcli.diffusion.ddim import ddim_scheduler, timesteps_of
from effcli.diffusion.models import load_model, save_folder
from effcli.quantize.exporting.export import export
from effcli.quantize.fake_quantization.layers import find_layers
from effcli.quantize.packed_unet import unet_of
from effcli.quantize.pipeline import guided_model, plan_run, run, sample
from effcli.quantize.weights import load_packed
from tests.diffusion.tiny_denoisers import MAKERS, save_inputs, tiny_denoiser
from tests.diffusion.tiny_models import SCHEDULER, save_pipeline, tiny_unet
from tests.quantize.quantized_tiny import recipe_of

LATENTS = {**SCHEDULER, "clip_sample": False}
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0, "use_dynamic_shifting": False}
SCHEDULERS = {
    "sd3": FLOW,
    "aura-flow": FLOW,
    "sana": FLOW,
    "lumina": FLOW,
    "flux": {**FLOW, "use_dynamic_shifting": True},
}
CPU = torch.device("cpu")


@pytest.mark.slow
@pytest.mark.parametrize("name", MAKERS)
def test_from_a_folder_to_a_packed_file_and_back(name: str, tmp_path: Path) -> None:
    network = tiny_denoiser(name)
    save_folder(tmp_path / "model", network, SCHEDULERS.get(name, LATENTS))
    inputs = save_inputs(tmp_path / "inputs.safetensors", network)
    recipe = recipe_of(
        "w8a8",
        model=str(tmp_path / "model"),
        sampler={"steps": 2},
        condition={"inputs": inputs and str(inputs)},
        calibration={"n_images": 2, "n_inputs": 4, "range_method": "max"},
        train={"trajectories": 1, "batch_size": 2, "trd_pool": 4},
        eval={"n_images": 2, "batch_size": 2},
    )
    plan = plan_run(recipe)
    assert plan.facts["sample_shape"] == [4, 8, 8]
    with open_run(
        tmp_path / "run", recipe, create_runtime(device="cpu", precision="fp32", seed=0), verb="run", recipe_name="x"
    ) as opened:  # fmt: skip
        result = run(recipe, plan.inputs, opened)
    assert result.metrics["quantized_layers"] == len(find_layers(network))
    assert result.metrics["mse_to_fp_relative"] < 0.02

    packed = load_packed(tmp_path / "run")
    integer, simulated = unet_of(packed, "integer", device=CPU), unet_of(packed, "simulate", device=CPU)
    model = load_model(str(tmp_path / "model"))
    t = timesteps_of(ddim_scheduler(model.scheduler_config, 2))[1]
    guided = guided_model(model, recipe, CPU)
    condition = guided.random_condition(2, torch.Generator().manual_seed(0))
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        theirs = guided.predictor(condition)(x, t)
        ours = [guided.with_unet(one).predictor(condition)(x, t) for one in (integer, simulated)]
    assert float((ours[0] - ours[1]).norm() / theirs.norm()) < 5e-2
    assert float((ours[1] - theirs).norm() / theirs.norm()) < 0.15

    export(tmp_path / "run", tmp_path / "plain", "fp32")
    with torch.no_grad():
        plain = guided.with_unet(load_model(str(tmp_path / "plain")).unet).predictor(condition)(x, t)
    assert float((plain - theirs).norm() / theirs.norm()) < 0.05


def test_edges_of_a_transformer_are_what_is_outside_of_its_blocks() -> None:
    edges = {found.name for found in find_layers(tiny_denoiser("flux")) if found.is_edge}
    assert {"x_embedder", "context_embedder", "norm_out.linear", "proj_out"} <= edges
    assert not any(name.startswith(("transformer_blocks", "single_transformer_blocks")) for name in edges)
    of_dit = {found.name for found in find_layers(tiny_denoiser("dit")) if found.is_edge}
    assert "transformer_blocks.1.norm1.emb.timestep_embedder.linear_1" in of_dit
    assert "transformer_blocks.1.norm1.linear" not in of_dit


def test_samples_that_are_no_pictures_are_refused_before_they_are_made(tmp_path: Path) -> None:
    unet = tiny_unet(in_channels=5, out_channels=5)
    save_pipeline(tmp_path / "model", unet)
    recipe = recipe_of("w4", model=str(tmp_path / "model"), fast=True, calibration={"range_method": "max"})
    runtime = create_runtime(device="cpu", precision="fp32", seed=0)
    with open_run(tmp_path / "run", recipe, runtime, verb="run", recipe_name="x") as opened:
        run(recipe, plan_run(recipe).inputs, opened)
    with pytest.raises(InputError, match="its samples are 5x8x8 without a decoder"):
        sample(tmp_path / "run", 1, runtime)
