"""Integer layers against the same numbers in floating point."""

from dataclasses import replace

import pytest
import torch

from effcli.quantize.fake_quantization.layers import StepClock
from effcli.quantize.integer import layer as layer_module
from effcli.quantize.integer.layer import IntegerLayer, _int8_product, default_kernel
from effcli.quantize.integer.lean_unet import LeanResnetBlock
from effcli.quantize.integer.weight_only import WeightOnlyLayer
from effcli.quantize.packed.layer import LayerCodes, PackedLayer
from effcli.quantize.packed.rows import PackedRows, _unpacked_by_shifts
from effcli.quantize.packed_unet import load
from effcli.quantize.pipeline import pack
from effcli.quantize.weights import save_packed
from tests.diffusion.tiny_models import tiny_unet
from tests.quantize.quantized_tiny import calibrated, full_precision, recipe_of, vary_scales

CONVOLUTIONS = [
    {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1)},
    {"stride": (2, 2), "padding": (1, 1), "dilation": (1, 1)},
    {"stride": (1, 1), "padding": (2, 0), "dilation": (2, 1)},
    {},
]


def codes_for(geometry, *, bits=4, activation_bits=4, far_zero=False, c_in=16, codebook=False):
    generator = torch.Generator().manual_seed(3)
    shape = (12, c_in, 3, 3) if geometry else (12, c_in)
    n_codes = torch.Size(shape[1:]).numel()
    zero = torch.randint(0, 2**bits, (12,), generator=generator).float()
    act_zero = torch.tensor([5.0, 3.0])
    if far_zero:
        act_zero = torch.tensor([-20.0, 300.0])
    table = None
    if codebook:
        zero = torch.full((12,), 128.0)
        table = torch.randint(1, 256, (12, 2**bits), generator=generator, dtype=torch.uint8)
    return LayerCodes(
        kind="conv2d" if geometry else "linear",
        rows=PackedRows.of_codes(
            torch.randint(0, 2**bits, (12, n_codes), generator=generator, dtype=torch.uint8),
            torch.full((12,), bits, dtype=torch.uint8),
            shape,
            table,
        ),
        scale=torch.rand(12, generator=generator) * 0.1 + 0.01,
        zero=zero,
        in_scale=torch.rand(c_in, generator=generator) + 0.5,
        activation_bits=activation_bits,
        act_scale=torch.tensor([0.3, 0.2]),
        act_zero=act_zero,
        bias=torch.randn(12, generator=generator),
        geometry=geometry,
    )


@pytest.mark.parametrize("kernel", ["onednn", "int_mm"])
@pytest.mark.parametrize("geometry", CONVOLUTIONS, ids=["same", "strided", "dilated", "linear"])
@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"bits": 8, "activation_bits": 8},
        {"bits": 1, "activation_bits": 2},
        {"far_zero": True},
        {"far_zero": True, "bits": 8},
        {"c_in": 5},
        {"codebook": True},
        {"codebook": True, "bits": 3, "c_in": 5, "far_zero": True},
        {"codebook": True, "bits": 2, "c_in": 96, "activation_bits": 8},
    ],
    ids=["w4a4", "w8a8", "w1a2", "far", "all", "odd", "codebook", "odd codebook", "wide codebook"],
)
def test_layer_equals_its_simulation(kernel, geometry, kind):
    if kernel == "onednn" and default_kernel() != kernel:
        pytest.skip("oneDNN's product overflows on this CPU, and is not used")
    codes = codes_for(geometry, **kind)
    clock = StepClock([20, 10])
    integer, simulated = IntegerLayer(codes, clock, kernel=kernel), PackedLayer(codes, clock)
    generator = torch.Generator().manual_seed(0)
    c_in = codes.shape[1]
    x = (
        torch.randn(2, c_in, 9, 7, generator=generator)
        if geometry
        else torch.randn(2, 6, c_in, generator=generator)
    )
    for t in (20, 10):
        clock.set_to(t)
        expected = simulated(x)
        out = integer(x)
        assert out.shape == expected.shape
        error = float((out - expected).norm() / expected.norm())
        assert error < 1e-5, (t, error)


@pytest.mark.parametrize("geometry", [*CONVOLUTIONS[:2], {}], ids=["same", "strided", "linear"])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_weights_unpacked_for_each_product_give_the_bits_of_weights_kept_unpacked(
    bits, geometry, monkeypatch
):
    if default_kernel() != "onednn":
        pytest.skip("oneDNN's product overflows on this CPU, and is not used")
    codes = codes_for(geometry, bits=bits, activation_bits=8)
    clock = StepClock([20, 10])
    x = torch.randn(2, 16, 9, 7) if geometry else torch.randn(2, 6, 16)
    packed, other = IntegerLayer(codes, clock), IntegerLayer(codes_for(geometry, bits=1), clock)
    other(x)  # the memory is another layer's before and between
    out = packed(x)
    other(x)
    again = packed(x)
    assert packed._prepacked is None
    monkeypatch.setattr(layer_module, "layout_of", lambda *args: None)
    kept = IntegerLayer(codes, clock)
    assert torch.equal(out, kept(x))
    assert torch.equal(again, out)
    assert kept._prepacked is not None


