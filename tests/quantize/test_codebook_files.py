"""Codebooks through the whole chain: calibrated, packed, loaded, computed, saved again and exported."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from effcli.core.errors import InputError
from effcli.quantize.fake_quantization.layers import quantized_layers
from effcli.quantize.packed.model import PackedModel
from effcli.quantize.packed_unet import dequantize, load
from effcli.quantize.pipeline import pack
from effcli.quantize.training import keep_scales_positive, parameter_groups
from effcli.quantize.weights import FILE_NAME, load_packed, save_packed
from tests.quantize.quantized_tiny import calibrated, full_precision, recipe_of, vary_scales

CODEBOOK = {"weights": {"codes": "codebook"}, "packing": {"other_dtype": "fp32"}}


@pytest.fixture(scope="module")
def packed() -> PackedModel:
    """Rows of one to three bits, activations with a scale for each step."""
    recipe = recipe_of("w2a8", **CODEBOOK, allocation={"rule": "error"})
    student, _ = calibrated(recipe)
    vary_scales(student)
    for _, layer in quantized_layers(student):
        assert layer.has_codebooks != layer.is_edge
    made = pack(student, full_precision()[0], recipe)
    for name, layer in quantized_layers(student):
        assert torch.equal(made.layers[name].smoothed_weight(), layer.quantized_weight().detach()), name
    return made


@pytest.fixture
def folder(packed: PackedModel, tmp_path: Path) -> Path:
    save_packed(tmp_path, packed)
    return tmp_path


def answer(network: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        out: torch.Tensor = network(
            torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)), 47
        ).sample
    return out


def test_what_is_read_is_what_was_packed(folder: Path, packed: PackedModel, tmp_path: Path) -> None:
    again = load_packed(folder)
    assert len({int(b) for codes in packed.layers.values() for b in codes.rows.row_bits}) > 2
    for name, codes in packed.layers.items():
        assert torch.equal(codes.weight(), again.layers[name].weight()), name
    tensors = load_file(folder / FILE_NAME)
    n_bytes = sum(value.numel() * value.element_size() for value in tensors.values())
    assert again.bits_per_parameter() == pytest.approx(8 * n_bytes / again.n_parameters())
    save_packed(tmp_path / "again", again)
    assert (tmp_path / "again" / FILE_NAME).read_bytes() == (folder / FILE_NAME).read_bytes()


def test_integers_are_the_simulation_and_the_export_has_the_weights(
    folder: Path, packed: PackedModel
) -> None:
    integer, simulated = load(folder, "integer"), load(folder, "simulate")
    # layer by layer they are equal (integer/test_layer.py), up to the first value between two codes
    assert float((answer(integer) - answer(simulated)).norm() / answer(simulated).norm()) < 5e-2
    plain = dequantize(load_packed(folder)).state_dict()
    for name, codes in packed.layers.items():
        assert torch.equal(plain[f"{name}.weight"], codes.weight())
    state = integer.state_dict()
    assert any(".qt" in name for name in state)
    other = load(folder, "integer")
    other.load_state_dict({name: value.clone() for name, value in state.items()})
    assert torch.equal(answer(other), answer(integer))


def test_weights_alone_are_dequantized_by_table(tmp_path: Path) -> None:
    recipe = recipe_of("w3", **CODEBOOK)
    student, _ = calibrated(recipe)
    save_packed(tmp_path, pack(student, full_precision()[0], recipe))
    expected = answer(dequantize(load_packed(tmp_path)))
    torch.testing.assert_close(answer(load(tmp_path)), expected, rtol=1e-4, atol=1e-5)


def test_fine_tuning_moves_weights_between_levels(packed: PackedModel) -> None:
    recipe = recipe_of("w2a8", **CODEBOOK)
    student, _ = calibrated(recipe)
    optimizer = torch.optim.AdamW(parameter_groups(student, recipe.train))
    before = {name: layer.codes() for name, layer in quantized_layers(student)}
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for group in optimizer.param_groups:
        group["lr"] *= 1000
    for _ in range(3):
        optimizer.zero_grad()
        student(x, 47).sample.square().sum().backward()
        optimizer.step()
        keep_scales_positive(student)
    assert any(not torch.equal(layer.codes(), before[name]) for name, layer in quantized_layers(student))


@pytest.mark.parametrize("damage", ["missing", "short", "changed"])
def test_damaged_codebooks_are_refused(folder: Path, damage: str) -> None:
    from safetensors import safe_open

    file = folder / FILE_NAME
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith(".qt2"))
    if damage == "missing":
        del tensors[name]
    elif damage == "short":
        tensors[name] = tensors[name][:, :3].contiguous()
    else:
        tensors[name] = tensors[name] ^ 1
    save_file(tensors, file, metadata)
    found = {
        "missing": "lacks",
        "short": "qt2 has the shape",
        "changed": "the checksum of its codes is not that of its header",
    }[damage]
    with pytest.raises(InputError, match=found):
        load_packed(folder)


def test_codebooks_are_for_few_bits() -> None:
    with pytest.raises(ValidationError, match="codebook is for 1 to 4 bits per weight, not w5a8"):
        recipe_of("w5a8", **CODEBOOK)
