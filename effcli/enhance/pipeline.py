"""`effcli enhance train` and `eval`: the steps, in order."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from effcli.core.errors import InputError
from effcli.core.files import sha256
from effcli.core.run import Result, Run
from effcli.core.runtime import Runtime
from effcli.data.pair_sources import Split
from effcli.data.pairs import PairSet, load_pairs
from effcli.enhance.baselines import BASELINES
from effcli.enhance.enhancer import Enhancer
from effcli.enhance.loss import scale_to_mean, walmafa_loss
from effcli.enhance.network import WalMaFa
from effcli.enhance.recipe import EnhanceRecipe, TrainSection
from effcli.enhance.weights import load_weights, save_weights
from effcli.metrics.image_quality import GAUSSIAN_WINDOW, evaluate_pair, mean_over_pairs
from effcli.nn.ema import Ema
from effcli.nn.schedules import cosine

log = logging.getLogger(__name__)

WEIGHTS_FILE = "model/walmafa.safetensors"


def train(recipe: EnhanceRecipe, run: Run) -> Result:
    """Learn weights from pairs of dark and bright pictures and measure them on the evaluation pairs."""
    pairs = read_pairs(recipe.data.train, "train")
    held_out = read_pairs(recipe.data.eval, "eval") if recipe.data.eval else None
    network = build_network(recipe, run.runtime)
    fit(network, pairs, recipe, run)
    metrics: dict[str, Any] = {
        "parameters": sum(p.numel() for p in network.parameters()),
        "train_pairs": len(pairs),
    }
    if run.runtime.is_main:
        weights = run.path / WEIGHTS_FILE
        weights.parent.mkdir(exist_ok=True)
        save_weights(weights, network)
        metrics["weights_sha256"] = sha256(weights)
    figures = {}
    if held_out is not None:
        enhancer = Enhancer(network, runtime=run.runtime)
        metrics |= evaluate(enhancer, held_out)
        figures = draw_examples(enhancer, held_out, run)
    return run.finish(metrics, figures)


def read_pairs(sources: Sequence[str], split: Split) -> PairSet:
    """The pairs of all sources; pictures without a partner are left out with a warning.

    Raises:
        InputError: a source cannot be used, or a picture to evaluate on cannot be measured.
    """
    pairs = load_pairs(sources, split=split)
    if pairs.unmatched:
        log.warning(
            "%d pictures have no partner and are left out, such as %s",
            len(pairs.unmatched),
            pairs.unmatched[0],
        )
    if split == "eval":
        check_measurable(pairs)
    return pairs


def check_measurable(pairs: PairSet) -> None:
    """Refuse pictures that SSIM cannot measure, before hours of training rather than after them.

    Raises:
        InputError: a picture is smaller than the window of SSIM.
    """
    for name, (low, _) in zip(pairs.names, pairs, strict=True):
        if min(low.shape[-2:]) < GAUSSIAN_WINDOW:
            height, width = low.shape[-2:]
            raise InputError(
                f"{width}x{height} is too small to be measured: SSIM needs {GAUSSIAN_WINDOW} pixels a side",
                place=name,
            )


def build_network(recipe: EnhanceRecipe, runtime: Runtime) -> WalMaFa:
    """The network to train, on the runtime's device: new from the recipe's seed, or from ``train.init``."""
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


def fit(network: WalMaFa, pairs: PairSet, recipe: EnhanceRecipe, run: Run) -> None:
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
        for group in optimizer.param_groups:
            group["lr"] = rate
        with runtime.autocast():
            prediction = parallel(low)
        loss = training_loss(prediction.float(), high, settings)
        run.log("train", step, every=20, loss=loss.detach(), learning_rate=rate)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if settings.grad_clip is not None:
            nn.utils.clip_grad_norm_(network.parameters(), settings.grad_clip)
        optimizer.step()
        ema.update(network)
    ema.copy_to(network)
    network.eval()


def training_loss(prediction: torch.Tensor, target: torch.Tensor, settings: TrainSection) -> torch.Tensor:
    """The loss of the released code, and with ``gt_mean_weight`` the same one blind to overall brightness beside it."""
    measure = partial(walmafa_loss, tv_weight=settings.tv_weight, ssim=settings.ssim)
    weight = settings.gt_mean_weight
    loss = measure(prediction, target)
    if weight == 0:
        return loss
    return (1 - weight) * loss + weight * measure(scale_to_mean(prediction, target), target)


def evaluate(enhancer: Enhancer, pairs: PairSet) -> dict[str, Any]:
    """Mean PSNR and SSIM over the pairs, of the network and of the baselines that any method must beat."""
    scores: dict[str, list[Mapping[str, float | None]]] = {name: [] for name in ("", *BASELINES)}
    for index in range(len(pairs)):
        low, high = (image.float() / 255 for image in pairs[index])
        scores[""].append(evaluate_pair(enhancer.enhance_tensor(low), high))
        for name, baseline in BASELINES.items():
            scores[name].append(evaluate_pair(baseline(low), high))
    means = {name: mean_over_pairs(rows) for name, rows in scores.items()}
    own = means.pop("")
    return {**own, "eval_pairs": len(pairs), "baselines": means}


def draw_examples(enhancer: Enhancer, pairs: PairSet, run: Run, n_examples: int = 4) -> dict[str, str]:
    """Save input, result and reference side by side for the report; returns caption -> file."""
    figures: dict[str, str] = {}
    if not run.runtime.is_main:
        return figures
    folder = run.path / "pictures"
    folder.mkdir(exist_ok=True)
    for index in range(0, len(pairs), max(1, len(pairs) // n_examples)):
        low, high = (image.float() / 255 for image in pairs[index])
        strip = torch.cat([low, enhancer.enhance_tensor(low), high], dim=-1)
        file = folder / f"{index:03d}.png"
        save_tensor(strip, file)
        figures[f"{pairs.names[index]}: input, result, reference"] = f"pictures/{file.name}"
    return figures


def save_tensor(picture: torch.Tensor, file: Path) -> None:
    """Write a [3, H, W] tensor in 0..1 as an 8-bit PNG."""
    from PIL import Image

    values = (picture.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0)
    Image.fromarray(values.numpy()).save(file)
