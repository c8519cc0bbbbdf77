"""The training loops of WalMaFa (docs/methods/walmafa.md, Optimisation and augmentation)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from effcli.core.errors import InputError
from effcli.core.run import Run
from effcli.core.runtime import Runtime
from effcli.enhance.data.exposure_batches import exposure_batch, level_batch
from effcli.enhance.data.pairs import PairSet
from effcli.enhance.losses import training_loss
from effcli.enhance.network.level import LevelPredictor
from effcli.enhance.network.walmafa_net import WalMaFa
from effcli.enhance.recipe import WalMaFaRecipe
from effcli.enhance.weights import load_weights
from effcli.nn.ema import Ema
from effcli.nn.schedules import cosine, set_rate


def build_network(recipe: WalMaFaRecipe, runtime: Runtime) -> WalMaFa:
    """The network to train, on the runtime's device: new from the recipe's seed, or from ``train.init``.

    Raises:
        InputError: ``train.init`` cannot be read, or is for another network than the recipe's.
    """
    torch.manual_seed(recipe.seed)
    network = WalMaFa(recipe.network)
    if recipe.train.init is not None:
        start = load_weights(recipe.train.init)
        may_differ = {"mamba_band": recipe.network.mamba_band, "wavelet": recipe.network.wavelet}
        if start.config.model_copy(update=may_differ) != recipe.network:
            raise InputError(
                f"these weights are for another network: {start.config}",
                place=f"train.init={recipe.train.init}",
            )
        network.load_state_dict(start.state_dict())
    return network.to(runtime.device)


def optimize(network: WalMaFa, pairs: PairSet, recipe: WalMaFaRecipe, run: Run) -> None:
    """Train ``network`` in place; it ends with the averaged weights (``train.ema_decay``).

    Adam with a cosine schedule on the loss of docs/methods/walmafa.md, Training loss. A pure function of the recipe:
    the batch of a step depends on (seed, step) alone, and with several ranks each takes its share of it.
    """
    settings, runtime = recipe.train, run.runtime
    loss_of = _exposure_loss if network.level is not None else _picture_loss
    if network.level is not None:
        network.level.requires_grad_(False)  # has a loop of its own
    learned = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(learned, lr=settings.learning_rate, eps=settings.adam_eps)
    ema = Ema(network, settings.ema_decay)
    parallel: nn.Module = runtime.wrap(network)
    network.train()
    for step in run.steps("train", settings.steps, {"network": network, "optimizer": optimizer, "ema": ema}):
        rate = cosine(step, settings.steps, settings.learning_rate, settings.min_learning_rate)
        set_rate(optimizer, rate)
        loss = loss_of(parallel, pairs, recipe, runtime, step)
        run.log("train", step, every=20, loss=loss.detach(), learning_rate=rate)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if settings.grad_clip is not None:
            nn.utils.clip_grad_norm_(learned, settings.grad_clip)
        optimizer.step()
        ema.update(network)
    ema.copy_to(network)
    network.eval()


def learn_levels(predictor: LevelPredictor, pairs: PairSet, recipe: WalMaFaRecipe, run: Run) -> None:
    """Train the level predictor of a network in place; it ends with the averaged weights.

    Adam with a cosine schedule on the mean error of the predicted levels. A pure function of the recipe, as
    :func:`optimize` is.
    """
    settings, runtime = recipe.train, run.runtime
    predictor.requires_grad_(True).train()
    optimizer = torch.optim.AdamW(
        predictor.parameters(), lr=settings.level_learning_rate, weight_decay=settings.level_weight_decay
    )
    ema = Ema(predictor, settings.ema_decay)
    parallel: nn.Module = runtime.wrap(predictor)
    for step in run.steps(
        "level", settings.level_steps, {"predictor": predictor, "optimizer": optimizer, "ema": ema}
    ):
        rate = cosine(step, settings.level_steps, settings.level_learning_rate, 0)
        set_rate(optimizer, rate)
        batch = level_batch(
            pairs, recipe.data, step, settings.level_batch_size, recipe.seed, runtime.rank, runtime.world
        )
        thumbnails, wanted = (part.to(runtime.device) for part in batch)
        error = (parallel(thumbnails) - wanted).abs().mean()
        run.log("level", step, every=20, level_error=error.detach(), learning_rate=rate)
        optimizer.zero_grad(set_to_none=True)
        error.backward()
        optimizer.step()
        ema.update(predictor)
    ema.copy_to(predictor)
    predictor.eval()


def _picture_loss(
    network: nn.Module, pairs: PairSet, recipe: WalMaFaRecipe, runtime: Runtime, step: int
) -> Tensor:
    """The loss of a step of a network that says the picture."""
    low, high = pairs.batch(
        step,
        batch_size=recipe.train.batch_size,
        patch=recipe.data.patch,
        gamma_jitter=recipe.data.gamma_jitter,
        seed=recipe.seed,
        rank=runtime.rank,
        world=runtime.world,
    )
    low, high = low.to(runtime.device), high.to(runtime.device)
    with runtime.autocast():
        prediction = network(low)
    return _loss(prediction, high, recipe)


def _exposure_loss(
    network: nn.Module, pairs: PairSet, recipe: WalMaFaRecipe, runtime: Runtime, step: int
) -> Tensor:
    """The loss of a step of a network with an exposure head."""
    batch = exposure_batch(
        pairs, recipe.data, step, recipe.train.batch_size, recipe.seed, runtime.rank, runtime.world
    )
    low, high, log_gain = (part.to(runtime.device) for part in batch)
    with runtime.autocast():
        prediction = network(low, log_gain)
    return _loss(prediction, high, recipe)


def _loss(prediction: Tensor, high: Tensor, recipe: WalMaFaRecipe) -> Tensor:
    settings = recipe.train
    return training_loss(
        prediction.float(),
        high,
        tv_weight=settings.tv_weight,
        ssim=settings.ssim,
        gt_mean_weight=settings.gt_mean_weight,
    )
