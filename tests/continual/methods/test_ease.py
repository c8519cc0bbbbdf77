"""EASE: adapters that begin as nothing, spaces that stay, and prototypes against loops."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from effcli.continual.adapted_vit import AdaptedViT
from effcli.continual.methods.pretrained.ease import Ease, complemented, space_weights
from effcli.continual.network import classifier_of
from effcli.continual.weights import load_classifier, save_classifier
from effcli.core.errors import RecipeError, UsageError
from tests.continual.streams import learn, seed, tiny_method, tiny_recipe, tiny_tasks

TASKS = tiny_tasks(n_tasks=2, n_images=4)
NAMES = [task.classes for task in TASKS]


def test_prototypes_in_later_spaces_are_mixtures_of_newer_ones() -> None:
    torch.manual_seed(0)
    tasks, counts = [0, 0, 1, 2], torch.tensor([[2, 0, 0], [3, 0, 0], [2, 2, 0], [4, 4, 4]])
    sums = torch.randn(4, 3, 5) * (counts > 0)[:, :, None]
    found = complemented(sums, counts.float(), tasks)
    exact = sums / counts.clamp(min=1)[:, :, None]
    for c, own in enumerate(tasks):
        for space in range(3):
            if space <= own:
                torch.testing.assert_close(found[c, space], exact[c, space])
                continue
            newer = [j for j in range(4) if tasks[j] >= space]
            near = [math.exp(float(F.cosine_similarity(exact[c, own], exact[j, own], 0))) for j in newer]
            mixed = sum(w / sum(near) * exact[j, space] for w, j in zip(near, newer, strict=True))
            torch.testing.assert_close(found[c, space], mixed)


def test_a_class_counts_most_in_its_own_space() -> None:
    assert space_weights([0, 2], 3, 0.1, average=False).tolist() == [
        pytest.approx(row) for row in ([1, 0.1, 0.1], [0.1, 0.1, 1])
    ]
    assert space_weights([0, 2], 3, 0.1, average=True)[0].tolist() == pytest.approx([1, 0.05, 0.05])
    assert space_weights([0], 1, 0.1, average=True).tolist() == [[1]]


def test_it_needs_a_network_that_stays_as_it_is() -> None:
    for setting in ("network.backbone_rate=0.5", "network.backbone=null"):
        with pytest.raises(RecipeError, match=setting.partition("=")[0]):
            tiny_recipe("ease", setting)
    assert not tiny_recipe("ease", "compat=paper").ease.average_others  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny Vision Transformer of timm, with weights of its own."""
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(3)
    file = tmp_path_factory.mktemp("vit") / "tiny.safetensors"
    save_file(timm.create_model("test_vit", num_classes=7).state_dict(), file)
    return f"timm:test_vit:{file}"


def ease(vit: str, *settings: str) -> Ease:
    seed(0)
    method = tiny_method("ease", f"network.backbone={vit}", "ease.hidden=4", *settings)
    assert isinstance(method, Ease)
    return method


@pytest.mark.slow
def test_new_adapters_change_nothing(vit: str) -> None:
    import timm

    network: Any = timm.create_model("test_vit", num_classes=0).eval()
    adapted = AdaptedViT(network, 64, hidden=4, scale=0.1, n=2).eval()
    x = torch.rand(2, 3, 160, 160)
    with torch.no_grad():
        torch.testing.assert_close(adapted.in_space(x, 1), network(x))
        assert adapted(x).shape == (2, 128)
        torch.testing.assert_close(adapted(x).norm(dim=1), torch.full((2,), math.sqrt(2)))
    with pytest.raises(UsageError, match="plain Vision Transformer"):
        AdaptedViT(timm.create_model("test_resnet", num_classes=0), 64, 4, 0.1)


@pytest.mark.slow
def test_later_tasks_leave_earlier_spaces_and_the_files_answer_the_same(vit: str, tmp_path: Path) -> None:
    method = ease(vit)
    learn(method, TASKS[:1], n_epochs=1)
    x = torch.rand(2, 3, 160, 160)
    with torch.no_grad():
        before = method.vit.eval().in_space(x, 0)
        weights = {k: v.clone() for k, v in method.vit.network.state_dict().items()}
    learn(method, TASKS[1:], n_epochs=1)
    with torch.no_grad():
        assert torch.equal(method.vit.eval().in_space(x, 0), before)
        assert not torch.equal(method.vit.in_space(x, 1), before)
    assert all(torch.equal(weights[k], v) for k, v in method.vit.network.state_dict().items())
    assert method.counts.tolist() == [[4, 0], [4, 0], [4, 4], [4, 4]]

    images, scores = TASKS[1].eval.images, method.scores(TASKS[1].eval.images)
    save_classifier(tmp_path / "c.safetensors", classifier_of(method, NAMES, 8))
    found = load_classifier(tmp_path / "c.safetensors")
    with torch.no_grad():
        torch.testing.assert_close(found.scores(images), scores)
    again = ease(vit)
    again.enter_task(TASKS[0])
    again.enter_task(TASKS[1])
    again.load_state_dict(method.state_dict())
    again.learner.load_state_dict(method.learner.state_dict())
    torch.testing.assert_close(again.scores(images), scores)
