"""Fine-tuning: it learns, TRD has a gradient, what is trained is what the paper trains."""

import pytest
import torch

from effcli.core.run import open_run
from effcli.core.runtime import create_runtime
from effcli.quantize.fake_quantization.layers import quantized_layers
from effcli.quantize.training import features_of, fine_tune, parameter_groups
from tests.quantize.quantized_tiny import STEPS, calibrated, full_precision, recipe_of


def tuned(tmp_path, recipe, name="run"):
    """A student after its fine-tuning, and what was logged."""
    model, guided = full_precision()
    student, _ = calibrated(recipe)
    runtime = create_runtime(device="cpu", precision="fp32", seed=recipe.seed)
    with open_run(tmp_path / name, recipe, runtime, verb="run", recipe_name="x") as run:
        fine_tune(guided, student, recipe, run)
    return model, student


def distance(model, student):
    x = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        return sum(
            float((student(x, t).sample - model.unet(x, t).sample).square().mean()) for t in (63, 47, 31, 15)
        )


def small(**train):
    return recipe_of("w2a4", train={"trajectories": 12, "batch_size": 8, "trd_weight": 1.0, **train})


@pytest.mark.slow
def test_it_comes_closer_to_the_teacher(tmp_path):
    recipe = small(lora_rate_divisor=100.0)
    model, student = tuned(tmp_path, recipe)
    start, _ = calibrated(recipe)
    assert distance(model, student) < 0.8 * distance(model, start)


@pytest.mark.slow
def test_rates_are_the_mean_scale_of_the_layer(tmp_path):
    student, _ = calibrated(small())
    groups = parameter_groups(student, small().train)
    layers = [layer for _, layer in quantized_layers(student) if layer.update_a is not None]
    assert len(groups) == len(layers) + 2
    for group, layer in zip(groups, layers, strict=False):
        assert group["lr"] == pytest.approx(float(layer.scale.detach().mean()) / 2500)
        assert group["params"] == [layer.update_a, layer.update_b]
    trained = {id(p) for group in groups for p in group["params"]}
    assert trained == {id(p) for p in student.parameters() if p.requires_grad}


def changed(a, b):
    return any(
        not torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True) if p.ndim > 1
    )


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_trd_changes_the_result_and_without_a_gradient_it_does_not(tmp_path):
    without, live, detached = (
        tuned(tmp_path, small(trajectories=1, **change), name)[1]
        for name, change in (
            ("without", {"trd": False}),
            ("live", {"trd_weight": 1e4}),
            ("detached", {"trd_weight": 1e4, "trd_detached": True}),
        )
    )
    assert changed(without, live)
    assert not changed(without, detached)


def test_features_are_what_the_last_decoder_block_gives():
    model, _ = full_precision()
    with features_of(model.unet, model.sample_shape) as caught, torch.no_grad():
        model.unet(torch.zeros(2, 1, 8, 8), 3)
    assert [tuple(one.shape) for one in caught] == [(2, 16, 8, 8)]
    with torch.no_grad():
        model.unet(torch.zeros(2, 1, 8, 8), 3)
    assert len(caught) == 1


def test_features_of_blocks_with_a_skip_beside_them_are_the_blocks():
    from diffusers import UNet2DModel

    unet = UNet2DModel(
        sample_size=8, in_channels=3, out_channels=3, block_out_channels=(32, 32), layers_per_block=1,
        down_block_types=("SkipDownBlock2D", "AttnSkipDownBlock2D"),
        up_block_types=("AttnSkipUpBlock2D", "SkipUpBlock2D"),
    )  # fmt: skip
    with features_of(unet, (3, 8, 8)) as caught, torch.no_grad():
        unet(torch.zeros(1, 3, 8, 8), 3)
    assert [tuple(one.shape) for one in caught] == [(1, 32, 8, 8)]


@pytest.mark.slow
def test_each_step_trains_its_own_activation_scale(tmp_path):
    _, student = tuned(tmp_path, small(trajectories=2))
    layer = next(layer for _, layer in quantized_layers(student) if layer.update_a is not None)
    assert len(layer.act_scale) == STEPS
    assert len(set(layer.act_scale.tolist())) == STEPS
    _, single = tuned(tmp_path, small(trajectories=2, per_step_activations=False), "single")
    assert all(len(layer.act_scale) == 1 for _, layer in quantized_layers(single))
