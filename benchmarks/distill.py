"""Speed and memory of `effcli distill`: ratios inside one run. Nothing else should be running.

    python benchmarks/distill.py [--json FILE] [--batch 64] [--repeats 5] [--long]

Updates: one of the built-in model with the losses of PD, RCFD and RDD, against the released way of computing the same:
IS_P2P one pair of images after another, M_P2P with all slots of the queue scored, automatic differentiation through
every softmax. Relations alone: the same at the paper's feature size (1,920 channels, 4x4), with the bytes that are kept
for the backward pass. Sampling: seconds per image by steps; --long adds 1,024.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effcli.core.evidence.records import write_record
from effcli.core.runtime import create_runtime
from effcli.diffusion.conditioning import Guided
from effcli.diffusion.ddim import ddim_scheduler, sample
from effcli.diffusion.models import DiffusionModel, load_model
from effcli.diffusion.schedulers import DISTILLED_TIMESTEPS
from effcli.distill.feature_networks import load_feature_network
from effcli.distill.inputs.teacher import DiffusionTeacher
from effcli.distill.losses import (
    PixelLoss,
    cfd,
    memory_relation_loss,
    pair_relation_loss,
    truncated_snr_loss,
)
from effcli.distill.rcfd import FeatureLoss
from effcli.distill.rdd import RelationLoss
from effcli.distill.recipe import RddRecipe
from effcli.distill.targets import denoiser, two_step_target
from effcli.distill.time_grid import Point, TimeGrid


def released_pairs(student: Tensor, target: Tensor) -> Tensor:
    """IS_P2P, one pair of images after another."""
    ours, theirs = (F.normalize(maps.flatten(2), dim=1) for maps in (student, target))
    total = student.new_zeros(())
    for b in range(len(ours)):
        for d in range(len(ours)):
            p = torch.log_softmax(theirs[b].T @ theirs[d], 1)
            q = torch.log_softmax(ours[b].T @ ours[d], 1)
            total = total + F.kl_div(q, p, reduction="batchmean", log_target=True)
    return total / len(ours) ** 2


def released_memory(student: Tensor, target: Tensor, queue: Tensor) -> Tensor:
    """M_P2P, all of the queue scored."""
    rows = [F.normalize(maps.permute(0, 2, 3, 1).flatten(0, 2), dim=1) for maps in (student, target)]
    q, p = (torch.log_softmax(one @ queue.T / 0.1, 1) for one in rows)
    return F.kl_div(q, p, reduction="batchmean", log_target=True)


class ReleasedLoss:
    """The losses as they are defined, with ordinary automatic differentiation."""

    def __init__(self, method: str, recipe: RddRecipe, model: DiffusionModel) -> None:
        self.method = method
        self.features = load_feature_network("builtin", DiffusionTeacher(model, Guided(model, model.unet)))
        self.queue = F.normalize(torch.randn(recipe.relations.queue_size, 96), dim=1)
        self.head = nn.Sequential(
            nn.Conv2d(96, 96, 1, bias=False), nn.BatchNorm2d(96), nn.ReLU(), nn.Conv2d(96, 96, 1, bias=False)
        )

    def __call__(self, x: Tensor, target: Tensor, point: Point) -> Tensor:
        if self.method == "pd":
            return truncated_snr_loss(x, target, point.alpha, point.sigma)
        with torch.no_grad():
            theirs = self.features.feature_map(target)
        ours = self.features.feature_map(x)
        loss = cfd(ours.mean((2, 3)), theirs.mean((2, 3)), 0.9)
        if self.method == "rdd":
            loss = loss + released_pairs(ours, theirs)
            loss = loss + 0.1 * released_memory(self.head(ours), theirs, self.queue)
        return loss


def our_loss(method: str, recipe: RddRecipe, model: DiffusionModel) -> Callable[..., Tensor]:
    features = load_feature_network("builtin", DiffusionTeacher(model, Guided(model, model.unet)))
    runtime = create_runtime(device="cpu", precision="fp32")
    loss: Any = {
        "pd": PixelLoss,
        "rcfd": lambda: FeatureLoss(recipe, features),
        "rdd": lambda: RelationLoss(recipe, features, Guided(model, model.unet), runtime),
    }[method]()

    def call(x: Tensor, target: Tensor, point: Point) -> Tensor:
        terms = loss(x, target, point)
        return sum(loss.weights[name] * term for name, term in terms.items())

    return call


def measure_updates(batch: int, repeats: int) -> dict[str, dict[str, float]]:
    """Seconds of an update, ours and the released way taking turns, and of its loss alone."""
    model, recipe = load_model("builtin:fashion-diffusion"), RddRecipe()
    grid = TimeGrid(model.scheduler_config, torch.device("cpu"))
    x, noise = torch.randn(2, batch, 1, 16, 16).clamp(-1, 1)
    k = torch.randint(1, 5, (batch,))
    now, middle, end = grid.at(k, 4), grid.at(2 * k - 1, 8), grid.at(k - 1, 4)
    z = now.alpha * x + now.sigma * noise
    guided = Guided(model, model.unet)
    teacher = denoiser(guided, {})
    rows = {}
    for method in ("pd", "rcfd", "rdd"):
        student = copy.deepcopy(model.unet).requires_grad_(True)
        optimizer = torch.optim.Adam(student.parameters(), lr=1e-5)
        forms = {"ours": our_loss(method, recipe, model), "released": ReleasedLoss(method, recipe, model)}
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in forms}
        for _ in range(repeats + 1):
            for name, loss in forms.items():
                started = time.perf_counter()
                with torch.no_grad():
                    target = two_step_target(teacher, z, now, middle, end)
                x_student = denoiser(guided.with_unet(student), {})(z, now)
                cut = x_student.detach().requires_grad_()
                loss_started = time.perf_counter()
                (slope,) = torch.autograd.grad(loss(cut, target, now), cut)
                loss_s = time.perf_counter() - loss_started
                optimizer.zero_grad(set_to_none=True)
                x_student.backward(slope)
                nn.utils.clip_grad_norm_(student.parameters(), 1.0)
                optimizer.step()
                times[name].append((time.perf_counter() - started, loss_s))
        medians = {
            name: [statistics.median(part) for part in zip(*values[1:], strict=True)]
            for name, values in times.items()
        }
        ours, released = medians["ours"], medians["released"]
        rows[method] = {
            "update_s": round(ours[0], 4),
            "released_update_s": round(released[0], 4),
            "update_ratio": round(released[0] / ours[0], 2),
            "loss_s": round(ours[1], 4),
            "released_loss_s": round(released[1], 4),
            "loss_ratio": round(released[1] / ours[1], 2),
        }
    return rows


def measure_relations(repeats: int) -> dict[str, dict[str, float]]:
    """IS_P2P and M_P2P at the paper's size: 32 images, 1,920 channels, 4x4; forward and backward."""
    student, target = torch.randn(2, 32, 1920, 4, 4)
    queue = F.normalize(torch.randn(20_000, 1920), dim=1)
    contrast = queue[:4096]
    forms: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
        "is_p2p": (lambda s: pair_relation_loss(s, target), lambda s: released_pairs(s, target)),
        "m_p2p": (
            lambda s: memory_relation_loss(s, target, contrast, 0.1),
            lambda s: released_memory(s, target, queue),
        ),
    }
    rows = {}
    for name, pair in forms.items():
        times: list[list[float]] = [[], []]
        kept = [0, 0]
        for _ in range(repeats + 1):
            for i, form in enumerate(pair):
                x = student.clone().requires_grad_()
                started = time.perf_counter()
                kept[i] = bytes_kept(form, x)
                times[i].append(time.perf_counter() - started)
        ours, released = (statistics.median(values[1:]) for values in times)
        rows[name] = {
            "ours_s": round(ours, 4),
            "released_s": round(released, 4),
            "ratio": round(released / ours, 2),
            "kept_mb": round(kept[0] / 1e6, 1),
            "released_kept_mb": round(kept[1] / 1e6, 1),
        }
    return rows


