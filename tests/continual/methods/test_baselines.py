"""LwF, EWC, iCaRL and WA: each loss written out once more, and what is done after a task."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from effcli.continual.methods.baselines.icarl import herded
from effcli.continual.methods.rehearsal import IncrementalMethod
from tests.continual.streams import begin, learn, seed, tiny_method, tiny_tasks

PLAIN = ("augment.pad=0", "augment.flip=0")
TASKS = tiny_tasks()
NEW, LABELS = TASKS[1].train.images[:8], TASKS[1].train.labels[:8]
NAMES = ["lwf", "ewc", "icarl", "wa"]


def second_task(name: str, *settings: str) -> tuple[IncrementalMethod, torch.nn.Module]:
    """A method at the beginning of its second task, and its network as it was then."""
    seed(0)
    method = tiny_method(name, *PLAIN, *settings)
    learn(method, TASKS[:1])
    begin(method, TASKS[1])
    return method, copy.deepcopy(method.learner.classifier)


def seen(images: torch.Tensor) -> torch.Tensor:
    return (images.float() / 255 - 0.5) / 0.25


def kl(old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """At temperature 2, times 4, the mean over rows."""
    p = (old / 2).softmax(1)
    return 4 * (p * (p.log() - (new / 2).log_softmax(1))).sum(1).mean()


def test_lwf_holds_what_the_old_network_says_of_new_images() -> None:
    method, network = second_task("lwf", "distillation_weight=0.5")
    terms = method.loss(NEW, LABELS)
    with torch.no_grad():
        old, new = copy.deepcopy(network).eval()(seen(NEW)), network.train()(seen(NEW))
    torch.testing.assert_close(terms["ce"].detach(), F.cross_entropy(new[:, 2:4], LABELS - 2))
    torch.testing.assert_close(terms["distillation"].detach(), 0.5 * kl(old[:, :2], new[:, :2]))


def test_ewc_holds_weights_by_the_square_of_their_gradients() -> None:
    seed(0)
    method = tiny_method("ewc", *PLAIN, "fisher_images=4", "strength=3.0")
    learn(method, TASKS[:1])
    network: Any = method.learner.classifier.eval()
    task = TASKS[0].train
    wanted = torch.zeros_like(network.head.weight)
    for row in torch.arange(4) * len(task) // 4:
        network.zero_grad()
        F.cross_entropy(network(seen(task.images[row][None])), task.labels[row][None]).backward()
        wanted += network.head.weight.grad.square() / 4
    torch.testing.assert_close(method.fisher["head.weight"], wanted)  # type: ignore[attr-defined]
    begin(method, TASKS[1])
    anchor = network.head.weight.detach().clone()
    with torch.no_grad():
        network.head.weight.add_(0.1)
    method.after_step(NEW, LABELS)
    pull = 3 * method.recipe.train.learning_rate
    torch.testing.assert_close(network.head.weight.detach(), anchor + 0.1 / (1 + pull * wanted))


def test_icarl_asks_for_the_old_networks_answers_on_old_classes() -> None:
    method, network = second_task("icarl", "buffer.batch_size=2")
    method._kept = lambda: (NEW[:0], LABELS[:0])  # type: ignore[attr-defined]
    found = method.loss(NEW, LABELS)["bce"].detach()
    with torch.no_grad():
        old, new = copy.deepcopy(network).eval()(seen(NEW)), network.train()(seen(NEW))
    target = torch.cat([old[:, :2].sigmoid(), F.one_hot(LABELS, 4)[:, 2:].float()], 1)
    torch.testing.assert_close(found, F.binary_cross_entropy_with_logits(new, target) * 4)


def test_icarl_keeps_fewer_of_each_class_as_classes_come() -> None:
    method = tiny_method("icarl", *PLAIN, "buffer.size=8")
    learn(method, TASKS)
    assert [len(one) for one in method.exemplars] == [2, 2, 2, 2]  # type: ignore[attr-defined]
    assert method.sizes() == {"buffer_bytes": 8 * 3 * 8 * 8}


def test_herding_follows_the_mean() -> None:
    features = torch.randn(30, 5)
    chosen = herded(features, 10)
    assert len(set(chosen.tolist())) == 10
    mean = features.mean(0)
    for k in range(10):
        before = features[chosen[:k]].sum(0)
        left = [row for row in range(30) if row not in chosen[:k].tolist()]
        best = min(left, key=lambda row: float((mean - (before + features[row]) / (k + 1)).norm()))
        assert best == chosen[k]


def test_wa_gives_new_classes_the_mean_length_of_old_ones() -> None:
    seed(0)
    method = tiny_method("wa", *PLAIN)
    learn(method, TASKS[:1])
    begin(method, TASKS[1])
    with torch.no_grad():
        method.learner.classifier.head.weight[2:].mul_(7)
    method.end_task(TASKS[1])
    lengths = method.learner.classifier.head.weight.norm(dim=1)
    torch.testing.assert_close(lengths[2:].mean(), lengths[:2].mean())


def test_wa_weighs_distillation_by_the_share_of_old_classes() -> None:
    method, _ = second_task("wa")
    terms = method.loss(NEW, LABELS)
    assert list(terms) == ["ce", "distillation"]
    assert all(bool(one.isfinite()) for one in terms.values())


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_holds_all(name: str) -> None:
    seed(1)
    method = tiny_method(name)
    learn(method, TASKS)
    again = tiny_method(name)
    begin(again, TASKS[1])
    again.learner.load_state_dict(method.learner.state_dict())
    again.load_state_dict(method.state_dict())
    for one in (method, again):
        one.learner.eval()
    images = torch.cat([task.eval.images for task in TASKS])
    assert torch.equal(method.scores(images), again.scores(images))
