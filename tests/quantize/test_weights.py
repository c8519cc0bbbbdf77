"""The packed file: exact round trip, the size that docs/methods/mpq-dm.md says, and every way it can be wrong."""

import json
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from effcli.core.errors import InputError
from effcli.quantize.fake_quantization.layers import quantized_layers
from effcli.quantize.integer.bit_packing import row_bytes
from effcli.quantize.packed.model import tensors_of
from effcli.quantize.packed_unet import dequantize, load
from effcli.quantize.pipeline import pack
from effcli.quantize.weights import FILE_NAME, load_packed, save_packed
from tests.quantize.quantized_tiny import calibrated, full_precision, recipe_of, vary_scales


@pytest.fixture(scope="module")
def student():
    trained, _ = calibrated(recipe_of("w2a4"))
    vary_scales(trained)
    return trained


@pytest.fixture
def folder(tmp_path, student):
    model, _ = full_precision()
    save_packed(tmp_path, pack(student, model, recipe_of("w2a4", packing={"other_dtype": "fp32"})))
    return tmp_path


@pytest.mark.slow
def test_what_is_loaded_is_what_was_trained(folder, student):
    packed = load_packed(folder)
    for name, layer in quantized_layers(student):
        weight = packed.layers[name].smoothed_weight()
        assert torch.equal(weight, layer.quantized_weight()), name
    loaded = load(folder, "simulate")
    x = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        for t in (63, 31, 0):
            torch.testing.assert_close(loaded(x, t).sample, student(x, t).sample, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_bytes_are_those_of_the_formula(folder):
    packed = load_packed(folder)
    tensors = load_file(folder / FILE_NAME)
    for name, codes in packed.layers.items():
        for bits in codes.row_bits.unique().tolist():
            n_rows = int((codes.row_bits == bits).sum())
            assert tensors[f"{name}.qw{bits}"].numel() == n_rows * row_bytes(codes.codes.shape[1], bits)
    assert sum(n * row_bytes(1728, b) for n, b in ((19, 3), (154, 2), (19, 1))) == 82_944


def test_config_is_an_ordinary_one(folder):
    config = json.loads((folder / "config.json").read_text())
    assert config["_class_name"] == "UNet2DModel"
    assert config["quantization_config"] == {"quant_method": "effcli_mpq", "version": 1}


@pytest.mark.slow
def test_weights_alone(tmp_path):
    trained, _ = calibrated(recipe_of("w4"))
    model, _ = full_precision()
    save_packed(tmp_path, pack(trained, model, recipe_of("w4")))
    assert not any("act_scale" in name for name in load_file(tmp_path / FILE_NAME))
    packed = load_packed(tmp_path)
    x = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(dequantize(packed)(x, 3).sample, load(tmp_path)(x, 3).sample)
    with pytest.raises(InputError, match="its activations are not quantized"):
        load(tmp_path, "integer")


def rewrite(folder, change_tensors=lambda tensors: None, change_metadata=lambda metadata: None):
    file = folder / FILE_NAME
    data = file.read_bytes()
    (n,) = struct.unpack_from("<Q", data)
    metadata = json.loads(data[8 : 8 + n])["__metadata__"]
    tensors = load_file(file)
    change_tensors(tensors)
    change_metadata(metadata)
    save_file(tensors, file, metadata)


NAME = "down_blocks.0.resnets.0.conv1"


def flip_a_bit(tensors):
    tensors[f"{NAME}.qw2"][0, 0] ^= 1


def another_width(tensors):
    tensors[f"{NAME}.row_bits"][0] += 1


def cut_a_row(tensors):
    tensors[f"{NAME}.qw2"] = tensors[f"{NAME}.qw2"][:, :-1].contiguous()


def not_finite(tensors):
    tensors[f"{NAME}.scale"][0] = torch.nan


def newer(metadata):
    metadata["effcli.mpq"] = json.dumps({**json.loads(metadata["effcli.mpq"]), "version": 3})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (flip_a_bit, "checksum of its codes is not that"),
        (another_width, "its header says"),
        (cut_a_row, "qw2 has the shape"),
        (not_finite, "scale is not finite: 1 of its 16 numbers"),
        (lambda tensors: tensors.pop(f"{NAME}.zero"), f"lacks '{NAME}.zero'"),
    ],
)
def test_a_file_that_was_changed_is_refused(folder, change, message):
    rewrite(folder, change_tensors=change)
    with pytest.raises(InputError, match=message):
        load_packed(folder)


def test_other_files_are_refused(folder, tmp_path):
    rewrite(folder, change_metadata=newer)
    with pytest.raises(InputError, match="is of version 3"):
        load_packed(folder)
    rewrite(folder, change_metadata=lambda metadata: metadata.clear())
    with pytest.raises(InputError, match="is not a packed model"):
        load_packed(folder)
    file = folder / FILE_NAME
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(InputError, match="is damaged"):
        load_packed(folder)
    with pytest.raises(InputError, match="no such file or folder"):
        load_packed(tmp_path / "nowhere")


def test_a_config_of_another_unet_is_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    config["block_out_channels"] = [16, 48]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"does not fit its config\.json"):
        load(folder)


def test_mean_bits_both_ways(folder):
    packed = load_packed(folder)
    total = sum(8 * value.numel() * value.element_size() for value in tensors_of(packed).values())
    assert packed.bits_per_parameter() == pytest.approx(total / packed.n_parameters())
    assert 2 < packed.mean_bits_quantized() < packed.bits_per_parameter()
    model, _ = full_precision()
    assert packed.n_parameters() == sum(p.numel() for p in model.unet.parameters())
