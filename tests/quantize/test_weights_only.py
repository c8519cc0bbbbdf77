"""Weights alone, one layer at a time: what is packed is what the whole model would give, and fits any network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from effcli.core.errors import InputError
from effcli.core.run import open_run
from effcli.core.runtime import create_runtime
from effcli.diffusion.models import empty_unet, save_folder
from effcli.quantize.packed_unet import dequantize
from effcli.quantize.pipeline import plan_run, run
from effcli.quantize.recipe import MpqDmRecipe
from effcli.quantize.unread_models import StoredTensors, open_model
from effcli.quantize.weights import find_packed, load_packed
from effcli.quantize.weights_only import packed_bytes
from tests.diffusion.tiny_denoisers import tiny_denoiser
from tests.diffusion.tiny_models import SCHEDULER

LATENTS = {**SCHEDULER, "clip_sample": False}


def packed(folder: Path, out: Path, **changes: Any) -> tuple[Any, Any]:
    """The plan's facts, and the result."""
    recipe = MpqDmRecipe.model_validate(
        {"model": str(folder), "bits": "w4", "fast": True, "calibration": {"range_method": "max"}, **changes}
    )
    plan = plan_run(recipe)
    runtime = create_runtime(device="cpu", precision="fp32", seed=0)
    with open_run(out, recipe, runtime, verb="run", recipe_name="x") as opened:
        return plan.facts, run(recipe, plan.inputs, opened)


@pytest.mark.parametrize("name", ["sdxl", "dit"])
def test_weights_are_those_of_the_model_up_to_their_bits(name: str, tmp_path: Path) -> None:
    network = tiny_denoiser(name)
    save_folder(tmp_path / "model", network, LATENTS, dtype=torch.float16)
    facts, result = packed(tmp_path / "model", tmp_path / "run", bits="w8")
    model = load_packed(tmp_path / "run")
    state, ours = network.state_dict(), dequantize(model).state_dict()
    assert ours.keys() == state.keys()
    for key, value in state.items():
        assert float((ours[key] - value).abs().max()) <= 0.005 * float(value.abs().max()) + 1e-6, key
    assert result.metrics["weight_error_relative"] < 1e-4
    assert result.metrics["size_bytes"] == model.size_bytes
    for key in ("mean_bits_quantized", "bits_per_parameter", "parameters", "quantized_layers"):
        assert result.metrics[key] == pytest.approx(model.sizes()[key])
    n_bytes = sum(
        value.numel() * value.element_size() for value in load_file(find_packed(tmp_path / "run")).values()
    )
    assert packed_bytes(network, MpqDmRecipe(bits="w8")) == pytest.approx(n_bytes, rel=0.01)
    assert facts["quantized_layers"] == len(model.layers)


def test_mixed_bits_keep_the_mean_and_lower_the_error(tmp_path: Path) -> None:
    network = tiny_denoiser("dit")
    for parameter in network.parameters():  # rows of different sizes, of which the large ones need more bits
        if parameter.ndim == 2:
            parameter.mul_(torch.linspace(0.1, 1, len(parameter))[:, None])
    save_folder(tmp_path / "model", network, LATENTS)
    uniform = packed(tmp_path / "model", tmp_path / "a", allocation={"rule": "uniform"})[1].metrics
    mixed = packed(tmp_path / "model", tmp_path / "b", allocation={"rule": "error"})[1].metrics
    assert mixed["mean_bits_quantized"] == uniform["mean_bits_quantized"]
    assert mixed["weight_error_relative"] < uniform["weight_error_relative"]


