"""Quantized layers: which they are, against three masked quantizers, low-rank updates, the clock."""

import copy

import pytest
import torch
from torch import nn

from effcli.core.errors import InputError
from effcli.quantize.fake_quantization.layers import (
    QuantizedLayer,
    StepClock,
    find_layers,
    merged_update,
    per_channel,
    per_input,
)
from effcli.quantize.fake_quantization.quantizer import fake_quantize, find_range, top_code
from tests.diffusion.tiny_models import tiny_conditional_unet, tiny_unet


def test_first_three_and_last_are_the_edges():
    found = find_layers(tiny_unet())
    edges = [layer.name for layer in found if layer.is_edge]
    assert edges == ["conv_in", "time_embedding.linear_1", "time_embedding.linear_2", "conv_out"]


def test_the_main_path_leaves_out_what_the_released_code_does():
    names = {layer.name for layer in find_layers(tiny_unet(), "all")}
    paper = {layer.name for layer in find_layers(tiny_unet(), "main-path")}
    left_out = names - paper
    assert "down_blocks.0.downsamplers.0.conv" in left_out
    assert any(name.endswith("conv_shortcut") for name in left_out)
    assert any("attentions" in name for name in left_out)
    assert any("upsamplers" in name for name in paper)
    conditional = {layer.name for layer in find_layers(tiny_conditional_unet(), "main-path")}
    assert any("attentions" in name for name in conditional)


ATTENTION, PLAIN, CROSS = "AttnDownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"


def released_unet(name):
    """The UNets of the released configurations by diffusers' names, without memory for weights."""
    from diffusers import UNet2DConditionModel, UNet2DModel

    with torch.device("meta"):
        if name == "imagenet":
            return UNet2DConditionModel(
                sample_size=64,
                in_channels=3,
                out_channels=3,
                block_out_channels=(192, 384, 576, 960),
                down_block_types=(PLAIN, CROSS, CROSS, CROSS),
                up_block_types=(*["CrossAttnUpBlock2D"] * 3, "UpBlock2D"),
                cross_attention_dim=512,
                attention_head_dim=32,
            )
        if name == "bedroom":
            return UNet2DModel(
                sample_size=64,
                block_out_channels=(224, 448, 672, 896),
                down_block_types=(PLAIN, ATTENTION, ATTENTION, ATTENTION),
                up_block_types=(*["AttnUpBlock2D"] * 3, "UpBlock2D"),
                attention_head_dim=32,
            )
        return UNet2DModel(
            sample_size=32,
            in_channels=4,
            out_channels=4,
            block_out_channels=(192, 384, 384, 768, 768),
            down_block_types=(ATTENTION,) * 5,
            up_block_types=("AttnUpBlock2D",) * 5,
            downsample_type="resnet",
            upsample_type="resnet",
        )


@pytest.mark.parametrize(
    ("name", "n_layers", "low", "edge", "total"),
    [
        ("imagenet", 265, 385_941_504, 747_648, 400_920_579),
        ("bedroom", 73, 224_336_896, 1_015_616, 274_056_163),
        ("church", 109, None, 751_104, None),  # diffusers' blocks have other widths inside
    ],
)
def test_layers_and_sizes_of_the_released_models(name, n_layers, low, edge, total):
    unet = released_unet(name)
    found = find_layers(unet, "main-path")
    assert len(found) == n_layers
    assert sum(layer.layer.weight.numel() for layer in found if layer.is_edge) == edge
    if total is not None:
        assert sum(layer.layer.weight.numel() for layer in found if not layer.is_edge) == low
        assert sum(parameter.numel() for parameter in unet.parameters()) == total


def test_a_model_without_such_layers_is_refused():
    with pytest.raises(InputError, match="no convolution or linear layer"):
        find_layers(nn.Sequential(nn.ReLU()))


def test_convolution_updates_merge_tap_by_tap():
    a, b = torch.randn(4, 3, 3, 2), torch.randn(5, 4, 3, 2)
    expected = torch.empty(5, 3, 3, 2)
    for u in range(3):
        for v in range(2):
            expected[:, :, u, v] = b[:, :, u, v] @ a[:, :, u, v]
    torch.testing.assert_close(merged_update(a, b), expected)
    torch.testing.assert_close(merged_update(a[..., 0, 0], b[..., 0, 0]), b[..., 0, 0] @ a[..., 0, 0])


