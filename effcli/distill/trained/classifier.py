"""The classifier whose features measure Frechet distances and compare students in feature distillation.

docs/methods/rdd.md, Classifier.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effcli.core.errors import InputError
from effcli.core.evidence.result import Result
from effcli.core.files import sha256
from effcli.core.plan import Plan
from effcli.core.run import Run
from effcli.data.image_sets import ImageSet, to_range
from effcli.distill.recipe import ClassifierRecipe
from effcli.distill.trained.inputs import load_training_images, plan_of_images
from effcli.metrics.features import Classifier, build_classifier, save_classifier
from effcli.nn.schedules import cosine, set_rate


def plan(recipe: ClassifierRecipe) -> Plan[dict[str, ImageSet]]:
    """The images by part, and what :func:`train` would train on them.

    Raises:
        InputError: there is a single one, whose features have no covariance.
    """
    images = load_training_images(recipe)
    if len(images) < 2:
        raise InputError("has a single image to learn from", place=recipe.data.source)
    sets = {"train": images, "eval": load_training_images(recipe, "eval")}
    network = new_classifier(recipe, len(images.classes))
    n_parameters = sum(p.numel() for p in network.parameters())
    return Plan({"parameters": n_parameters, **plan_of_images(recipe, images)}, sets)


def train(recipe: ClassifierRecipe, sets: dict[str, ImageSet], run: Run) -> Result:
    """A classifier, its accuracy, and the statistics of its features over the training images."""
    network = new_classifier(recipe, len(sets["train"].classes)).to(run.runtime.device)
    fit_classifier(network, sets["train"], recipe, run)
    metrics: dict[str, Any] = {
        "parameters": sum(p.numel() for p in network.parameters()),
        **{f"accuracy_{split}": accuracy(network, images, run) for split, images in sets.items()},
    }
    if run.runtime.is_main:
        file = run.file("model/classifier.safetensors")
        save_classifier(file, network, sets["train"].images)
        metrics["weights_sha256"] = sha256(file)
    return run.finish(metrics)


def new_classifier(recipe: ClassifierRecipe, n_classes: int) -> Classifier:
    """A new classifier for the recipe's images."""
    torch.manual_seed(recipe.seed)
    settings = {"channels": recipe.data.channels, "side": recipe.data.side, "n_classes": n_classes}
    if recipe.network == "small":
        settings["width"] = recipe.width
    return build_classifier(recipe.network, **settings)


def fit_classifier(network: Classifier, images: ImageSet, recipe: ClassifierRecipe, run: Run) -> None:
    """Train ``network`` in place: cross-entropy on images shifted by up to 1/8 of their side."""
    settings, runtime = recipe.train, run.runtime
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    parallel: nn.Module = runtime.wrap(network)
    network.train()
    for step in run.steps("train", settings.steps, {"network": network, "optimizer": optimizer}):
        x, y = images.batch(step, settings.batch_size, runtime, seed=recipe.seed, flip=recipe.augment.flip)
        x = shifted(x, recipe.data.side // 8)
        set_rate(optimizer, cosine(step, settings.steps, settings.learning_rate, 0.0))
        with runtime.autocast():
            logits = parallel(x.to(runtime.device))
        loss = F.cross_entropy(logits.float(), y.to(runtime.device))
        run.log("train", step, every=20, loss=loss.detach())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), settings.grad_clip)
        optimizer.step()
    network.eval()


def shifted(x: Tensor, most: int) -> Tensor:
    """The whole batch moved by one random offset of up to ``most`` pixels each way, with -1 beyond the border."""
    padded = F.pad(x, (most, most, most, most), value=-1.0)
    top, left = torch.randint(2 * most + 1, (2,)).tolist()
    height, width = x.shape[-2:]
    return padded[..., top : top + height, left : left + width]


@torch.inference_mode()
def accuracy(network: Classifier, images: ImageSet, run: Run) -> float:
    """Share of the images that are classified correctly, 0..1."""
    hits = 0
    for x, y in zip(images.images.split(1000), images.labels.split(1000), strict=True):
        run.check_stop()
        hits += int((network(to_range(x).to(run.runtime.device)).argmax(1).cpu() == y).sum())
    return hits / len(images)
