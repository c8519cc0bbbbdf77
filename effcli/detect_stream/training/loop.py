"""The loop that trains a detector."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

from effcli.core.run import Run
from effcli.core.runtime import Runtime, use_one_thread
from effcli.detect_stream.losses import ObjectTensors, depth_loss, frame_losses, total_loss
from effcli.detect_stream.network.anchors import anchors_of, assign
from effcli.detect_stream.network.inference_network import fast_network
from effcli.detect_stream.network.space_volume import (
    Cells,
    cell_centres,
    frustum_cells,
    seen_from_above,
)
from effcli.detect_stream.network.streamdsgn import CameraView, HeadOutputs, StreamDsgn
from effcli.detect_stream.recipe import StreamDsgnRecipe
from effcli.detect_stream.training.batches import batch_of_step
from effcli.detect_stream.training.clips import MOMENTS, ClipBatch, Clips
from effcli.nn.schedules import one_cycle, set_rate

_PREFETCH = 3
_MOMENTA = (0.95, 0.85)


def fit(network: StreamDsgn, clips: Clips, recipe: StreamDsgnRecipe, run: Run) -> None:
    """Train a network in place; every rank learns from its share of each batch."""
    runtime, settings = run.runtime, recipe.train
    network.to(runtime.device).train()
    if settings.depth_steps:
        _learn_depth(network, clips, recipe, run)
    if network.depth_head is not None and not _learns_depth(recipe):
        network.depth_head.requires_grad_(False)  # ranks wait for every gradient that they expect
    if recipe.train.frozen_stereo is not None:
        network.stereo_parts().requires_grad_(False)
    wrapped = runtime.wrap(_Losses(network, recipe, runtime))
    _optimise(network, wrapped, _Prefetched(clips, recipe, run, 0, settings.steps), "train", recipe, run)
    network.eval()


def _learn_depth(network: StreamDsgn, clips: Clips, recipe: StreamDsgnRecipe, run: Run) -> None:
    """Train the parts up to the bird's-eye-view map by the depth of single frames."""
    learned = {id(p) for p in network.stereo_parts().parameters()}
    learned |= {id(p) for p in network.depth_head.parameters()} if network.depth_head else set()
    for parameter in network.parameters():  # ranks wait for every gradient that they expect
        parameter.requires_grad_(id(parameter) in learned)
    settings = recipe.train
    batches = _Prefetched(clips, recipe, run, settings.steps, settings.depth_steps)
    _optimise(network, run.runtime.wrap(_DepthLoss(network, run.runtime)), batches, "depth", recipe, run)
    network.requires_grad_(True)


def _optimise(
    network: StreamDsgn,
    losses: nn.Module,
    batches: _Prefetched,
    stage: str,
    recipe: StreamDsgnRecipe,
    run: Run,
) -> None:
    """AdamW on one cycle over all batches."""
    settings = recipe.train
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, settings.learning_rate, betas=(_MOMENTA[0], 0.99), weight_decay=settings.weight_decay
    )
    state: dict[str, Any] = {"network": network, "optimizer": optimizer}
    for step in run.steps(stage, len(batches), state, beside=1):
        rate, momentum = one_cycle(step, len(batches), settings.learning_rate, _MOMENTA)
        set_rate(optimizer, rate)
        for group in optimizer.param_groups:
            group["betas"] = (momentum, 0.99)
        terms = losses(batches.get(step))
        total = total_loss(terms, recipe.loss)
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(parameters, settings.grad_clip)
        optimizer.step()
        run.log(stage, step, every=20, loss=total, **terms)
    batches.close()


def _learns_depth(recipe: StreamDsgnRecipe) -> bool:
    """Whether depth is learned: it trains the parts before the bird's-eye-view map only."""
    return recipe.loss.depth > 0 and recipe.train.frozen_stereo is None


