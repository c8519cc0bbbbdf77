"""Methods on frozen features: against their closed forms, in any order, with a tiny backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from effcli.continual.backbones import Backbone, open_backbone
from effcli.continual.class_splits import ClassTask
from effcli.continual.methods.frozen.frozen_features import FrozenFeatures
from effcli.continual.network import classifier_of
from effcli.continual.prediction.onnx_classifier import export_onnx
from effcli.continual.weights import load_classifier, save_classifier
from tests.continual.streams import tiny_method, tiny_tasks

TINY = "timm:test_resnet.r160_in1k"


@pytest.fixture
def weights(tmp_path: Path) -> str:
    """A small network of timm with weights of its own."""
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(3)
    file = tmp_path / "tiny.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=7).state_dict(), file)
    return f"timm:test_resnet:{file}"


def learned(
    name: str, tasks: list[ClassTask], weights: str, tmp_path: Path, *settings: str
) -> FrozenFeatures:
    method = tiny_method(
        name, f"network.backbone={weights}", f"network.features={tmp_path}", *settings, n_classes=2
    )
    assert isinstance(method, FrozenFeatures)
    for task in tasks:
        method.enter_task(task)
        method.end_task(task)
    return method


def swapped(tasks: list[ClassTask]) -> list[ClassTask]:
    """The same classes, the other task first; labels stay."""
    return list(reversed(tasks))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ncm", "ranpac"])
def test_the_order_of_tasks_does_not_matter(name: str, weights: str, tmp_path: Path) -> None:
    tasks = tiny_tasks(n_tasks=3)
    images = torch.cat([task.eval.images for task in tasks])
    settings = ["projection.size=50"] if name == "ranpac" else []
    there = learned(name, tasks, weights, tmp_path, *settings).scores(images)
    back = learned(name, swapped(tasks), weights, tmp_path, *settings).scores(images)
    torch.testing.assert_close(there, back, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_ranpac_is_ridge_regression_on_all_images(weights: str, tmp_path: Path) -> None:
    tasks = tiny_tasks()
    method = learned("ranpac", tasks, weights, tmp_path, "projection.size=40", "projection.ridge=0.5")
    f = torch.cat([method.kept.of(task.train.images) for task in tasks])
    y = torch.nn.functional.one_hot(torch.cat([task.train.labels for task in tasks])).double()
    projection: Any = method.learner.classifier.projection
    signs = projection.signs.double()
    h = torch.relu(f.double() @ signs / f.shape[1] ** 0.5)
    strength = 0.5 * (h.T @ h).diagonal().mean()
    stacked = torch.cat([h, strength.sqrt() * torch.eye(40, dtype=torch.double)])
    target = torch.cat([y, torch.zeros(40, y.shape[1], dtype=torch.double)])
    w = torch.linalg.lstsq(stacked, target).solution
    torch.testing.assert_close(method.exported().head.weight.double(), w.T, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_ncm_answers_the_nearest_mean(weights: str, tmp_path: Path) -> None:
    tasks = tiny_tasks()
    method = learned("ncm", tasks, weights, tmp_path, "distance=euclidean")
    means = torch.stack(
        [
            method.kept.of(task.train.images[task.train.labels == label]).mean(0)
            for task in tasks
            for label in range(task.first_class, task.end_class)
        ]
    )
    images = torch.cat([task.eval.images for task in tasks])
    nearest = torch.cdist(method.kept.of(images), means).argmin(1)
    assert torch.equal(method.scores(images).argmax(1), nearest)


@pytest.mark.slow
def test_more_images_of_a_known_class_are_added(weights: str, tmp_path: Path) -> None:
    whole = tiny_tasks(n_tasks=1)[0]
    halves = [
        ClassTask(
            0, whole.classes, 0, whole.train.rows(torch.arange(len(whole.train)) % 2 == odd), whole.eval
        )
        for odd in (0, 1)
    ]
    images = whole.eval.images
    at_once = learned("ranpac", [whole], weights, tmp_path, "projection.size=50").scores(images)
    in_parts = learned("ranpac", halves, weights, tmp_path, "projection.size=50").scores(images)
    torch.testing.assert_close(at_once, in_parts, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ncm", "ranpac"])
def test_a_checkpoint_and_a_file_answer_the_same(name: str, weights: str, tmp_path: Path) -> None:
    tasks = tiny_tasks()
    settings = ["projection.size=50"] if name == "ranpac" else []
    method = learned(name, tasks, weights, tmp_path, *settings)
    images = tasks[0].eval.images
    again = learned(name, [], weights, tmp_path, *settings)
    again.load_state_dict(method.state_dict())
    assert torch.equal(again.scores(images), method.scores(images))
    save_classifier(tmp_path / "c.safetensors", classifier_of(method, [task.classes for task in tasks], 8))
    found = load_classifier(tmp_path / "c.safetensors")
    with torch.no_grad():
        torch.testing.assert_close(found.scores(images), method.scores(images), rtol=1e-2, atol=1e-2)
        assert torch.equal(found.scores(images).argmax(1), method.scores(images).argmax(1))


@pytest.mark.slow
def test_onnx_says_the_same(weights: str, tmp_path: Path) -> None:
    runtime: Any = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    tasks = tiny_tasks()
    method = learned("ranpac", tasks, weights, tmp_path, "projection.size=50")
    classifier = classifier_of(method, [task.classes for task in tasks], 8)
    export_onnx(tmp_path / "c.onnx", classifier)
    images = tasks[1].eval.images.float() / 255
    session = runtime.InferenceSession(str(tmp_path / "c.onnx"))
    with torch.no_grad():
        expected = classifier(images)
    (found,) = session.run(None, {"images": images.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_sides_follow_the_images_unless_they_are_named(weights: str) -> None:
    assert open_backbone(weights, None, 40).about.side == 128
    assert open_backbone(weights, None, 1000).about.side == 160
    assert open_backbone(weights, 96, 1000).about.side == 96
    backbone = open_backbone(weights, None, 8)
    assert isinstance(backbone, Backbone)
    assert backbone(torch.zeros(2, 3, 8, 8)).shape == (2, backbone.dim)
