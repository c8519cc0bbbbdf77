"""Calibration: order, allocation against brute force, guards."""

import copy

import pytest
import torch
from torch import nn

from effcli.core.errors import InputError
from effcli.quantize.calibration import check_weights
from effcli.quantize.fake_quantization.layers import QuantizedLayer, StepClock, apply_layer, quantized_layers
from effcli.quantize.fake_quantization.row_formats import find_format
from effcli.quantize.mpq_dm import row_errors
from tests.diffusion.tiny_models import tiny_unet
from tests.quantize.quantized_tiny import calibrated, recipe_of


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["kurtosis", "error", "uniform"])
@pytest.mark.parametrize("bits", ["w2a4", "w3a6", "w4"])
def test_mean_bits_are_exact_and_the_split_never_hurts(rule, bits):
    recipe = recipe_of(bits, allocation={"rule": rule})
    student, report = calibrated(recipe)
    for name, layer in quantized_layers(student):
        n = 8 if layer.is_edge else recipe.widths.weights
        assert float(layer.row_bits.float().mean()) == n, name
    ratios = [row["error_to_uniform"] for row in report if "error_to_uniform" in row]
    assert ratios
    assert max(ratios) <= 1 + 1e-6
    if rule == "uniform":
        assert min(ratios) == 1


def test_errors_of_rows_add_up_to_the_error_of_the_output():
    torch.manual_seed(0)
    layer = QuantizedLayer(
        nn.Conv2d(6, 10, 3, padding=1), StepClock([0]), activation_bits=4, n_steps=1, rank=0
    )
    x = torch.randn(3, 6, 5, 5)
    with torch.no_grad():
        layer.act_scale.fill_(0.3)
        layer.act_zero.fill_(7)
        rows = layer.smoothed_weight().flatten(1)
        formats = {b: find_format(rows, b, "affine", "mse") for b in (1, 2, 3)}
        errors = row_errors(layer, x, formats, quantize_input=True)
        for b, found in formats.items():
            layer.set_rows(torch.full((10,), b), found.scale, found.zero)
            output = layer(x) - apply_layer(layer.layer, x, layer.layer.weight)
            torch.testing.assert_close(errors[b], output.square().sum((0, 2, 3)))


@pytest.mark.slow
def test_plus_raises_a_tenth_and_lowers_none():
    student, _ = calibrated(recipe_of("w2a4", allocation={"rule": "kurtosis", "plus": True}))
    for name, layer in quantized_layers(student):
        if layer.update_a is not None:
            n_rows = len(layer.row_bits)
            assert int((layer.row_bits == 3).sum()) == n_rows // 10, name
            assert int(layer.row_bits.min()) == 2


@pytest.mark.slow
def test_each_layer_sees_inputs_that_the_ones_before_have_quantized():
    student, _ = calibrated(recipe_of("w2a4"))
    caught = {}
    layers = dict(quantized_layers(student))
    for name in ("conv_in", "down_blocks.0.resnets.0.conv1"):
        layers[name].register_forward_hook(lambda m, i, o, name=name: caught.update({name: (i[0], o)}))
    with torch.no_grad():
        student(torch.randn(2, 1, 8, 8), 5)
    codes = layers["conv_in"].codes()
    assert int(codes.max()) <= 255
    assert layers["down_blocks.0.resnets.0.conv1"].activation_bits == 4
    full = apply_layer(layers["conv_in"].layer, caught["conv_in"][0], layers["conv_in"].layer.weight)
    assert not torch.equal(full, caught["conv_in"][1])


@pytest.mark.slow
def test_dead_channels_give_no_nan():
    unet = tiny_unet()
    with torch.no_grad():
        conv = unet.down_blocks[0].resnets[0].conv1
        conv.weight[:, 3] = 0
        conv.weight[5] = 0
        unet.down_blocks[0].resnets[0].norm1.weight[2] = 0
        unet.down_blocks[0].resnets[0].norm1.bias[2] = 0
    student, _ = calibrated(recipe_of("w2a4"), unet)
    with torch.no_grad():
        out = student(torch.randn(2, 1, 8, 8), 5).sample
    assert bool(torch.isfinite(out).all())


def test_weights_that_are_not_finite_are_refused():
    unet = copy.deepcopy(tiny_unet())
    with torch.no_grad():
        unet.mid_block.resnets[0].conv1.weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(InputError, match=r"mid_block\.resnets\.0\.conv1\.weight holds NaN"):
        check_weights(unet, "tiny")


@pytest.mark.slow
def test_eight_bits_are_close_to_full_precision_and_four_are_not_as_close():
    unet = tiny_unet()
    x = torch.randn(4, 1, 8, 8)
    with torch.no_grad():
        expected = unet(x, 9).sample
        errors = {}
        for bits in ("w8a8", "w4a4", "w2a4"):
            student, _ = calibrated(recipe_of(bits), unet)
            errors[bits] = float((student(x, 9).sample - expected).square().mean() / expected.var())
    assert errors["w8a8"] < 0.01
    assert errors["w8a8"] < 0.1 * errors["w4a4"] < 0.1 * errors["w2a4"]