def bytes_kept(form: Callable[[Tensor], Tensor], x: Tensor) -> int:
    """Forward and backward; returns the bytes that the forward pass keeps for the backward pass."""
    seen: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = form(x)
    loss.backward()
    return sum(seen.values())


def measure_sampling(steps: list[int], batch: int) -> dict[str, float]:
    """Seconds an image of the built-in model's network."""
    model = load_model("builtin:fashion-diffusion")
    grid = TimeGrid(model.scheduler_config, torch.device("cpu"))
    noise = torch.randn(batch, 1, 16, 16)
    rows = {}
    with torch.inference_mode():
        for n in [1, *steps]:  # the first one warms up
            config = {**model.scheduler_config, DISTILLED_TIMESTEPS: grid.timesteps(n)}
            scheduler = ddim_scheduler(config, n)
            started = time.perf_counter()
            sample(lambda z, t: model.unet(z, t, return_dict=False)[0], scheduler, noise)
            rows[str(n)] = round((time.perf_counter() - started) / batch, 6)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    content: dict[str, Any] = {}
    content["updates"] = measure_updates(options.batch, options.repeats)
    content["relations"] = measure_relations(options.repeats)
    for part in ("updates", "relations"):
        for name, row in content[part].items():
            print(f"{name:<8}" + "  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    content["s_per_image"] = measure_sampling([1, 2, 4, 8, 64, *([1024] if options.long else [])], 64)
    for steps, seconds in content["s_per_image"].items():
        print(f"{steps:>5} steps: {1e3 * seconds:.3f} ms per image", flush=True)
    write_record(options.json, content, sys.argv)


if __name__ == "__main__":
    main()
