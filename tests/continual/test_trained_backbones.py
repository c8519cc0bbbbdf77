"""Trained networks as a start, frozen or trained further, and classifiers of ours as backbones of others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from effcli.continual.assembly import named_backbone, new_method
from effcli.continual.backbones import Backbone
from effcli.continual.methods.frozen.frozen_features import FrozenFeatures
from effcli.continual.methods.rehearsal import IncrementalMethod
from effcli.continual.network import classifier_of
from effcli.continual.prediction.onnx_classifier import export_onnx
from effcli.continual.weights import load_classifier, save_classifier
from effcli.core.errors import EffcliError, RecipeError
from tests.continual.streams import begin, learn, step, tiny_method, tiny_recipe, tiny_tasks

TASKS = tiny_tasks()
NAMES = [task.classes for task in TASKS]


@pytest.fixture
def own(tmp_path: Path) -> str:
    """The file of a classifier that er learned."""
    return saved(tiny_method("er"), tmp_path / "own.safetensors")


def saved(method: IncrementalMethod, file: Path) -> str:
    learn(method, TASKS, n_epochs=1)
    save_classifier(file, classifier_of(method, NAMES, 8))
    return str(file)


def on(name: str, backbone: str, *settings: str) -> IncrementalMethod:
    return tiny_method(name, f"network.backbone={backbone}", *settings)


def weights_of(method: IncrementalMethod) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in method.learner.classifier.backbone.state_dict().items()}


@pytest.mark.parametrize("settings", [(), ("frequency.enabled=true",)])
def test_a_classifier_gives_the_features_that_it_looks_at(settings: tuple[str, ...], tmp_path: Path) -> None:
    file = saved(tiny_method("er", *settings), tmp_path / "own.safetensors")
    classifier, backbone = load_classifier(file), named_backbone(file, None, 100)
    images = TASKS[0].eval.images
    x = (images.float() / 255 - classifier.mean) / classifier.std
    with torch.no_grad():
        torch.testing.assert_close(classifier.classifier.name(backbone(x)), classifier.scores(images))
    assert (backbone.about.side, backbone.about.library, backbone.dim) == (8, "effcli", 16)


def test_features_of_a_classifier_are_learned_on_and_written(own: str, tmp_path: Path) -> None:
    method = on("ncm", own, f"network.features={tmp_path}")
    assert isinstance(method, FrozenFeatures)
    for task in TASKS:
        method.enter_task(task)
        method.end_task(task)
    save_classifier(tmp_path / "ncm.safetensors", classifier_of(method, NAMES, 8))
    again = load_classifier(tmp_path / "ncm.safetensors")
    images = TASKS[0].eval.images
    with torch.no_grad():
        torch.testing.assert_close(again.scores(images), method.scores(images), rtol=1e-2, atol=1e-2)
    from_its_file = named_backbone(str(tmp_path / "ncm.safetensors"), None, 8)
    assert from_its_file.about == method.backbone.about


def test_what_cannot_be_a_backbone_says_so(own: str, tmp_path: Path) -> None:
    grey = tiny_method("er", "data.channels=1")
    save_classifier(tmp_path / "grey.safetensors", classifier_of(grey, NAMES, 8))
    recipe: Any = tiny_recipe("ncm", f"network.backbone={tmp_path / 'grey.safetensors'}")
    with pytest.raises(EffcliError, match="takes grey images"):
        new_method(recipe, 4, (0.5,) * 3, (0.2,) * 3, 8)
    with pytest.raises(EffcliError, match="no classifier in it"):
        named_backbone(str(tmp_path), None, 8)
    with pytest.raises(EffcliError, match="no classifier in it"):
        named_backbone(str(tmp_path / "none.safetensors"), None, 8)
    with pytest.raises(EffcliError, match="predictions, not features"):
        named_backbone(str(tmp_path / "c.onnx"), None, 8)
    encoded = tiny_method("er", "frequency.enabled=true")
    save_classifier(tmp_path / "clfd.safetensors", classifier_of(encoded, NAMES, 8))
    with pytest.raises(EffcliError, match="even sides, not 9"):
        named_backbone(str(tmp_path / "clfd.safetensors"), 9, 8)


@pytest.mark.parametrize("name", ["er", "derpp", "lwf", "ewc", "icarl", "wa", "cls-er", "ir", "sgd"])
def test_a_backbone_is_trained_further_or_stays(name: str, own: str) -> None:
    moving, still = on(name, own), on(name, own, "network.backbone_rate=0")
    backbone = still.learner.classifier.backbone
    assert isinstance(backbone, Backbone)
    before = weights_of(still)
    assert all(torch.equal(before[key], value) for key, value in weights_of(moving).items())
    epochs = 0 if name == "ir" else 1
    learn(still, TASKS, n_epochs=epochs)
    learn(moving, TASKS, n_epochs=1)
    assert not backbone.training
    assert all(torch.equal(before[key], value) for key, value in weights_of(still).items())
    assert any(not torch.equal(before[key], value) for key, value in weights_of(moving).items())
    assert torch.isfinite(still.scores(TASKS[0].eval.images)).all()


def test_the_backbone_has_a_share_of_the_learning_rate(own: str) -> None:
    slow, fast = on("sgd", own, "network.backbone_rate=0.25"), on("sgd", own)
    moved = []
    for method in (slow, fast):
        begin(method, TASKS[0])
        before = weights_of(method)
        optimizer = method.optimizer()
        for group in optimizer.param_groups:
            group["lr"] = method.rate(0, 1) * group.get("share", 1.0)
        torch.manual_seed(0)
        step(method, optimizer, TASKS[0].train.images[:8], TASKS[0].train.labels[:8])
        moved.append(
            weights_of(method)["network.backbone.conv.weight"] - before["network.backbone.conv.weight"]
        )
    torch.testing.assert_close(moved[0], 0.25 * moved[1], rtol=1e-3, atol=1e-6)


def test_ir_on_frozen_features_is_the_nearest_class_mean(own: str, tmp_path: Path) -> None:
    ir = on("ir", own, "network.backbone_rate=0")
    ncm = on("ncm", own, "distance=euclidean", f"network.features={tmp_path}")
    assert [ir.recipe.epochs_of(number) for number in (0, 1)] == [0, 0]
    for task in TASKS:
        for method in (ir, ncm):
            method.enter_task(task)
            method.end_task(task)
    images = torch.cat([task.eval.images for task in TASKS])
    torch.testing.assert_close(ir.scores(images), ncm.scores(images), rtol=1e-2, atol=1e-2)


def test_selection_of_features_is_learned_on_a_backbone(own: str, tmp_path: Path) -> None:
    method = on("er", own, "frequency.enabled=true", "frequency.encode=false")
    learn(method, TASKS, n_epochs=1)
    method.learner.eval()
    classifier = classifier_of(method, NAMES, 8)
    assert classifier.about.n_kept is not None and classifier.about.backbone is not None
    images = TASKS[0].eval.images
    with torch.no_grad():
        torch.testing.assert_close(classifier.scores(images), method.scores(images))
    pytest.importorskip("onnxscript")
    export_onnx(tmp_path / "c.onnx", classifier)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("e2net", ["network.backbone=x"], "subnets are cut out of the channels of a ResNet-18"),
        ("er", ["network.backbone=x", "frequency.enabled=true"], "takes images, not frequency features"),
        ("ir", ["train.first_epochs=0"], "0 needs a trained network"),
        ("er", ["network.backbone_rate=0.5"], "setting of a trained backbone"),
        ("er", ["network.side=64"], "setting of a trained backbone"),
    ],
)
def test_what_has_no_meaning_is_refused_with_the_reason(name: str, settings: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        tiny_recipe(name, *settings)
