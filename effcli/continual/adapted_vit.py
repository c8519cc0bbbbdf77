"""A frozen Vision Transformer with a set of adapters per task, each a feature space (docs/methods/ease.md)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import ConfigDict
from torch import Tensor, nn

from effcli.core.errors import UsageError
from effcli.core.weight_file import Count


@dataclass(frozen=True)
class AdapterSpec:
    """The adapters of a network.

    Attributes:
        n: sets of them, one per task.
        hidden: width of the bottleneck.
        scale: of what they add.
    """

    n: Count
    hidden: Count
    scale: float

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class Adapter(nn.Module):
    """s W_up relu(W_down x); W_up begins at 0, so that a new one changes nothing.

    Args:
        dim: of the tokens.
        hidden: r.
        scale: s.
        dropout: share of the bottleneck that is dropped in training.
    """

    def __init__(self, dim: int, hidden: int, scale: float, dropout: float = 0.0) -> None:
        super().__init__()
        self.down = nn.Linear(dim, hidden)
        self.up = nn.Linear(hidden, dim)
        self.scale = scale
        self.dropout = dropout
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, N, dim]`` to the same shape."""
        hidden = F.dropout(F.relu(self.down(x)), self.dropout, self.training)
        out: Tensor = self.up(hidden)
        return self.scale * out


class AdaptedViT(nn.Module):
    """Features in the space of each task, beside each other.

    Args:
        network: a Vision Transformer of timm without its classifier.
        dim: D, of its features.
        hidden, scale, dropout: of the adapters.
        n: sets of adapters to begin with.

    Raises:
        UsageError: it is another network.
    """

    def __init__(
        self, network: nn.Module, dim: int, hidden: int, scale: float, dropout: float = 0.0, n: int = 0
    ) -> None:
        super().__init__()
        if not _is_plain_vit(network):
            raise UsageError(
                "EASE needs a plain Vision Transformer of timm: adapters go into its blocks",
                place="network.backbone",
                hint="such as timm:vit_base_patch16_224 or timm:vit_tiny_patch16_224",
            )
        self.network: Any = network
        self.dim = dim
        self._settings = (hidden, scale, dropout)
        self.adapters = nn.ModuleList()
        for _ in range(n):
            self.add()

    def add(self) -> None:
        """One more set of adapters, behind each block."""
        width = self.network.embed_dim
        device = next(self.network.parameters()).device
        blocks = (Adapter(width, *self._settings) for _ in self.network.blocks)
        self.adapters.append(nn.ModuleList(blocks).to(device))

    def in_space(self, x: Tensor, number: int) -> Tensor:
        """Features ``[B, D]`` with one set of adapters, of normalised images ``[B, 3, S, S]``."""
        adapters: Iterable[nn.Module] = self.adapters[number]  # type: ignore[assignment]
        vit = self.network
        x = vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(x))))
        for block, adapter in zip(vit.blocks, adapters, strict=True):
            x = x + block.drop_path1(block.ls1(block.attn(block.norm1(x))))
            x = x + block.drop_path2(block.ls2(block.mlp(block.norm2(x)))) + adapter(x)
        features: Tensor = vit.forward_head(vit.norm(x), pre_logits=True)
        return features

    def forward(self, x: Tensor, number: int | None = None) -> Tensor:
        """The features of all spaces, each of length 1, ``[B, n D]``; or those of one, as they are."""
        if number is not None:
            return self.in_space(x, number)
        spaces = [F.normalize(self.in_space(x, one), dim=1) for one in range(len(self.adapters))]
        return torch.cat(spaces, 1)


def _is_plain_vit(network: nn.Module) -> bool:
    from timm.models.vision_transformer import Block, VisionTransformer

    return type(network) is VisionTransformer and all(type(one) is Block for one in network.blocks)
