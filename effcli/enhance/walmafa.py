"""WalMaFa as a method of `effcli enhance`: how it is trained and how its network brightens a picture.

The network is in `network.py`, its loss in `loss.py`, its files in `weights.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from effcli.core.errors import InputError
from effcli.core.files import sha256
from effcli.core.run import Run
from effcli.core.runtime import Runtime
from effcli.enhance.data.pairs import PairSet
from effcli.enhance.losses import training_loss
from effcli.enhance.network.strips import Memory, forward_in_strips
from effcli.enhance.network.walmafa_net import WalMaFa, add_border, pad_to_multiple
from effcli.enhance.recipe import WalMaFaRecipe
from effcli.enhance.weights import load_weights, save_weights
from effcli.nn.ema import Ema
from effcli.nn.schedules import cosine, set_rate

WEIGHTS_FILE = "model/walmafa.safetensors"

_MARGIN = 8
"""Pixels that a picture is continued by on every side: the outermost two or three of a result are discoloured, because
the network sees zeros beyond the border."""


class Brightener:
    """A network that brightens single pictures of any size, in strips where the memory asks for them.

    Args:
        network: fused for inference here.
        runtime: device and precision.
        max_memory_mb: bound on the memory for one picture; None takes half of what is free.
    """

    def __init__(self, network: WalMaFa, runtime: Runtime, max_memory_mb: int | None = None) -> None:
        self.runtime = runtime
        self.network = network.to(runtime.device).fuse()
        self.max_memory_mb = max_memory_mb

    def __call__(self, x: Tensor) -> Tensor:
        """Brighten ``[1, 3, H, W]`` in 0..1; the same shape, float32 on the CPU."""
        margin = 0 if self.network.config.token_order == "reshape" else _MARGIN  # as released
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


def build_network(recipe: WalMaFaRecipe, runtime: Runtime) -> WalMaFa:
    """The network to train, on the runtime's device: new from the recipe's seed, or from ``train.init``.

    Raises:
        InputError: ``train.init`` cannot be read, or is of another network than the recipe's.
    """
    torch.manual_seed(recipe.seed)
    network = WalMaFa(recipe.network)
    if recipe.train.init is not None:
        start = load_weights(recipe.train.init)
        if start.config.model_copy(update={"mamba_band": recipe.network.mamba_band}) != recipe.network:
            raise InputError(
                f"these weights are of another network: {start.config}",
                place=f"train.init={recipe.train.init}",
            )
        network.load_state_dict(start.state_dict())
    return network.to(runtime.device)


def optimize(network: WalMaFa, pairs: PairSet, recipe: WalMaFaRecipe, run: Run) -> None:
    """Train ``network`` in place; it ends with the averaged weights (``train.ema_decay``).

    Adam with a cosine schedule and the loss of the released `train.py:195-201`. A pure function of the recipe:
    the batch of a step depends on (seed, step) alone, and with several ranks each takes its share of it.
    """
    settings, runtime = recipe.train, run.runtime
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.learning_rate, eps=settings.adam_eps)
    ema = Ema(network, settings.ema_decay)
    parallel: nn.Module = runtime.wrap(network)
    network.train()
    for step in run.steps("train", settings.steps, {"network": network, "optimizer": optimizer, "ema": ema}):
        low, high = pairs.batch(
            step,
            batch_size=settings.batch_size,
            patch=recipe.data.patch,
            gamma_jitter=recipe.data.gamma_jitter,
            seed=recipe.seed,
            rank=runtime.rank,
            world=runtime.world,
        )
        low, high = low.to(runtime.device), high.to(runtime.device)
        rate = cosine(step, settings.steps, settings.learning_rate, settings.min_learning_rate)
        set_rate(optimizer, rate)
        with runtime.autocast():
            prediction = parallel(low)
        loss = training_loss(
            prediction.float(),
            high,
            tv_weight=settings.tv_weight,
            ssim=settings.ssim,
            gt_mean_weight=settings.gt_mean_weight,
        )
        run.log("train", step, every=20, loss=loss.detach(), learning_rate=rate)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if settings.grad_clip is not None:
            nn.utils.clip_grad_norm_(network.parameters(), settings.grad_clip)
        optimizer.step()
        ema.update(network)
    ema.copy_to(network)
    network.eval()