@pytest.mark.parametrize("geometry", CONVOLUTIONS, ids=["same", "strided", "dilated", "linear"])
@pytest.mark.parametrize("c_in", [16, 5])
def test_weights_alone_are_dequantized_for_each_call(geometry, c_in):
    codes = replace(codes_for(geometry, bits=3, c_in=c_in), activation_bits=None)
    x = torch.randn(2, c_in, 9, 7) if geometry else torch.randn(2, 6, c_in)
    layer, other = WeightOnlyLayer(codes), WeightOnlyLayer(codes_for({}, bits=4))
    other(torch.randn(1, 16))
    assert torch.equal(layer.weight(), codes.weight())
    expected = PackedLayer(codes, StepClock([0]))(x)
    assert float((layer(x) - expected).norm() / expected.norm()) < 2e-7
    assert layer(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("bits", [1, 3, 4, 8])
def test_codes_are_the_same_on_devices_without_compiled_kernels(bits):
    rows = codes_for(CONVOLUTIONS[0], bits=bits, c_in=5).rows
    packed = rows.by_bits[bits]
    turned = _unpacked_by_shifts(packed, bits, rows.n_codes).view(len(packed), 9, -1).mT.flatten(1)
    assert torch.equal(turned, rows.codes())


@pytest.mark.parametrize("vnni", [True, False])
@pytest.mark.parametrize("k", [40, 3000])
def test_products_of_the_largest_values_do_not_overflow(k, vnni, monkeypatch):
    if vnni and torch.cpu._is_avx2_supported() and not torch.cpu._is_vnni_supported():
        pytest.skip("this CPU lacks VNNI")
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: vnni)
    rows = torch.full((5, k), -128, dtype=torch.int8)
    weight = torch.full((3, k), -128, dtype=torch.int8)
    weight[1], rows[2, ::2] = 127, 127
    assert torch.equal(_int8_product(rows, weight), rows.int() @ weight.int().T)


def test_bfloat16_between_layers():
    codes = codes_for(CONVOLUTIONS[0])
    clock = StepClock([0])
    layer = IntegerLayer(codes, clock, out_dtype=torch.bfloat16)
    x = torch.randn(2, 16, 5, 5).bfloat16()
    out = layer(x)
    assert out.dtype == torch.bfloat16
    expected = PackedLayer(codes, clock)(x.float())
    assert float((out.float() - expected).norm() / expected.norm()) < 1e-2


@pytest.fixture(scope="module")
def packed_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed")
    student, _ = calibrated(recipe_of("w4a8"))
    vary_scales(student)
    model, _ = full_precision()
    save_packed(folder, pack(student, model, recipe_of("w4a8")))
    return folder


@pytest.mark.slow
def test_a_whole_unet_equals_its_simulation(packed_folder):
    integer, simulated = load(packed_folder, "integer"), load(packed_folder, "simulate")
    assert any(isinstance(module, LeanResnetBlock) for module in integer.modules())
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for t in (63, 47, 15):
            expected = simulated(x, t).sample
            # equal to 1e-7 up to the first value that falls on the other side of an edge between two codes
            assert float((integer(x, t).sample - expected).norm() / expected.norm()) < 5e-2


@pytest.mark.slow
def test_lean_blocks_give_what_the_blocks_they_replace_give(packed_folder):
    lean = load(packed_folder, "integer").down_blocks[0].resnets[0]
    plain = load(packed_folder, "simulate").down_blocks[0].resnets[0]
    assert isinstance(lean, LeanResnetBlock)
    generator = torch.Generator().manual_seed(1)
    x, temb = torch.randn(2, 16, 8, 8, generator=generator), torch.randn(2, 64, generator=generator)
    with torch.no_grad():
        expected = plain(x, temb)
        assert float((lean(x, temb) - expected).norm() / expected.norm()) < 1e-3


def test_a_loaded_unet_runs_in_a_pipeline_of_diffusers(packed_folder):
    from diffusers import DDIMPipeline, DDIMScheduler

    from tests.diffusion.tiny_models import SCHEDULER

    pipeline = DDIMPipeline(load(packed_folder), DDIMScheduler.from_config(SCHEDULER))
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(batch_size=2, num_inference_steps=4, output_type="np").images
    assert images.shape == (2, 8, 8, 1)


def test_a_loaded_unet_is_one_of_diffusers_without_full_precision_weights(packed_folder):
    unet = load(packed_folder, "integer")
    assert isinstance(unet, type(tiny_unet()))
    assert not any(parameter.ndim > 1 for parameter in unet.parameters())
