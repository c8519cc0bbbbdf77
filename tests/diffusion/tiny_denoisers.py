"""Very small networks with random weights of the classes that denoise, and a file of the inputs each needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from effcli.diffusion.denoisers.needs import needs_of

N_TOKENS, N_ROWS = 3, 2


def _sdxl() -> nn.Module:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2),
        norm_num_groups=4,
        cross_attention_dim=24,
        attention_head_dim=(1, 2),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=6 * 4 + 16,
    )


def _dit() -> nn.Module:
    from diffusers import DiTTransformer2DModel

    return DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, out_channels=8, num_layers=2, sample_size=8,
        num_embeds_ada_norm=5,
    )  # fmt: skip


def _pixart(sample_size: int = 8) -> nn.Module:
    from diffusers import PixArtTransformer2DModel

    return PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=6, num_layers=2, cross_attention_dim=12, sample_size=sample_size,
        caption_channels=8, use_additional_conditions=True,
    )  # fmt: skip


def _sd3() -> nn.Module:
    from diffusers import SD3Transformer2DModel

    return SD3Transformer2DModel(
        sample_size=8, in_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2, out_channels=4,
        joint_attention_dim=24, caption_projection_dim=16, pooled_projection_dim=12, pos_embed_max_size=8,
    )  # fmt: skip


def _flux() -> nn.Module:
    from diffusers import FluxTransformer2DModel

    network = FluxTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=2, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=24, pooled_projection_dim=8, guidance_embeds=True, axes_dims_rope=(2, 2, 4),
    )  # fmt: skip
    network.register_to_config(sample_size=8)  # 128 where the configuration has none
    return network


def _aura_flow() -> nn.Module:
    from diffusers import AuraFlowTransformer2DModel

    return AuraFlowTransformer2DModel(
        sample_size=8, in_channels=4, num_mmdit_layers=1, num_single_dit_layers=1, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=8, caption_projection_dim=16, pos_embed_max_size=16,
    )  # fmt: skip


def _sana() -> nn.Module:
    from diffusers import SanaTransformer2DModel

    return SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=1, attention_head_dim=8, num_layers=2,
        num_cross_attention_heads=1, cross_attention_head_dim=8, cross_attention_dim=8, caption_channels=8,
        sample_size=8, patch_size=1,
    )  # fmt: skip


def _lumina() -> nn.Module:
    from diffusers import Lumina2Transformer2DModel

    return Lumina2Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, hidden_size=16, num_layers=2, num_refiner_layers=1,
        num_attention_heads=2, num_kv_heads=1, multiple_of=4, axes_dim_rope=(4, 2, 2), axes_lens=(16, 16, 16),
        cap_feat_dim=8,
    )  # fmt: skip


MAKERS = {
    "sdxl": _sdxl, "dit": _dit, "pixart": _pixart, "sd3": _sd3, "flux": _flux, "aura-flow": _aura_flow,
    "sana": _sana, "lumina": _lumina,
}  # fmt: skip


def tiny_denoiser(name: str) -> nn.Module:
    """One of MAKERS, 8x8 latents of 4 channels."""
    torch.manual_seed(0)
    network = MAKERS[name]().eval().requires_grad_(False)
    for parameter in network.parameters():  # those that begin at zero would hide half of the network
        if not parameter.any():
            parameter.normal_(std=0.02)
    return network


def save_inputs(file: Path, network: nn.Module, **changes: Any) -> Path | None:
    """A file with two rows of random embeddings for all that prompts or only a file can give; None: for nothing."""
    generator = torch.Generator().manual_seed(1)
    tensors: dict[str, torch.Tensor] = {}
    for need in needs_of(network, "m"):
        if need.source in ("text", "file"):
            shape = [N_TOKENS if side is None else side for side in need.shape]
            tensors[need.name] = torch.randn(N_ROWS, *shape, generator=generator)
            tensors[f"null.{need.name}"] = torch.zeros(shape)
    if "encoder_attention_mask" in tensors:
        tensors["encoder_attention_mask"] = torch.ones(N_ROWS, N_TOKENS)
        tensors["null.encoder_attention_mask"] = torch.ones(N_TOKENS)
    if not tensors:
        return None
    save_file({**tensors, **changes}, file)
    return file
