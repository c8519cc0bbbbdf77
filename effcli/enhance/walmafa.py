"""WalMaFa as a method of `effcli enhance`: how it is trained and how its network brightens a picture.

The network is in `network/`, the loss in `losses.py`, the training loop in `training.py`, the files in `weights.py`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from effcli.core.files import sha256
from effcli.core.run import Run
from effcli.core.runtime import Runtime
from effcli.enhance.data.pairs import PairSet
from effcli.enhance.network.strips import Memory, forward_in_strips
from effcli.enhance.network.walmafa_net import WalMaFa, add_border, pad_to_multiple
from effcli.enhance.recipe import WalMaFaRecipe
from effcli.enhance.training import build_network, optimize
from effcli.enhance.weights import load_weights, save_weights

WEIGHTS_FILE = "model/walmafa.safetensors"

_MARGIN = 8
"""Pixels by which a picture is extended on every side: without them the outermost two or three pixels of a result are
discoloured, because the network sees zeros beyond the border (docs/methods/walmafa.md, Deviations without a switch)."""


class Brightener:
    """A network that brightens single pictures of any size, in strips where memory is short.

    Args:
        network: fused for inference here.
        runtime: device and precision.
        max_memory_mb: memory for one picture in MB; None takes half of what is free.
    """

    def __init__(self, network: WalMaFa, runtime: Runtime, max_memory_mb: int | None = None) -> None:
        self.runtime = runtime
        self.network = network.to(runtime.device).fuse()
        self.max_memory_mb = max_memory_mb

    def __call__(self, x: Tensor) -> Tensor:
        """Brighten ``[1, 3, H, W]`` in 0..1; the same shape, float32 on the CPU."""
        margin = 0 if self.network.config.token_order == "reshape" else _MARGIN  # the released code has none
        height, width = x.shape[-2:]
        padded, _ = pad_to_multiple(add_border(x, margin))
        memory = Memory.plan(self.network.config, padded.shape[-2:], self.max_memory_mb, self.runtime.device)
        with self.runtime.autocast():
            if memory.whole_fits:
                out: Tensor = self.network(padded.to(self.runtime.device))
            else:
                out = forward_in_strips(self.network, padded, memory, self.runtime.device)
        return out[..., margin : margin + height, margin : margin + width].float().clamp_(0, 1).cpu()


def load(recipe: WalMaFaRecipe, runtime: Runtime) -> Brightener:
    """The brightener with the recipe's weights.

    Raises:
        InputError: they cannot be read.
    """
    return Brightener(load_weights(recipe.weights), runtime, recipe.max_memory_mb)


def plan(recipe: WalMaFaRecipe, n_pairs: int) -> dict[str, Any]:
    """What :func:`fit` would do."""
    return {
        "parameters": sum(parameter.numel() for parameter in WalMaFa(recipe.network).parameters()),
        "steps": recipe.train.steps,
        "epochs": round(recipe.train.steps * recipe.train.batch_size / n_pairs, 1),
    }


def fit(recipe: WalMaFaRecipe, pairs: PairSet, run: Run) -> tuple[Brightener, dict[str, Any]]:
    """Train a network, write its weights, and return it with numbers about it."""
    network = build_network(recipe, run.runtime)
    optimize(network, pairs, recipe, run)
    metrics: dict[str, Any] = {"parameters": sum(p.numel() for p in network.parameters())}
    if run.runtime.is_main:
        weights = run.file(WEIGHTS_FILE)
        save_weights(weights, network)
        metrics["weights_sha256"] = sha256(weights)
    return Brightener(network, run.runtime, recipe.max_memory_mb), metrics
