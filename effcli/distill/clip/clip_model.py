"""What a CLIP model is to the code that uses it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from effcli.distill.clip.views import Preprocess

Tokenizer = Callable[[list[str]], Tensor]
"""From texts to tokens, int64 ``[B, context length]``."""


@dataclass(frozen=True)
class ClipModel:
    """An image tower and a text tower that embed into one space.

    Attributes:
        network: of open_clip, float32, in eval mode; ``encode_image`` and ``encode_text`` embed.
        config: as in open_clip's model configurations.
        preprocess: from images to inputs.
        tokenize: from texts to tokens.
        source: the name it was loaded by.
    """

    network: nn.Module
    config: dict[str, Any]
    preprocess: Preprocess
    tokenize: Tokenizer
    source: str

    @property
    def dim(self) -> int:
        """Width of the embeddings."""
        return int(self.config["embed_dim"])

    def fingerprint(self) -> str:
        """A checksum of all weights, the configuration and the preprocessing."""
        digest = hashlib.sha256(json.dumps([self.config, self.preprocess.as_dict()], sort_keys=True).encode())
        for name, value in sorted(self.network.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()