def prepared(layer, *, activation_bits=4, rank=2, n_steps=3, integer_zeros=True):
    torch.manual_seed(1)
    out = QuantizedLayer(
        layer,
        StepClock([30, 20, 10][:n_steps]),
        activation_bits=activation_bits,
        n_steps=n_steps,
        rank=rank,
        integer_zeros=integer_zeros,
    )
    row_bits = torch.tensor([1, 2, 3, 2, 2, 2], dtype=torch.uint8)[: layer.weight.shape[0]]
    scale, zero = find_range(out.smoothed_weight().detach().flatten(1), top_code(row_bits))
    out.set_rows(row_bits, scale, zero)
    return out


def test_one_quantizer_with_a_width_a_row_equals_three_masked_ones():
    layer = prepared(nn.Conv2d(4, 6, 3))
    weight = layer.smoothed_weight()
    total = torch.zeros_like(weight)
    for bits in (1, 2, 3):
        mask = (layer.row_bits == bits).float()[:, None, None, None]
        shape = (-1, 1, 1, 1)
        rows = fake_quantize(weight, layer.scale.view(shape), layer.zero.view(shape), top_code(bits))
        total = total + rows * mask
    assert torch.equal(layer.quantized_weight(), total)


@pytest.mark.parametrize("module", [nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.Linear(4, 6)])
def test_smoothing_changes_nothing_in_full_precision(module):
    x = torch.randn(2, 4, 6, 6) if isinstance(module, nn.Conv2d) else torch.randn(2, 5, 4)
    delta = torch.rand(4) + 0.2
    smoothed = copy.deepcopy(module)
    with torch.no_grad():
        smoothed.weight.div_(per_input(delta, smoothed.weight))
    torch.testing.assert_close(smoothed(x * per_channel(delta, x, module)), module(x), rtol=1e-5, atol=1e-5)


def test_at_first_the_low_rank_update_changes_nothing():
    module = nn.Conv2d(4, 6, 3)
    with_update, without = prepared(module), prepared(module, rank=0)
    x = torch.randn(1, 4, 5, 5)
    assert torch.equal(with_update(x), without(x))
    assert bool((with_update.update_a != 0).any())


def test_everything_that_is_trained_gets_a_gradient():
    layer = prepared(nn.Conv2d(4, 6, 3), integer_zeros=False)
    nn.init.normal_(layer.update_b, std=0.1)
    with torch.no_grad():
        layer.act_scale.fill_(0.1)
        layer.act_zero.fill_(4.0)
    layer.clock.set_to(20)
    layer(2 * torch.randn(2, 4, 5, 5)).square().sum().backward()
    for name in ("update_a", "update_b", "scale", "zero"):
        assert float(getattr(layer, name).grad.abs().sum()) > 0, name
    for name in ("act_scale", "act_zero"):
        grad = getattr(layer, name).grad
        assert grad[1] != 0, name
        assert grad[0] == grad[2] == 0, name


def test_the_clock_reads_the_timestep_and_goes_to_the_nearest():
    unet = tiny_unet()
    clock = StepClock([48, 32, 16, 0])
    clock.attach(unet)
    x = torch.zeros(1, 1, 8, 8)
    with torch.no_grad():
        for t, index in ((48, 0), (0, 3), (32, 1), (17, 2), (63, 0), (torch.tensor([16]), 2)):
            unet(x, t)
            assert clock.index == index
        unet(x, timestep=0)
        assert clock.index == 3
        with pytest.raises(InputError, match="one timestep per call"):
            unet(torch.zeros(2, 1, 8, 8), torch.tensor([1, 2]))
        with clock.held():
            unet(torch.zeros(2, 1, 8, 8), torch.tensor([1, 2]))
        assert clock.index == 3


def test_other_timesteps_are_warned_of_once(warnings_logged):
    clock = StepClock([48, 16])
    for t in (48, 16, 40, 20):
        clock.set_to(t)
    assert len(warnings_logged) == 1
    assert "timestep 40 is not one of the 2" in warnings_logged[0]


def test_a_copy_of_a_unet_has_a_clock_of_its_own():
    unet = tiny_unet()
    clock = StepClock([40, 20])
    clock.attach(unet)
    unet.conv_in = QuantizedLayer(unet.conv_in, clock, activation_bits=8, n_steps=2, rank=0)  # type: ignore[arg-type]
    other = copy.deepcopy(unet)
    with torch.no_grad():
        other(torch.zeros(1, 1, 8, 8), 20)
    assert other.conv_in.clock.index == 1
    assert clock.index == 0
