"""What a feature round of `effcli distill` should compare: the pixels, the last map (CFD), or all maps, and how much.

    python benchmarks/feature_layers.py [--updates 80] [--images 1024] [--seed 0] [--json FILE]

One round from 4 to 2 steps of the built-in teacher. All students see the same images, noise and targets, which are
computed once. Printed are Frechet distances in `builtin:fashion-features`, which no loss sees, to the teacher's own
samples at 4 steps from other noise, and to real images.
"""

from __future__ import annotations

import argparse
import copy
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from effcli.core.evidence.records import write_record
from effcli.core.runtime import create_runtime
from effcli.data.image_sets import load_images, to_bytes
from effcli.diffusion.conditioning import Guided
from effcli.diffusion.models import DiffusionModel, load_model
from effcli.diffusion.sampler_settings import SamplerSettings
from effcli.diffusion.sampling import sample_images
from effcli.distill.feature_networks import load_feature_network
from effcli.distill.inputs.teacher import DiffusionTeacher
from effcli.distill.losses import PixelLoss
from effcli.distill.progressive import student_config
from effcli.distill.rcfd import FeatureLoss
from effcli.distill.recipe import RcfdRecipe
from effcli.distill.targets import denoiser, two_step_target
from effcli.distill.time_grid import TimeGrid
from effcli.metrics.features import load_features
from effcli.metrics.frechet import frechet_distance
from effcli.nn.schedules import cosine

PIXEL_WEIGHTS = (0.0, 1.0, 5.0, 20.0)
RATE, BATCH, CPU = 3e-4, 64, torch.device("cpu")


def make_losses(model: DiffusionModel) -> dict[str, Any]:
    """The arms by name."""
    features = load_feature_network("builtin", DiffusionTeacher(model, Guided(model, model.unet)))
    losses: dict[str, Any] = {"pd": PixelLoss()}
    for layers in ("last", "all"):
        for weight in PIXEL_WEIGHTS:
            settings = {"layers": layers, "pixel_weight": weight}
            losses[f"rcfd {layers} {weight:g}"] = FeatureLoss(RcfdRecipe.model_validate(settings), features)
    return losses


def train(model: DiffusionModel, losses: dict[str, Any], n_updates: int, seed: int) -> dict[str, nn.Module]:
    """A student for each loss, after one round from 4 to 2 steps."""
    images = load_images("builtin:fashion-images", "train", side=16, channels=1)
    runtime, grid = (
        create_runtime(device="cpu", precision="fp32", seed=seed),
        TimeGrid(model.scheduler_config, CPU),
    )
    students = {name: copy.deepcopy(model.unet).requires_grad_(True) for name in losses}
    optimizers = {name: torch.optim.Adam(unet.parameters(), lr=RATE) for name, unet in students.items()}
    guided = Guided(model, model.unet)
    teacher = denoiser(guided, {})
    for step in range(n_updates):
        x, _ = images.batch(step, BATCH, runtime, seed=seed)
        generator = torch.Generator().manual_seed(seed * 100_000 + step)
        k = torch.randint(1, 3, (BATCH,), generator=generator)
        now, middle, end = grid.at(k, 2), grid.at(2 * k - 1, 4), grid.at(k - 1, 2)
        z = now.alpha * x + now.sigma * torch.randn(x.shape, generator=generator)
        with torch.no_grad():
            target = two_step_target(teacher, z, now, middle, end)
        for name, unet in students.items():
            terms = losses[name](denoiser(guided.with_unet(unet), {})(z, now), target, now)
            loss: Tensor = sum(
                (losses[name].weights[key] * term for key, term in terms.items()), x.new_zeros(())
            )
            optimizers[name].zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
            optimizers[name].param_groups[0]["lr"] = cosine(step, n_updates, RATE, 0.0)
            optimizers[name].step()
    return students


def samples(model: DiffusionModel, steps: int, n: int, seed: int) -> Tensor:
    """uint8 images at so many steps of the grid."""
    timesteps = TimeGrid(model.scheduler_config, CPU).timesteps(steps)
    config = student_config(model, "v_prediction", timesteps)
    guided = Guided(DiffusionModel(model.unet, config, model.source), model.unet)
    runtime = create_runtime(device="cpu", precision="fp32", seed=seed)
    return to_bytes(sample_images(guided, SamplerSettings(), n, 128, runtime))


def main() -> None:
    """Train, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--updates", type=int, default=80)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    model = load_model("builtin:fashion-diffusion")
    losses = make_losses(model)
    students = train(model, losses, arguments.updates, arguments.seed)
    space = load_features("builtin:fashion-features")
    assert space.reference is not None
    teacher = space.features(samples(model, 4, arguments.images, arguments.seed + 1))
    found = {}
    for name, unet in students.items():
        own = space.features(
            samples(
                DiffusionModel(unet, model.scheduler_config, name), 2, arguments.images, arguments.seed + 2
            )
        )
        found[name] = [frechet_distance(own, teacher), frechet_distance(own, space.reference)]
        print(
            f"{name:12} to teacher {found[name][0]:6.3f}   to real images {found[name][1]:6.3f}", flush=True
        )
    write_record(arguments.json, found, sys.argv)


if __name__ == "__main__":
    main()
