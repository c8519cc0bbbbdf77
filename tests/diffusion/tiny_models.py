"""Very small UNets with random weights, and diffusers folders of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 64,
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
    "set_alpha_to_one": True,
    "clip_sample": True,
}


def tiny_unet(**changes: Any) -> nn.Module:
    """Two levels of 16 and 32 channels with attention in the second, 8x8 grey images."""
    from diffusers import UNet2DModel

    settings = {
        "sample_size": 8,
        "in_channels": 1,
        "out_channels": 1,
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "norm_num_groups": 8,
        "attention_head_dim": 16,
    }
    torch.manual_seed(0)
    unet: nn.Module = UNet2DModel(**(settings | changes)).eval()
    return unet


def tiny_conditional_unet() -> nn.Module:
    """The same with cross-attention to 4 tokens of 8 numbers."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    unet: nn.Module = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
        cross_attention_dim=8,
        attention_head_dim=2,
    ).eval()
    return unet


def save_pipeline(folder: Path, unet: nn.Module, scheduler: dict[str, Any] | None = None) -> Path:
    """A pipeline folder as diffusers writes it."""
    unet.save_pretrained(folder / "unet")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler or SCHEDULER))
    index = {"_class_name": "DDIMPipeline", "unet": ["diffusers", type(unet).__name__]}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder
