"""Speed of `effcli distill --method clip-kd`: ratios inside one run. Nothing else should be running.

    python benchmarks/clip_kd.py [--json FILE] [--teacher ViT-B-16] [--student ViT-T-16] [--batch 32] [--steps 3]

Pairs a second of a training step, random weights and pictures: open_clip's own `--distill` loop (its functions, called
as its command calls them, the pictures ready in memory), and ours with the same two losses (L_CLIP and CRD), decoding
included, with the teacher in the loop and with its embeddings kept, in float32 and in bfloat16. The first losses are
compared. Then the losses alone, with the memory of the similarities at large batches.
"""

from __future__ import annotations

import argparse
import io
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from effcli.core.evidence.records import write_record
from effcli.core.runtime import create_runtime
from effcli.distill.clip.clip_model import ClipModel
from effcli.distill.clip.models import new_clip
from effcli.distill.clip_kd import losses
from effcli.distill.clip_kd.batches import PairBatch, PairBatches
from effcli.distill.clip_kd.captions.caption_set import CaptionSet
from effcli.distill.clip_kd.losses import ClipKdLoss, Embeddings, clip_loss, crd
from effcli.distill.clip_kd.recipe import ClipKdRecipe, ClipLossSection
from effcli.distill.clip_kd.teacher_cache import unit_rows
from effcli.distill.clip_kd.training import Towers, new_optimizer

CPU = torch.device("cpu")


def random_pairs(n: int, side: int) -> CaptionSet:
    draws = np.random.default_rng(0)
    images = []
    for _ in range(n):
        stream = io.BytesIO()
        small = draws.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(small).resize((side, side)).save(stream, "JPEG")
        images.append(stream.getvalue())
    return CaptionSet(tuple(images), tuple((f"a picture of thing {i}",) for i in range(n)))


def embeddings_of(model: ClipModel, images: Tensor, tokens: Tensor) -> Embeddings:
    network: Any = model.network
    with torch.no_grad():
        return Embeddings(
            network.encode_image(images, normalize=True),
            network.encode_text(tokens, normalize=True),
            network.logit_scale.exp(),
        )


def ours(
    teacher: ClipModel,
    student: ClipModel,
    pairs: CaptionSet,
    n_steps: int,
    batch: int,
    *,
    cached: bool,
    precision: str,
) -> dict[str, float]:
    """Seconds of our steps (the first is not counted), and the losses of the first."""
    runtime = create_runtime(device="cpu", precision=precision)
    recipe = ClipKdRecipe(loss=ClipLossSection(fd=0, icl=0))
    sight = (teacher.preprocess, teacher.tokenize)
    batches = PairBatches(
        pairs, 1, batch, runtime, (student.preprocess, student.tokenize), [] if cached else [sight]
    )
    towers, loss = Towers(student.network.train()), ClipKdLoss(recipe.loss, student.dim, teacher.dim)
    optimizer = new_optimizer(student.network, loss, recipe, student.config, raw=False)
    kept: list[np.ndarray] = []
    if cached:
        whole = torch.stack([teacher.preprocess.whole(pairs.image(i)) for i in range(len(pairs))])
        found = embeddings_of(teacher, whole, teacher.tokenize(pairs.texts()[0]))
        kept = [one.half().numpy() for one in found[:2]]

    def look(one: PairBatch) -> Embeddings:
        if cached:
            rows = (unit_rows(kept[0], one.rows.images, CPU), unit_rows(kept[1], one.rows.captions, CPU))
            return Embeddings(*rows, teacher.network.logit_scale.exp().detach())
        with runtime.autocast():
            return embeddings_of(teacher, *one.for_teachers[0])

    seconds: list[float] = []
    first: dict[str, Any] = {}
    for step in range(n_steps + 1):
        started = time.perf_counter()
        one = batches[step]
        with runtime.autocast():
            embedded, _ = towers(one.images, one.tokens)
        terms = loss(embedded, look(one))
        optimizer.zero_grad(set_to_none=True)
        loss.total(terms).backward()
        optimizer.step()
        seconds.append(time.perf_counter() - started)
        first = first or {name: float(value.detach()) for name, value in terms.items()}
    return {"step_s": statistics.median(seconds[1:]), **first}


def of_open_clip(
    teacher: ClipModel, student: ClipModel, pairs: CaptionSet, n_steps: int, batch: int
) -> dict[str, float]:
    """The same of open_clip's training loop."""
    from open_clip.loss import DistillClipLoss
    from open_clip_train.train import train_one_epoch

    runtime = create_runtime(device="cpu", precision="fp32")
    source = PairBatches(pairs, 1, batch, runtime, (student.preprocess, student.tokenize))
    ready = [(one.images, one.tokens) for one in (source[step] for step in range(n_steps + 1))]
    network, big = student.network.train(), teacher.network
    network.output_dict = big.output_dict = True  # type: ignore[assignment]
    optimizer = new_optimizer(network, None, ClipKdRecipe(), student.config, raw=False)
    first: dict[str, float] = {}
    seconds: list[float] = []
    last = time.perf_counter()

    class Loader:
        num_batches, num_samples = len(ready), len(ready) * batch

        def __iter__(self) -> Any:
            nonlocal last
            for one in ready:
                last = time.perf_counter()
                yield one
                seconds.append(time.perf_counter() - last)

    compare = DistillClipLoss()

    def loss(**parts: Any) -> Any:
        found = compare(**parts)
        if not first:
            logits = [
                parts["dist_image_features"] @ parts["dist_text_features"].T * parts["dist_logit_scale"]
            ]
            entropies = [-(z.softmax(1) * z.log_softmax(1)).sum(1).mean() for z in (logits[0], logits[0].T)]
            first["clip"] = float(found["contrastive_loss"].detach())
            first["crd"] = float((found["distill_loss"] - sum(entropies) / 2).detach())
        return found

    args = SimpleNamespace(
        device="cpu", precision="fp32", distill=True, accum_freq=1, skip_scheduler=True, grad_clip_norm=None,
        horovod=False, rank=0, local_rank=0, world_size=1, log_every_n_steps=10**9, batch_size=batch, wandb=False,
        save_logs=False, distributed=False, log_local=False,
    )  # fmt: skip
    loader = SimpleNamespace(dataloader=Loader(), set_epoch=lambda epoch: None)
    train_one_epoch(network, {"train": loader}, loss, 0, optimizer, None, None, big, args)
    network.output_dict = big.output_dict = False  # type: ignore[assignment]
    return {"step_s": statistics.median(seconds[1:]), **first}


def loss_memory(n: int, dim: int, chunk_entries: int) -> dict[str, float]:
    """Seconds and kept megabytes of L_CLIP and CRD of ``n`` pairs, forward and backward."""
    losses.CHUNK_ENTRIES = chunk_entries
    torch.manual_seed(n)
    rows = [F.normalize(torch.randn(n, dim), dim=1) for _ in range(4)]
    v, s = (one.requires_grad_() for one in rows[:2])
    scale, scale_t = torch.tensor(14.3), torch.tensor(50.0)
    kept: dict[int, int] = {}

    def keep(one: Tensor) -> Tensor:
        kept[one.untyped_storage().data_ptr()] = one.untyped_storage().nbytes()
        return one

    started = time.perf_counter()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda one: one):
        loss = clip_loss(v, s, scale) + crd(v, s, scale, rows[2], rows[3], scale_t)
    loss.backward()
    return {
        "s": time.perf_counter() - started,
        "kept_mb": sum(kept.values()) / 1e6,
        "loss": float(loss.detach()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--teacher", default="ViT-B-16")
    parser.add_argument("--student", default="ViT-T-16")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=3)
    options = parser.parse_args()
    pairs = random_pairs(2 * options.batch, 224)
    made: dict[str, Any] = {}

    def fresh() -> tuple[ClipModel, ClipModel]:
        torch.manual_seed(0)
        return new_clip(options.teacher), new_clip(options.student)

    arms: dict[str, Callable[[], dict[str, float]]] = {
        "open_clip --distill": lambda: of_open_clip(*fresh(), pairs, options.steps, options.batch),
    }
    for precision in ("fp32", "bf16"):
        for cached in (False, True):
            name = f"ours, {'teacher kept' if cached else 'teacher in the loop'}, {precision}"
            arms[name] = lambda cached=cached, precision=precision: ours(  # type: ignore[misc]
                *fresh(), pairs, options.steps, options.batch, cached=cached, precision=precision
            )
    for name, arm in arms.items():
        made[name] = found = arm()
        found["pairs_per_s"] = options.batch / found["step_s"]
        ratio = found["pairs_per_s"] / made["open_clip --distill"]["pairs_per_s"]
        first = "  ".join(f"{key} {found[key]:.5f}" for key in ("clip", "crd"))
        print(
            f"{name:40s} {found['pairs_per_s']:7.2f} pairs/s  {ratio:5.2f}x  first losses: {first}",
            flush=True,
        )
    for n in (1024, 4096, 8192):
        for name, chunk in (("in parts", 1 << 22), ("whole", 1 << 40)):
            made[f"loss {n} {name}"] = found = loss_memory(n, 512, chunk)
            figures = f"{found['s']:6.2f} s  {found['kept_mb']:8.1f} MB kept  {found['loss']:.5f}"
            print(f"losses of {n} pairs, {name:9s} {figures}", flush=True)
    write_record(options.json, made, sys.argv)


if __name__ == "__main__":
    main()
