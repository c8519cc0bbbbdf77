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
from effcli.detect_stream.network.space_volume import cell_centres, frustum_cells, seen_from_above
from effcli.detect_stream.network.streamdsgn import HeadOutputs, StreamDsgn
from effcli.detect_stream.recipe import StreamDsgnRecipe
from effcli.detect_stream.training.batches import batch_of_step
from effcli.detect_stream.training.clips import ClipBatch, Clips
from effcli.nn.schedules import one_cycle, set_rate

_PREFETCH = 3
_MOMENTA = (0.95, 0.85)


def fit(network: StreamDsgn, clips: Clips, recipe: StreamDsgnRecipe, run: Run) -> None:
    """Train a network in place; every rank learns from its share of each batch."""
    runtime, settings = run.runtime, recipe.train
    network.to(runtime.device).train()
    if network.depth_head is not None and not _learns_depth(recipe):
        network.depth_head.requires_grad_(False)  # ranks wait for every gradient that they expect
    if recipe.train.frozen_stereo is not None:
        network.stereo_parts().requires_grad_(False)
    wrapped = runtime.wrap(_Losses(network, recipe, runtime))
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, settings.learning_rate, betas=(_MOMENTA[0], 0.99), weight_decay=settings.weight_decay
    )
    state: dict[str, Any] = {"network": network, "optimizer": optimizer}
    batches = _Prefetched(clips, recipe, run)
    for step in run.steps("train", settings.steps, state, beside=1):
        rate, momentum = one_cycle(step, settings.steps, settings.learning_rate, _MOMENTA)
        set_rate(optimizer, rate)
        for group in optimizer.param_groups:
            group["betas"] = (momentum, 0.99)
        terms = wrapped(batches.get(step))
        total = total_loss(terms, recipe.loss)
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(parameters, settings.grad_clip)
        optimizer.step()
        run.log("train", step, every=20, loss=total, **terms)
    batches.close()
    network.eval()


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
        """Means over the samples."""
        network = self.network
        device = network.mean.device
        outputs, depth_logits = self._outputs(batch)
        anchors = anchors_of(network.config).to(device)
        found: dict[str, list[Tensor]] = {}
        for i, objects in enumerate(batch.objects):
            moved = [_to(one, device) for one in objects]
            targets = moved[0] if self.weights.target == "next" else moved[1]
            terms = frame_losses(
                outputs.scores[i],
                outputs.codes[i],
                outputs.directions[i],
                anchors,
                assign(anchors, targets.boxes, targets.labels),
                moved,
                targets,
                motion=self.weights.motion > 0,
                by_overlap=self.weights.motion_by == "overlap",
            )
            for name, term in terms.items():
                found.setdefault(name, []).append(term)
        means = {name: torch.stack(values).mean() for name, values in found.items()}
        if depth_logits is not None:
            depth = batch.depth.to(device)
            loss = depth_loss(depth_logits, depth, network.config)
            means["depth"] = self._share_of_known(depth) * loss
        return means

    def _share_of_known(self, depth: Tensor) -> float:
        """Known depths here by those of a rank on average: so the mean over ranks is that over all pixels."""
        n_known = float((depth > 0).sum())
        on_average = self.runtime.mean_over_ranks({"known": n_known})["known"]
        return n_known / on_average if on_average else 0.0

    def _outputs(self, batch: ClipBatch) -> tuple[HeadOutputs, Tensor | None]:
        network = self.network
        device = network.mean.device
        n = len(batch.sizes)
        uses_past = network.fusion is not None
        n_pictures = 2 * n if uses_past else n
        sizes, calibrations = batch.sizes.to(device), batch.calibrations.to(device)
        turns = batch.turns.to(device)
        points = (
            cell_centres(network.config).to(device)[None]
            @ torch.linalg.inv(turns).transpose(1, 2)[:, None, None]
        )
        maker = network if self.kept is None else self.kept
        view = maker.view(calibrations, sizes, points)
        sizes = sizes.repeat(2, 1) if uses_past else sizes
        left, right = (
            maker.normalise(pictures[:n_pictures].to(device), sizes) for pictures in (batch.left, batch.right)
        )
        frustum = frustum_cells(network.config, calibrations[:, 0], turns) if self.learns_depth else None
        with self.runtime.autocast():  # geometry above and losses below stay in float32
            with torch.set_grad_enabled(self.kept is None):
                volume = maker.volume(left, right, view)
                maps = seen_from_above(volume)
            forget = torch.rand(n, device=device) < self.forget
            before = maps[n:] if uses_past else None
            flow = None
            if before is not None and network.config.ego_motion and batch.motions is not None:
                flow = network.flow(maps[:n], before, batch.motions.to(device))
            outputs = network.detect(maps[:n], before, flow, forget)
            if frustum is None or network.depth_head is None:
                return outputs, None
            return outputs, network.depth_head(frustum.sample(volume[:n]))


def _to(known: ObjectTensors, device: torch.device) -> ObjectTensors:
    return ObjectTensors(known.boxes.to(device), known.labels.to(device), known.ids.to(device))


class _Prefetched:
    """Batches made by a thread while the step before is computed."""

    def __init__(self, clips: Clips, recipe: StreamDsgnRecipe, run: Run) -> None:
        self._make = lambda step: batch_of_step(
            clips,
            step,
            recipe.train.batch_size,
            recipe.augment,
            run.runtime.seed,
            rank=run.runtime.rank,
            world=run.runtime.world,
        )
        self._n_steps = recipe.train.steps
        self._pool = ThreadPoolExecutor(1, initializer=use_one_thread)
        self._waiting: dict[int, Any] = {}

    def get(self, step: int) -> ClipBatch:
        """The batch of a step; the next ones are begun."""
        for ahead in range(step, min(step + _PREFETCH, self._n_steps)):
            if ahead not in self._waiting:
                self._waiting[ahead] = self._pool.submit(self._make, ahead)
        found: ClipBatch = self._waiting.pop(step).result()
        return found

    def close(self) -> None:
        """Stop the thread."""
        self._pool.shutdown(cancel_futures=True)
