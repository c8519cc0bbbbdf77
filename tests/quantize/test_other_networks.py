"""Networks that are not called here: their weights are quantized, and what is loaded computes as any of diffusers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from effcli.core.errors import InputError
from effcli.core.run import open_run
from effcli.core.runtime import create_runtime
from effcli.diffusion.models import save_folder
from effcli.quantize.fake_quantization.layers import find_layers
from effcli.quantize.packed_unet import load
from effcli.quantize.pipeline import plan_run, run
from effcli.quantize.weights import find_packed
from tests.diffusion.tiny_models import SCHEDULER
from tests.quantize.quantized_tiny import pack_weights_into, recipe_of

HEADS = {"num_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2}
SMALL_HEADS = {"num_layers": 1, "attention_head_dim": 8, "num_attention_heads": 2}


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def sizes() -> dict[str, Tensor]:
    return {
        "original_size": torch.ones(1, 2),
        "target_size": torch.ones(1, 2),
        "crop_coords": torch.zeros(1, 2),
    }


CASES: dict[str, tuple[dict[str, Any], Callable[[], dict[str, Any]]]] = {
    "QwenImageTransformer2DModel": (
        {"in_channels": 16, "out_channels": 4, "joint_attention_dim": 8, "axes_dims_rope": (4, 4, 8), **HEADS},
        lambda: {
            "hidden_states": noise(1, 16, 16), "encoder_hidden_states": noise(1, 3, 8), "timestep": torch.ones(1),
            "encoder_hidden_states_mask": torch.ones(1, 3).long(), "img_shapes": [[(1, 4, 4)]],
        },
    ),
    "ChromaTransformer2DModel": (
        {
            "in_channels": 4, "num_single_layers": 1, "joint_attention_dim": 32, "axes_dims_rope": [4, 4, 8],
            "approximator_num_channels": 8, "approximator_hidden_dim": 16, "approximator_layers": 1, **HEADS,
        },
        lambda: {
            "hidden_states": noise(1, 16, 4), "encoder_hidden_states": noise(1, 3, 32), "timestep": torch.ones(1),
            "img_ids": torch.zeros(16, 3), "txt_ids": torch.zeros(3, 3),
        },
    ),
    "Flux2Transformer2DModel": (
        {
            "in_channels": 4, "num_single_layers": 1, "joint_attention_dim": 32, "axes_dims_rope": [4, 4, 4, 4],
            "timestep_guidance_channels": 16, **HEADS,
        },
        lambda: {
            "hidden_states": noise(1, 16, 4), "encoder_hidden_states": noise(1, 3, 32), "timestep": torch.ones(1),
            "img_ids": torch.zeros(16, 4), "txt_ids": torch.zeros(3, 4), "guidance": torch.ones(1),
        },
    ),
    "CogView3PlusTransformer2DModel": (
        {
            "in_channels": 4, "out_channels": 4, "text_embed_dim": 8, "time_embed_dim": 8, "condition_dim": 2,
            "pos_embed_max_size": 8, "sample_size": 8, **SMALL_HEADS,
        },
        lambda: {
            "hidden_states": noise(1, 4, 8, 8), "encoder_hidden_states": noise(1, 3, 8), "timestep": torch.ones(1),
            **sizes(),
        },
    ),
    "WanTransformer3DModel": (
        {
            "in_channels": 4, "out_channels": 4, "text_dim": 16, "freq_dim": 16, "ffn_dim": 32, "rope_max_seq_len": 32,
            "num_attention_heads": 2, "attention_head_dim": 12, "num_layers": 1,
        },
        lambda: {
            "hidden_states": noise(1, 4, 1, 8, 8), "encoder_hidden_states": noise(1, 3, 16), "timestep": torch.ones(1),
        },
    ),
    "MochiTransformer3DModel": (
        {
            "in_channels": 4, "pooled_projection_dim": 16, "text_embed_dim": 16, "time_embed_dim": 4,
            "max_sequence_length": 8, **SMALL_HEADS, "num_layers": 2,
        },
        lambda: {
            "hidden_states": noise(1, 4, 2, 8, 8), "encoder_hidden_states": noise(1, 8, 16),
            "timestep": torch.ones(1), "encoder_attention_mask": torch.ones(1, 8).bool(),
        },
    ),
    "UNet3DConditionModel": (
        {
            "sample_size": 8, "block_out_channels": (4, 8), "norm_num_groups": 4, "layers_per_block": 1,
            "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"), "cross_attention_dim": 32,
            "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"), "attention_head_dim": 4,
        },
        lambda: {
            "sample": noise(1, 4, 3, 8, 8), "encoder_hidden_states": noise(1, 3, 32), "timestep": torch.ones(1),
        },
    ),
    "PRXTransformer2DModel": (
        {
            "patch_size": 2, "in_channels": 4, "context_in_dim": 8, "hidden_size": 8, "mlp_ratio": 2.0, "num_heads": 2,
            "depth": 2, "axes_dim": [2, 2],
        },
        lambda: {
            "hidden_states": noise(1, 4, 8, 8), "encoder_hidden_states": noise(1, 3, 8), "timestep": torch.ones(1),
        },
    ),
    "Kandinsky5Transformer3DModel": (
        {
            "in_visual_dim": 4, "in_text_dim": 16, "in_text_dim2": 8, "time_dim": 16, "out_visual_dim": 4,
            "model_dim": 16, "ff_dim": 32, "num_text_blocks": 1, "num_visual_blocks": 1, "axes_dims": (1, 1, 2),
        },
        lambda: {
            "hidden_states": noise(1, 2, 4, 4, 4), "encoder_hidden_states": noise(1, 3, 16),
            "timestep": torch.ones(1), "pooled_projections": noise(1, 8),
            "visual_rope_pos": [torch.arange(2)] * 3, "text_rope_pos": torch.arange(3),
        },
    ),
    "PriorTransformer": (
        {
            "num_attention_heads": 2, "attention_head_dim": 4, "num_layers": 2, "embedding_dim": 8,
            "num_embeddings": 7, "additional_embeddings": 4,
        },
        lambda: {
            "hidden_states": noise(1, 8), "encoder_hidden_states": noise(1, 7, 8), "timestep": torch.ones(1),
            "proj_embedding": noise(1, 8),
        },
    ),
}  # fmt: skip


def first(output: Any) -> Tensor:
    """What a network predicts; a few classes return no tuple."""
    prediction: Tensor = output if isinstance(output, Tensor) else output[0]
    return prediction


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_weights_alone_of_any_denoiser(name: str, tmp_path: Path, caplog: Any) -> None:
    settings, inputs = CASES[name]
    torch.manual_seed(0)
    network: Any = getattr(diffusers, name)(**settings).eval()
    save_folder(tmp_path / "model", network, {**SCHEDULER, "clip_sample": False})
    recipe = recipe_of(
        "w8", model=str(tmp_path / "model"), fast=True, calibration={"range_method": "max"},
        packing={"other_dtype": "fp32"},
    )  # fmt: skip
    runtime = create_runtime(device="cpu", precision="fp32", seed=0)
    with open_run(tmp_path / "run", recipe, runtime, verb="run", recipe_name="x") as opened:
        run(recipe, plan_run(recipe).inputs, opened)
    with pytest.raises(InputError, match=f"is a {name}: "):
        plan_run(recipe.model_copy(update={"fast": False}))
    loaded = load(tmp_path / "run")
    with torch.no_grad(), caplog.at_level(logging.WARNING, "effcli"):
        theirs, ours = (first(one(**inputs(), return_dict=False)) for one in (network, loaded))
    assert float((ours - theirs).norm() / theirs.norm()) < 0.02
    assert "timestep" not in caplog.text  # weights alone have no ranges for each step


def half(value: Any) -> Any:
    return value.bfloat16() if isinstance(value, Tensor) and value.dtype == torch.float32 else value


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(CASES))
@pytest.mark.parametrize("by", ["load", "from_pretrained"])
def test_any_denoiser_loads_in_half_precision(name: str, by: str, tmp_path: Path) -> None:
    settings, inputs = CASES[name]
    torch.manual_seed(0)
    made: Any = getattr(diffusers, name)
    network: Any = made(**settings).eval().requires_grad_(False)
    for parameter in network.parameters():  # those that begin at zero would hide half of the network
        if not parameter.any():
            parameter.normal_(std=0.02)
    pack_weights_into(tmp_path, network, "w8")
    if by == "load":
        loaded: Any = load(tmp_path, dtype=torch.bfloat16)
    else:
        loaded = made.from_pretrained(find_packed(tmp_path).parent, torch_dtype=torch.bfloat16)
    assert loaded.dtype == torch.bfloat16
    with torch.no_grad():
        expected = first(network(**inputs(), return_dict=False))
        out = loaded(**{name: half(value) for name, value in inputs().items()})[0]
    assert out.dtype == torch.bfloat16
    assert float((out.float() - expected).norm() / expected.norm()) < 0.05


def test_parts_that_a_class_keeps_in_float32_stay_so(tmp_path: Path) -> None:
    settings, _ = CASES["WanTransformer3DModel"]
    network: Any = diffusers.WanTransformer3DModel(**settings)
    pack_weights_into(tmp_path, network)
    for loaded in (
        load(tmp_path, dtype=torch.bfloat16),
        diffusers.WanTransformer3DModel.from_pretrained(
            find_packed(tmp_path).parent, torch_dtype=torch.bfloat16
        ),
    ):
        parts: Any = loaded
        assert parts.dtype == torch.bfloat16
        assert parts.condition_embedder.time_embedder.linear_1.weight.dtype == torch.float32
        assert parts.scale_shift_table.dtype == torch.float32
        assert parts.patch_embedding.weight.dtype == parts.proj_out.weight.dtype == torch.bfloat16


def test_the_middle_of_a_unet_is_not_at_its_edge() -> None:
    settings, _ = CASES["UNet3DConditionModel"]
    found = find_layers(diffusers.UNet3DConditionModel(**settings))
    edges = {one.name for one in found if one.is_edge}
    assert {"conv_in", "time_embedding.linear_1", "time_embedding.linear_2", "conv_out"} <= edges
    assert not any(name.startswith("mid_block") for name in edges)
    assert any(one.name.startswith("mid_block") for one in found)
