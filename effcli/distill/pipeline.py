"""`effcli distill train`: the steps, in order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from effcli.core.files import sha256
from effcli.core.run import Result, Run
from effcli.data.image_sets import load_images, to_bytes
from effcli.data.picture_grid import save_grid
from effcli.diffusion.ddim import ddim_scheduler, sample
from effcli.diffusion.models import save_file
from effcli.distill.classifier import accuracy, build_classifier, fit_classifier
from effcli.distill.recipe import DistillRecipe
from effcli.distill.teacher import build_teacher, fit_teacher, scheduler_config
from effcli.metrics.features import save_classifier

N_PICTURES = 64


def train(recipe: DistillRecipe, run: Run) -> Result:
    """Train what the recipe's method names."""
    return train_teacher(recipe, run) if recipe.method == "teacher" else train_classifier(recipe, run)


def train_teacher(recipe: DistillRecipe, run: Run) -> Result:
    """A diffusion model from images, and pictures of it."""
    images = load_images(recipe.data.source, "train", side=recipe.data.side, channels=recipe.data.channels)
    unet = build_teacher(recipe).to(run.runtime.device)
    fit_teacher(unet, images, recipe, run)
    config = scheduler_config(recipe)
    metrics: dict[str, Any] = {
        "parameters": sum(p.numel() for p in unet.parameters()),
        "train_images": len(images),
    }
    figures = {}
    if run.runtime.is_main:
        file = _new_file(run, "model/unet.safetensors")
        save_file(file, unet, config)
        metrics["weights_sha256"] = sha256(file)
        noise = torch.randn(
            N_PICTURES,
            recipe.data.channels,
            recipe.data.side,
            recipe.data.side,
            generator=run.runtime.generator("pictures"),
        ).to(run.runtime.device)
        with torch.inference_mode():
            drawn = sample(
                lambda x, t: unet(x, t, return_dict=False)[0],
                ddim_scheduler(config, recipe.sampler.steps),
                noise,
                eta=recipe.sampler.eta,
            )
        save_grid(to_bytes(drawn.cpu()), _new_file(run, "pictures/samples.png"))
        figures = {f"Samples, {recipe.sampler.steps} DDIM steps": "pictures/samples.png"}
    return run.finish(metrics, figures)


def train_classifier(recipe: DistillRecipe, run: Run) -> Result:
    """A classifier, its accuracy, and the statistics of its features over the training images."""
    sets = {
        split: load_images(recipe.data.source, split, side=recipe.data.side, channels=recipe.data.channels)
        for split in ("train", "eval")
    }
    network = build_classifier(recipe, len(sets["train"].classes)).to(run.runtime.device)
    fit_classifier(network, sets["train"], recipe, run)
    metrics: dict[str, Any] = {
        "parameters": sum(p.numel() for p in network.parameters()),
        **{
            f"accuracy_{split}": accuracy(network, images, run.runtime.device)
            for split, images in sets.items()
        },
    }
    if run.runtime.is_main:
        file = _new_file(run, "model/classifier.safetensors")
        save_classifier(file, network, sets["train"].images)
        metrics["weights_sha256"] = sha256(file)
    return run.finish(metrics)


def _new_file(run: Run, name: str) -> Path:
    file = run.path / name
    file.parent.mkdir(exist_ok=True)
    return file
