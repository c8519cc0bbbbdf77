"""What others read of an exported model computes what the dequantized network does, and the losses are true."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from effcli.core.errors import InputError, UsageError
from effcli.core.progress import NOTICE
from effcli.quantize.exporting.export import Format, export
from effcli.quantize.packed_unet import dequantize
from effcli.quantize.weights import load_packed, save_packed
from tests.diffusion.tiny_models import tiny_unet
from tests.quantize.quantized_tiny import pack_weights_into, rounded

needs_gguf = pytest.mark.skipif(find_spec("gguf") is None, reason="the package gguf is not installed")
needs_torchao = pytest.mark.skipif(
    find_spec("torchao") is None, reason="the package torchao is not installed"
)


def flux() -> nn.Module:
    """With 32 features, so that most rows are whole blocks of GGUF."""
    from diffusers import FluxTransformer2DModel

    torch.manual_seed(0)
    network = FluxTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    network.eval().requires_grad_(False)
    for parameter in network.parameters():  # rows of different sizes, of which the large ones need more bits
        if parameter.ndim == 2:
            parameter.mul_(torch.linspace(0.1, 2, len(parameter))[:, None])
    made: nn.Module = network
    return made


def inputs_of_flux() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(3)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return {
        "hidden_states": noise(2, 4, 16), "encoder_hidden_states": noise(2, 3, 32), "pooled_projections": noise(2, 32),
        "timestep": torch.tensor([0.3, 0.7]), "img_ids": torch.zeros(4, 3), "txt_ids": torch.zeros(3, 3),
        "return_dict": False,
    }  # fmt: skip


def distance(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


@needs_gguf
@pytest.mark.parametrize(
    ("bits", "rule", "codes", "type"),
    [
        ("w4", "uniform", "affine", "Q4_1"),
        ("w4", "error", "affine", "Q5_1"),
        ("w8", "uniform", "affine", "Q8_0"),
        ("w3", "uniform", "codebook", "Q8_0"),
    ],
)
def test_diffusers_reads_the_gguf_file(bits: str, rule: str, codes: str, type: str, tmp_path: Path) -> None:
    from diffusers import FluxTransformer2DModel, GGUFQuantizationConfig

    packed = pack_weights_into(
        tmp_path / "packed", flux(), bits, allocation={"rule": rule}, weights={"codes": codes}
    )
    rows = export(tmp_path / "packed", tmp_path / "out", "fp16", to="gguf")
    folder = tmp_path / "out" / "transformer"
    theirs = FluxTransformer2DModel.from_single_file(
        str(folder / "diffusion_pytorch_model.gguf"), config=str(folder), torch_dtype=torch.float32,
        quantization_config=GGUFQuantizationConfig(compute_dtype=torch.float32),
    )  # fmt: skip
    whole = dequantize(packed)
    with torch.no_grad():
        ours, read = whole(**inputs_of_flux())[0], theirs(**inputs_of_flux())[0]
    assert distance(read, ours) < 1e-2
    by_format = {(row["kind"], row["format"]): row for row in rows}
    assert by_format["linear", type]["count"] > 10
    bound = 1e-2 if type == "Q8_0" else 1e-3  # where codes do not fit, blocks are rounded anew
    assert 0 < by_format["linear", type]["max_relative_error"] < bound
    assert ("linear", "F16") in by_format  # rows of 16
    size = (folder / "diffusion_pytorch_model.gguf").stat().st_size
    assert sum(row["size_bytes"] for row in rows) == pytest.approx(size, rel=0.15)
    assert sum(row["count"] for row in rows) == len(packed.layers) + len(packed.others)


@needs_torchao
@pytest.mark.parametrize(("bits", "codes"), [("w4", "affine"), ("w8", "affine"), ("w3", "codebook")])
def test_diffusers_reads_the_torchao_folder(bits: str, codes: str, tmp_path: Path) -> None:
    from diffusers import FluxTransformer2DModel

    packed = pack_weights_into(tmp_path / "packed", flux(), bits, weights={"codes": codes})
    rows = export(tmp_path / "packed", tmp_path / "out", "fp32", to="torchao")
    theirs = FluxTransformer2DModel.from_pretrained(
        tmp_path / "out", subfolder="transformer", torch_dtype=torch.float32
    )
    whole = dequantize(packed)
    with torch.no_grad():
        ours, read = whole(**inputs_of_flux())[0], theirs(**inputs_of_flux())[0]
    anew = "int8 per 32 inputs, rounded anew"  # of codebooks, whose input channels have factors
    assert (anew in {row["format"] for row in rows}) == (codes == "codebook")
    assert distance(read, ours) < (1e-2 if codes == "codebook" else 1e-5)
    assert {row["format"] for row in rows} <= {f"int{b} per row" for b in (4, 5, 8)} | {"fp32", anew}
    assert max(row["max_relative_error"] for row in rows if row["format"] != anew) < 1e-6


@needs_torchao
def test_convolutions_and_smoothed_weights_in_torchao(tmp_path: Path) -> None:
    from diffusers import UNet2DModel

    unet = tiny_unet(block_out_channels=(32, 64))
    packed = rounded("w8a8", unet)
    for codes in packed.layers.values():
        codes.in_scale.mul_(torch.linspace(0.5, 2, len(codes.in_scale)))
    save_packed(tmp_path / "packed", packed)
    rows = export(tmp_path / "packed", tmp_path / "out", "fp32", to="torchao")
    read = UNet2DModel.from_pretrained(tmp_path / "out", subfolder="unet", torch_dtype=torch.float32)
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, theirs = dequantize(load_packed(tmp_path / "packed"))(x, 3).sample, read(x, 3).sample
    assert distance(theirs, ours) < 2e-2
    by_format = {(row["kind"], row["format"]): row for row in rows}
    anew = by_format["conv2d", "int8 per 32 inputs, rounded anew"]
    assert 1e-3 < anew["max_relative_error"] < 1e-2
    assert by_format["conv2d", "int8 per row"]["count"] == 1  # of a single input


def test_dequantized_folder_says_what_rounding_loses(tmp_path: Path) -> None:
    save_packed(tmp_path / "packed", rounded("w4a8"))
    for dtype, low, high in (("fp32", 0, 1e-12), ("fp16", 1e-5, 1e-3), ("bf16", 1e-4, 1e-2)):
        rows = export(tmp_path / "packed", tmp_path / dtype, dtype)
        assert {row["kind"] for row in rows} == {"conv2d", "linear", "not quantized"}
        assert {row["format"] for row in rows} == {dtype}
        assert low <= rows[0]["mean_relative_error"] <= rows[0]["max_relative_error"] <= high
        file = tmp_path / dtype / "unet" / "diffusion_pytorch_model.safetensors"
        assert sum(row["size_bytes"] for row in rows) == pytest.approx(file.stat().st_size, rel=0.1)


@needs_gguf
def test_weights_of_an_earlier_export_do_not_stay(tmp_path: Path, caplog: Any) -> None:
    pack_weights_into(tmp_path / "packed", flux(), "w4")
    part = tmp_path / "out" / "transformer"
    caplog.set_level(NOTICE)
    export(tmp_path / "packed", tmp_path / "out", "fp16", to="gguf")
    assert "have names of more than 63 characters" not in caplog.text
    (part / "diffusion_pytorch_model-00001-of-00002.safetensors").write_bytes(b"of an older export")
    (part / "note.txt").write_text("kept")
    formats: tuple[tuple[Format, str], ...] = (("diffusers", "safetensors"), ("gguf", "gguf"))
    for to, suffix in formats:
        export(tmp_path / "packed", tmp_path / "out", "fp16", to=to)
        weights = f"diffusion_pytorch_model.{suffix}"
        assert {file.name for file in part.iterdir()} == {"config.json", "note.txt", weights}


@needs_gguf
def test_names_that_ggml_does_not_hold_are_said(tmp_path: Path, caplog: Any, monkeypatch: Any) -> None:
    from effcli.quantize.exporting import gguf_file

    monkeypatch.setattr(gguf_file, "_LONGEST_NAME", 40)
    pack_weights_into(tmp_path / "packed", flux(), "w4")
    caplog.set_level(NOTICE)
    export(tmp_path / "packed", tmp_path / "out", "fp16", to="gguf")
    assert "have names of more than 40 characters" in caplog.text


def test_numbers_that_the_type_cannot_hold_are_named(tmp_path: Path) -> None:
    packed = rounded("w4a8")
    packed.layers["conv_in"].scale.mul_(1e6)
    save_packed(tmp_path / "packed", packed)
    with pytest.raises(InputError, match=r"conv_in.weight has numbers up to .*, which fp16 cannot hold"):
        export(tmp_path / "packed", tmp_path / "out", "fp16")
    export(tmp_path / "packed", tmp_path / "out", "bf16")


@needs_gguf
def test_what_diffusers_does_not_read_from_gguf_is_refused(tmp_path: Path) -> None:
    save_packed(tmp_path / "unet", rounded("w4a8"))
    with pytest.raises(InputError, match="diffusers cannot read GGUF files of a UNet2DModel"):
        export(tmp_path / "unet", tmp_path / "out", "fp16", to="gguf")
    pack_weights_into(tmp_path / "flux", flux())
    with pytest.raises(UsageError, match="bf16 is not possible with --to gguf"):
        export(tmp_path / "flux", tmp_path / "out", "bf16", to="gguf")
    assert not (tmp_path / "out").exists()


def test_a_missing_package_is_named_with_its_extra(tmp_path: Path, monkeypatch: Any) -> None:
    from effcli.quantize.exporting import gguf_file, torchao_folder

    save_packed(tmp_path / "packed", rounded("w4a8"))
    cases: tuple[tuple[Any, Format], ...] = ((gguf_file, "gguf"), (torchao_folder, "torchao"))
    for module, name in cases:
        monkeypatch.setattr(module, "find_spec", lambda _: None)
        with pytest.raises(UsageError, match=f"needs the package {name}") as caught:
            export(tmp_path / "packed", tmp_path / "out", "fp16", to=name)
        assert caught.value.hint == f"pip install 'effcli[{name}]'"
    assert not (tmp_path / "out").exists()


@needs_torchao
def test_weights_that_are_taken_out_of_their_layers_stay_plain(tmp_path: Path) -> None:
    from diffusers import HunyuanDiT2DModel

    torch.manual_seed(0)
    network = HunyuanDiT2DModel(
        in_channels=4, sample_size=4, num_layers=1, patch_size=2, attention_head_dim=8, num_attention_heads=2,
        hidden_size=16, activation_fn="gelu-approximate",
        cross_attention_dim=8, cross_attention_dim_t5=64, pooled_projection_dim=8, text_len=2, text_len_t5=2,
    )  # fmt: skip
    pack_weights_into(tmp_path / "packed", network.eval().requires_grad_(False))
    export(tmp_path / "packed", tmp_path / "out", "fp32", to="torchao")
    read = HunyuanDiT2DModel.from_pretrained(
        tmp_path / "out", subfolder="transformer", torch_dtype=torch.float32
    )
    packed = dequantize(load_packed(tmp_path / "packed"))
    texts = torch.randn(1, 2, 64, generator=torch.Generator().manual_seed(0))
    pools = [one.time_extra_emb.pooler for one in (read, packed)]
    with torch.no_grad():
        assert distance(*(pool(texts) for pool in pools)) < 1e-5