def test_codebooks_have_the_size_of_the_plan_and_lower_the_error(tmp_path: Path) -> None:
    network = tiny_denoiser("dit")
    save_folder(tmp_path / "model", network, LATENTS)
    mse: dict[str, Any] = {"bits": "w3", "calibration": {"range_method": "mse"}}
    affine = packed(tmp_path / "model", tmp_path / "a", **mse)[1].metrics
    codebook = packed(tmp_path / "model", tmp_path / "b", **mse, weights={"codes": "codebook"})[1].metrics
    assert codebook["weight_error_relative"] < 0.8 * affine["weight_error_relative"]
    tensors = load_file(find_packed(tmp_path / "b"))
    n_bytes = sum(value.numel() * value.element_size() for value in tensors.values())
    recipe = MpqDmRecipe.model_validate({"bits": "w3", "weights": {"codes": "codebook"}})
    assert packed_bytes(network, recipe) == pytest.approx(n_bytes, rel=0.01)


def test_a_network_that_is_not_known_by_name(tmp_path: Path) -> None:
    from diffusers import SanaTransformer2DModel

    network = SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=1, attention_head_dim=8, num_layers=1,
        num_cross_attention_heads=1, cross_attention_head_dim=8, cross_attention_dim=8, caption_channels=8,
        sample_size=8, patch_size=1,
    )  # fmt: skip
    save_folder(tmp_path / "model", network, {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 1.7})
    facts, _ = packed(tmp_path / "model", tmp_path / "run")
    assert facts["scheduler"].startswith("FlowMatchEulerDiscreteScheduler, flow matching")
    assert load_packed(tmp_path / "run").unet_class == "SanaTransformer2DModel"


def test_shards_are_read_where_they_lie(tmp_path: Path) -> None:
    network = tiny_denoiser("dit")
    save_folder(tmp_path / "model", network, LATENTS)
    part = tmp_path / "model" / "transformer"
    network.save_pretrained(part, max_shard_size="20KB")
    (part / "diffusion_pytorch_model.safetensors").unlink()
    source = open_model(str(tmp_path / "model"))
    assert next(source.model.unet.parameters()).is_meta
    for key, value in network.state_dict().items():
        assert torch.equal(source.read(key), value)


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    save_folder(tmp_path / "model", tiny_denoiser("dit"), LATENTS)
    file = tmp_path / "model" / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    save_file({**tensors, "proj_out_2.bias": torch.full_like(tensors["proj_out_2.bias"], torch.nan)}, file)
    with pytest.raises(InputError, match=r"proj_out_2\.bias is not finite"):
        packed(tmp_path / "model", tmp_path / "a")
    save_file({**tensors, "proj_out_2.bias": torch.zeros(3)}, file)
    with pytest.raises(InputError, match=r"proj_out_2\.bias has shape \(3,\), the network needs \(32,\)"):
        packed(tmp_path / "model", tmp_path / "b")
    (tmp_path / "x").write_bytes(file.read_bytes()[:-1])
    stored = StoredTensors([tmp_path / "x"])
    with pytest.raises(InputError, match="is cut off: the file is damaged"):
        for name in stored.names:
            stored.read(name)


def test_activations_are_refused() -> None:
    with pytest.raises(ValueError, match="fast quantizes weights only: use bits w4, not w4a8"):
        MpqDmRecipe(bits="w4a8", fast=True)


# Real configurations, as their repositories have them.
SDXL: dict[str, Any] = {
    "sample_size": 128, "block_out_channels": [320, 640, 1280], "cross_attention_dim": 2048,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"], "layers_per_block": 2,
    "transformer_layers_per_block": [1, 2, 10], "attention_head_dim": [5, 10, 20], "use_linear_projection": True,
    "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip
FLUX: dict[str, Any] = {"guidance_embeds": True}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "config", "billions", "gigabytes"),
    [
        ("UNet2DConditionModel", SDXL, 2.5675, 1.29),
        ("FluxTransformer2DModel", FLUX, 11.9014, 6.0),
    ],
)
def test_sizes_of_real_models_are_known_without_their_weights(
    name: str, config: dict[str, Any], billions: float, gigabytes: float
) -> None:
    network = empty_unet(name, json.loads(json.dumps(config)))
    assert sum(p.numel() for p in network.parameters()) / 1e9 == pytest.approx(billions, rel=1e-3)
    assert packed_bytes(network, MpqDmRecipe(bits="w4")) / 1e9 == pytest.approx(gigabytes, rel=0.03)
