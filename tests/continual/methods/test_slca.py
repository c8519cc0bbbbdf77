"""SLCA: Gaussians against closed forms, the length of logits, and what alignment is for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from effcli.continual.methods.pretrained.slca import ClassGaussian, Slca, normalised
from effcli.continual.network import classifier_of
from effcli.continual.weights import load_classifier, save_classifier
from effcli.core.errors import RecipeError
from tests.continual.streams import begin, learn, seed, tiny_method, tiny_recipe, tiny_tasks

TASKS = tiny_tasks(n_tasks=3)
NAMES = [task.classes for task in TASKS]


@pytest.fixture
def own(tmp_path: Path) -> str:
    """The file of a classifier that joint training learned."""
    method = tiny_method("sgd", n_classes=6)
    seed(0)
    learn(method, TASKS[:2], n_epochs=12)
    save_classifier(tmp_path / "own.safetensors", classifier_of(method, NAMES, 8))
    return str(tmp_path / "own.safetensors")


def slca(own: str, *settings: str) -> Slca:
    seed(0)
    method = tiny_method("slca", f"network.backbone={own}", *settings, n_classes=6)
    assert isinstance(method, Slca)
    return method


@pytest.mark.parametrize(("n", "more"), [(5, 3), (3, 40), (40, 30)])
def test_a_gaussian_of_parts_is_that_of_the_whole(n: int, more: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(n + more, 8) @ torch.randn(8, 8) + 3
    found = ClassGaussian.of(x[:n], 0).with_more(x[n:])
    assert (found.n, len(found.root) <= 8 or n + more < 8) == (n + more, True)
    torch.testing.assert_close(found.mean, x.mean(0))
    covariance = found.root.T @ found.root / (n + more - 1)
    torch.testing.assert_close(covariance, torch.cov(x.T), rtol=1e-3, atol=1e-3)


def test_samples_have_the_mean_and_the_covariance() -> None:
    torch.manual_seed(0)
    x = torch.randn(50, 4) * torch.tensor([1.0, 2.0, 0.5, 0.0]) + torch.arange(4)
    samples = ClassGaussian.of(x, 0).sample(200_000, scale=0.5)
    torch.testing.assert_close(samples.mean(0), 0.5 * x.mean(0), rtol=0, atol=0.02)
    torch.testing.assert_close(torch.cov(samples.T), torch.cov(x.T) + 1e-4 * torch.eye(4), rtol=0, atol=0.06)


def test_a_class_of_one_image_has_a_gaussian() -> None:
    samples = ClassGaussian.of(torch.ones(1, 4), 0).sample(10, 1.0)
    assert torch.isfinite(samples).all() and samples.std() < 0.1


def test_logits_are_divided_by_the_mean_length_of_the_parts_of_tasks() -> None:
    logits = torch.tensor([[3.0, 4.0, 0.0, 1.0]])
    torch.testing.assert_close(normalised(logits, [0, 0, 1, 1]), logits / ((5 + 1) / 2))


def test_the_loss_is_among_the_classes_of_the_task(own: str) -> None:
    method = slca(own)
    begin(method, TASKS[1])
    terms = method.loss(TASKS[1].train.images[:8], TASKS[1].train.labels[:8])
    terms["ce"].backward()
    gradient = method.learner.classifier.head.weight.grad
    assert gradient is not None
    assert gradient.abs().sum(1).nonzero().flatten().tolist() == [2, 3]


def test_alignment_lets_all_classes_be_answered(own: str) -> None:
    method = slca(own, "alignment.learning_rate=0.1")
    seed(1)
    centres = 3 * torch.randn(6, 16)
    method.classes = [
        ClassGaussian.of(centre + torch.randn(20, 16), number // 2) for number, centre in enumerate(centres)
    ]
    head, x = method.learner.classifier.head, centres + 0.5 * torch.randn(6, 16)
    with torch.no_grad():
        head.bias[4:] += 20  # as after a task of the last two classes alone
        assert head(x).argmax(1).min() >= 4
    method._align(TASKS[2])
    assert head(x).argmax(1).tolist() == [0, 1, 2, 3, 4, 5]


def test_a_checkpoint_and_a_file_answer_the_same(own: str, tmp_path: Path) -> None:
    method, again = slca(own), slca(own)
    learn(method, TASKS[:2], n_epochs=1)
    again.load_state_dict(method.state_dict())
    again.learner.load_state_dict(method.learner.state_dict())
    for one in (method, again):
        learn(one, TASKS[2:], n_epochs=0)
    assert all(torch.equal(a.root, b.root) for a, b in zip(method.classes, again.classes, strict=True))
    method.learner.eval()
    save_classifier(tmp_path / "c.safetensors", classifier_of(method, NAMES, 8))
    with torch.no_grad():
        torch.testing.assert_close(
            load_classifier(tmp_path / "c.safetensors").scores(TASKS[0].eval.images),
            method.scores(TASKS[0].eval.images),
        )


def test_statistics_of_batch_norm_stay(own: str) -> None:
    method = slca(own)
    before = {k: v.clone() for k, v in method.learner.classifier.backbone.named_buffers()}
    learn(method, TASKS[:1], n_epochs=1)
    assert before
    assert all(torch.equal(before[k], v) for k, v in method.learner.classifier.backbone.named_buffers())


def test_the_mean_of_the_newest_class_is_not_shrunk(own: str) -> None:
    method = slca(own)
    learn(method, TASKS, n_epochs=0)
    scales = [method._scale(one, TASKS[2]) for one in method.classes]
    assert scales == pytest.approx([0.9 + 0.1 / 3] * 2 + [0.9 + 0.2 / 3] * 2 + [1.0] * 2)


def test_it_needs_a_trained_network() -> None:
    with pytest.raises(RecipeError, match="SLCA adapts a trained network"):
        tiny_recipe("slca", "network.backbone=null", "network.backbone_rate=1")
    recipe = tiny_recipe("slca", "compat=paper")
    assert recipe.alignment.shrink == 0  # type: ignore[attr-defined]
