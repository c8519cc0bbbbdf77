"""What stands between the integer layers of a UNet, in fewer passes: GroupNorm + SiLU + quantize in one.

The numbers are those of the blocks that are replaced; nothing else of the UNet changes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from effcli.quantize.loaded.layer import LoadedLayer


class LeanResnetBlock(nn.Module):
    """diffusers' `ResnetBlock2D` with integer convolutions, whose normalised activations never exist as floats.

    Args:
        block: see :func:`is_lean`.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        for name in ("norm1", "conv1", "time_emb_proj", "norm2", "conv2", "conv_shortcut"):
            setattr(self, name, getattr(block, name))
        self.skip_time_act = bool(block.skip_time_act)
        self.output_scale_factor = float(block.output_scale_factor)  # type: ignore[arg-type]

    norm1: nn.GroupNorm
    norm2: nn.GroupNorm
    conv1: nn.Module
    conv2: nn.Module
    time_emb_proj: nn.Module | None
    conv_shortcut: nn.Module | None

    def forward(self, input_tensor: Tensor, temb: Tensor | None, *args: object, **kwargs: object) -> Tensor:
        """``[B, C, H, W]`` and the time embedding ``[B, D]`` to ``[B, C', H, W]``."""
        nothing = input_tensor.new_zeros(input_tensor.shape[:2], dtype=torch.float32)
        hidden: Tensor = normalised_product(input_tensor, nothing, self.norm1, self.conv1)
        shift = hidden.new_zeros(hidden.shape[:2], dtype=torch.float32)
        if self.time_emb_proj is not None and temb is not None:
            shift = self.time_emb_proj(temb if self.skip_time_act else nn.functional.silu(temb)).float()
        hidden = normalised_product(hidden, shift, self.norm2, self.conv2)
        skip = input_tensor if self.conv_shortcut is None else self.conv_shortcut(input_tensor)
        hidden += skip
        return hidden if self.output_scale_factor == 1 else hidden / self.output_scale_factor


@torch.compiler.disable  # type: ignore[untyped-decorator]
def normalised_product(x: Tensor, shift: Tensor, norm: nn.GroupNorm, layer: nn.Module) -> Tensor:
    """layer(SiLU(norm(x + shift))); in separate passes where a LoRA is around the layer, or it is not on a CPU."""
    engine = layer.fused_engine(x) if isinstance(layer, LoadedLayer) else None
    if engine is None or not isinstance(layer, LoadedLayer):
        shifted = (x + shift[:, :, None, None]).to(norm.weight.dtype)
        out: Tensor = layer(nn.functional.silu(norm(shifted)))
        return out
    from effcli.quantize.integer.kernels import group_norm_quantize

    multiplier, _, z, _ = engine.step()
    x = x.float() if x.dtype == torch.float16 else x
    codes = group_norm_quantize(x, shift, norm, True, multiplier, z, engine.top)
    return engine.multiply(codes).to(layer.out_dtype)


def is_lean(block: nn.Module) -> bool:
    """Whether a block can be a :class:`LeanResnetBlock`."""
    if type(block).__name__ != "ResnetBlock2D":
        return False
    convolutions = (block.conv1, block.conv2)
    norms = (block.norm1, block.norm2)
    return (
        all(
            isinstance(conv, LoadedLayer) and conv.integer and conv.codes.shape[1] % 16 == 0
            for conv in convolutions
        )
        and all(isinstance(norm, nn.GroupNorm) and norm.affine for norm in norms)
        and isinstance(block.nonlinearity, nn.SiLU)
        and block.upsample is None
        and block.downsample is None
        and (block.time_emb_proj is None or block.time_embedding_norm == "default")
    )


def make_lean(unet: nn.Module) -> None:
    """Replace every residual block of ``unet`` that allows it; for the CPU."""
    for parent in list(unet.modules()):
        for name, child in list(parent.named_children()):
            if is_lean(child):
                setattr(parent, name, LeanResnetBlock(child))