class _Losses(nn.Module):
    """From a batch to the terms of its loss, as one module, so that ranks can share gradients."""

    def __init__(self, network: StreamDsgn, recipe: StreamDsgnRecipe, runtime: Runtime) -> None:
        super().__init__()
        self.network, self.weights, self.runtime = network, recipe.loss, runtime
        self.learns_depth = _learns_depth(recipe)
        self.kept: StreamDsgn | None = None  # makes the maps where that is not learned
        if recipe.train.frozen_stereo is not None:
            self.kept = fast_network(network, runtime.dtype)
        self.forget = recipe.augment.forget

    def forward(self, batch: ClipBatch) -> dict[str, Tensor]:
        """Means over the samples and the horizons."""
        network = self.network
        device = network.mean.device
        outputs, depth_logits = self._outputs(batch)
        horizons = network.config.horizons
        anchors = anchors_of(network.config).to(device)
        found: dict[str, list[Tensor]] = {}
        for i, objects in enumerate(batch.objects):
            following, now, *past = (_to(one, device) for one in objects[: len(MOMENTS)])
            later = (following, *(_to(one, device) for one in objects[len(MOMENTS) :]))
            for ahead, predicted, then in zip(horizons, outputs, later, strict=True):
                targets = then if self.weights.target == "next" else now
                terms = frame_losses(
                    predicted.scores[i],
                    predicted.codes[i],
                    predicted.directions[i],
                    anchors,
                    assign(anchors, targets.boxes, targets.labels),
                    (then, now, *past),
                    targets,
                    motion=self.weights.motion > 0,
                    by_overlap=self.weights.motion_by == "overlap",
                    ahead=ahead,
                )
                for name, term in terms.items():
                    found.setdefault(name, []).append(term)
        means = {name: torch.stack(values).mean() for name, values in found.items()}
        if depth_logits is not None:
            means["depth"] = _depth_term(depth_logits, batch, network, self.runtime)
        return means

    def _outputs(self, batch: ClipBatch) -> tuple[list[HeadOutputs], Tensor | None]:
        network = self.network
        device = network.mean.device
        n = len(batch.sizes)
        uses_past = network.fusion is not None
        maker = network if self.kept is None else self.kept
        left, right, view = _seen(maker, batch, 2 if uses_past else 1)
        frustum = _frustum(network, batch) if self.learns_depth else None
        with self.runtime.autocast():  # geometry above and losses below stay in float32
            with torch.set_grad_enabled(self.kept is None):
                volume = maker.volume(left, right, view)
                maps = seen_from_above(volume)
            forget = torch.rand(n, device=device) < self.forget
            before = maps[n:] if uses_past else None
            flow = None
            if before is not None and network.config.ego_motion and batch.motions is not None:
                flow = network.flow(maps[:n], before, batch.motions.to(device))
            fused = network.fused(maps[:n], before, flow, forget)
            outputs = [head(fused) for head in network.heads]
            if frustum is None or network.depth_head is None:
                return outputs, None
            return outputs, network.depth_head(frustum.sample(volume[:n]))


class _DepthLoss(nn.Module):
    """From a batch to the loss of the depth of its frames alone, as one module, so that ranks can share gradients."""

    def __init__(self, network: StreamDsgn, runtime: Runtime) -> None:
        super().__init__()
        self.network, self.runtime = network, runtime

    def forward(self, batch: ClipBatch) -> dict[str, Tensor]:
        """The mean over known pixels."""
        network = self.network
        assert network.depth_head is not None
        left, right, view = _seen(network, batch, 1)
        frustum = _frustum(network, batch)
        with self.runtime.autocast():
            logits = network.depth_head(frustum.sample(network.volume(left, right, view)))
        return {"depth": _depth_term(logits, batch, network, self.runtime)}


def _seen(network: StreamDsgn, batch: ClipBatch, n_frames: int) -> tuple[Tensor, Tensor, CameraView]:
    """Normalised pictures of the first one or two frames of all samples, and where the cells are seen."""
    device = network.mean.device
    sizes, turns = batch.sizes.to(device), batch.turns.to(device)
    points = (
        cell_centres(network.config).to(device)[None] @ torch.linalg.inv(turns).transpose(1, 2)[:, None, None]
    )
    view = network.view(batch.calibrations.to(device), sizes, points)
    left, right = (
        network.normalise(pictures[: n_frames * len(sizes)].to(device), sizes.repeat(n_frames, 1))
        for pictures in (batch.left, batch.right)
    )
    return left, right, view


def _frustum(network: StreamDsgn, batch: ClipBatch) -> Cells:
    """The pixels' places in the volume."""
    device = network.mean.device
    return frustum_cells(network.config, batch.calibrations[:, 0].to(device), batch.turns.to(device))


def _depth_term(logits: Tensor, batch: ClipBatch, network: StreamDsgn, runtime: Runtime) -> Tensor:
    """Loss of the depth, by known depths here over those of a rank on average: so ranks' mean is that of all pixels."""
    depth = batch.depth.to(network.mean.device)
    n_known = float((depth > 0).sum())
    on_average = runtime.mean_over_ranks({"known": n_known})["known"]
    return (n_known / on_average if on_average else 0.0) * depth_loss(logits, depth, network.config)


def _to(known: ObjectTensors, device: torch.device) -> ObjectTensors:
    return ObjectTensors(known.boxes.to(device), known.labels.to(device), known.ids.to(device))


class _Prefetched:
    """Batches made by a thread while the step before is computed: so many, from one on."""

    def __init__(self, clips: Clips, recipe: StreamDsgnRecipe, run: Run, first: int, n_batches: int) -> None:
        self._make = lambda step: batch_of_step(
            clips,
            first + step,
            recipe.train.batch_size,
            recipe.augment,
            run.runtime.seed,
            rank=run.runtime.rank,
            world=run.runtime.world,
        )
        self._n_batches = n_batches
        self._pool = ThreadPoolExecutor(1, initializer=use_one_thread)
        self._waiting: dict[int, Any] = {}

    def __len__(self) -> int:
        return self._n_batches

    def get(self, step: int) -> ClipBatch:
        """The batch of a step; the next ones are begun."""
        for ahead in range(step, min(step + _PREFETCH, self._n_batches)):
            if ahead not in self._waiting:
                self._waiting[ahead] = self._pool.submit(self._make, ahead)
        found: ClipBatch = self._waiting.pop(step).result()
        return found

    def close(self) -> None:
        """Stop the thread."""
        self._pool.shutdown(cancel_futures=True)
