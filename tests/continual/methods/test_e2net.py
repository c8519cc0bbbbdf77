"""E2Net: where it is DER++ to the bit, which subnet it takes, and what its copy and its gate do."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from effcli.continual.methods.e2net import Candidate, E2Net
from effcli.continual.methods.subnets import copy_subnet, draw_subnets, n_parameters, run_subnet, widths_of
from tests.continual.streams import begin, learn, seed, step, tiny_method, tiny_tasks

TASKS = tiny_tasks(3)
SMALL = ("network.width=16", "subnets.candidates=12")


def e2net(*settings: str) -> E2Net:
    method = tiny_method("e2net", *SMALL, *settings, n_classes=6)
    assert isinstance(method, E2Net)
    return method


def statistics_of(method: E2Net) -> list[Tensor]:
    return [value.clone() for name, value in method.learner.state_dict().items() if "running" in name]


def states(name: str, n_tasks: int, *settings: str) -> list[Any]:
    """Weights and buffer after some tasks."""
    method = tiny_method(name, "network.width=16", "train.learning_rate=0.05", *settings, n_classes=6)
    seed(7)
    learn(method, TASKS[:n_tasks])
    kept = method.state_dict()["buffer"]
    return [*method.learner.state_dict().values(), *kept["arrays"].values(), torch.tensor(kept["n_seen"])]


def test_the_first_task_is_der_plus_plus() -> None:
    assert all(map(torch.equal, states("e2net", 1), states("derpp", 1)))


@pytest.mark.slow
def test_without_its_two_parts_every_task_is_der_plus_plus() -> None:
    without = states("e2net", 3, "subnets.distillation=0", "subnets.gate=0")
    assert all(map(torch.equal, without, states("derpp", 3)))
    assert not all(map(torch.equal, states("e2net", 3, "subnets.candidates=4"), states("derpp", 3)))


def test_the_subnet_taken_is_the_best_of_an_obvious_search() -> None:
    method = e2net("subnets.most_parameters=0.3", "subnets.shortlist=5")
    noise = torch.randn(8, 3, 8, 8)
    found = method.look(noise, 10, np.random.default_rng(3))
    network = method.learner.classifier
    whole = sum(p.numel() for p in network.parameters())
    scored = []
    for subnet in draw_subnets(12, 10, network.backbone.widths, None, np.random.default_rng(3)):
        widths = widths_of(subnet, network.backbone.widths, method.recipe.subnets.ratios)
        alone, full = copy_subnet(network, widths).train(), copy.deepcopy(network).train()
        share = round(sum(p.numel() for p in alone.parameters()) / whole, 3)
        with torch.no_grad():
            scored.append(((alone(noise) - full(noise)).square().mean() * math.exp(-share), share, subnet))
    shortlist = sorted(scored, key=lambda one: float(one[0]))[:5]
    wanted = next((one for one in shortlist if one[1] < 0.3), None)
    if wanted is None:
        assert found is None
    else:
        assert found is not None and found.subnet == wanted[2] and found.share == wanted[1]
        assert found.score == pytest.approx(float(wanted[0]), rel=1e-3)


def test_without_the_bonus_for_size_the_distance_alone_counts() -> None:
    noise = torch.randn(8, 3, 8, 8)
    with_bonus, without = (
        e2net(f"subnets.size_bonus={word}").look(noise, 10, np.random.default_rng(3))
        for word in ("true", "false")
    )
    assert with_bonus is not None and without is not None
    if with_bonus.subnet == without.subnet:
        assert with_bonus.score == pytest.approx(without.score * math.exp(-without.share), rel=1e-5)
    assert with_bonus.score <= without.score


@pytest.mark.slow
def test_where_nothing_is_small_enough_nothing_is_taken() -> None:
    method = e2net("subnets.most_parameters=0.001")
    assert method.look(torch.randn(8, 3, 8, 8), 10, np.random.default_rng(0)) is None
    learn(method, TASKS)
    assert method.share == 0.0 and method.teacher is None


@pytest.mark.slow
def test_subnets_grow_and_stay_below_the_cap() -> None:
    method = e2net()
    learn(method, TASKS[:2])
    assert method.chosen is not None
    chosen = [method.chosen]
    learn(method, TASKS[2:])
    chosen.append(method.chosen)
    assert chosen[1].subnet.contains(chosen[0].subnet)
    network = method.learner.classifier
    whole = n_parameters(network.backbone.widths, 3, 6)
    assert all(n_parameters(one.widths, 3, 6) < 0.95 * whole for one in chosen)


def test_a_search_leaves_statistics_alone() -> None:
    method = e2net()
    learn(method, TASKS[:1])
    before = statistics_of(method)
    method.look(torch.randn(8, 3, 8, 8), 10, np.random.default_rng(0))
    assert all(map(torch.equal, before, statistics_of(method)))


def test_the_copy_does_not_change_while_the_network_learns() -> None:
    method = e2net()
    learn(method, TASKS[:1])
    begin(method, TASKS[1], n_tasks=3)
    assert method.teacher is not None
    before = copy.deepcopy(method.teacher.state_dict())
    optimizer = method.optimizer()
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in method.learner.parameters()}
    for _ in range(3):
        terms = step(method, optimizer, TASKS[1].train.images[:8], TASKS[1].train.labels[:8])
        assert float(terms["distillation"]) >= 0
    assert all(torch.equal(value, before[name]) for name, value in method.teacher.state_dict().items())


def test_distillation_starts_at_zero_and_is_the_distance_of_the_logits() -> None:
    method = e2net("augment.pad=0", "augment.flip=0", "subnets.distillation=0.5")
    learn(method, TASKS[:1])
    begin(method, TASKS[1], n_tasks=3)
    images, labels = TASKS[1].train.images[:8], TASKS[1].train.labels[:8]
    assert float(method.loss(images, labels)["distillation"].detach()) == pytest.approx(0, abs=1e-10)
    optimizer = method.optimizer()
    for _ in range(3):
        step(method, optimizer, images, labels)
    assert method.chosen is not None and method.teacher is not None
    x = (images.float() / 255 - 0.5) / 0.25
    alone = copy_subnet(method.learner.classifier, method.chosen.widths).train()
    wanted = 0.5 * (alone(x) - copy.deepcopy(method.teacher).train()(x)).square().mean()
    found = method.loss(images, labels)["distillation"].detach()
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-6)
    assert float(found) > 0


@pytest.mark.parametrize(("statistics", "n_batches"), [("kept", 1), ("updated", 2)])
def test_who_writes_into_running_statistics(statistics: str, n_batches: int) -> None:
    """In the first layer, whose input no weight changes: once by the network, and once more by the subnet."""
    method = e2net(f"subnets.statistics={statistics}", "augment.pad=0", "augment.flip=0")
    learn(method, TASKS[:1])
    method.buffer.clear()
    begin(method, TASKS[1], n_tasks=3)
    norm, images = method.learner.classifier.backbone.bn, TASKS[1].train.images[:8]
    assert norm.running_mean is not None
    x = method.learner.classifier.backbone.conv((images.float() / 255 - 0.5) / 0.25)
    wanted, mean = norm.running_mean[0].clone(), x[:, 0].mean()
    for _ in range(n_batches):
        wanted = 0.9 * wanted + 0.1 * mean
    method.loss(images, TASKS[1].train.labels[:8])
    torch.testing.assert_close(norm.running_mean[0], wanted.detach(), atol=1e-5, rtol=1e-4)


def test_the_larger_the_subnet_the_fewer_batches_are_offered() -> None:
    method = e2net()
    begin(method, TASKS[0])
    images, labels = TASKS[0].train.images[:8], TASKS[0].train.labels[:8]
    method.loss(images, labels)
    for _ in range(20):
        method.after_step(images, labels)
    assert method.buffer.n_seen == 160  # nothing is held back in the first task
    widths = method.learner.classifier.backbone.widths
    method.chosen = Candidate(subnet=None, widths=widths, share=0.5, score=0.0)  # type: ignore[arg-type]
    seed(0)
    for _ in range(2000):
        method.after_step(images, labels)
    admitted = (method.buffer.n_seen - 160) / 8 / 2000
    assert admitted == pytest.approx(math.exp(-0.375), abs=0.03)


@pytest.mark.slow
def test_a_checkpoint_holds_copy_choice_and_share() -> None:
    method = e2net()
    learn(method, TASKS[:2])
    learner, state = copy.deepcopy((method.learner.state_dict(), method.state_dict()))
    again = e2net("seed=1")
    again.learner.load_state_dict(learner)
    again.load_state_dict(state)
    assert again.chosen == method.chosen and again.share == method.share
    images, labels = TASKS[2].train.images[:8], TASKS[2].train.labels[:8]
    losses = []
    for one in (method, again):
        seed(3)
        begin(one, TASKS[2], n_tasks=3)
        optimizer = one.optimizer()
        losses.append([step(one, optimizer, images, labels) for _ in range(2)])
    assert losses[0] == losses[1]
    assert method.sizes() == again.sizes() and method.sizes()["teacher_bytes"] > 0


def test_the_subnet_of_the_network_is_what_is_distilled() -> None:
    """Channels outside the subnet get no gradient of the distillation."""
    method = e2net()
    learn(method, TASKS[:1])
    begin(method, TASKS[1], n_tasks=3)
    assert method.chosen is not None and method.teacher is not None
    x = torch.randn(8, 3, 8, 8)
    network, widths = method.learner.classifier, method.chosen.widths
    network.zero_grad()
    run_subnet(network, widths, x, "batch").square().mean().backward()
    weight = network.backbone.blocks[0].conv1.weight
    assert weight.grad is not None
    inside = weight.grad[: widths.mids[0], : widths.outs[0]]
    assert bool(inside.any()) and int((weight.grad != 0).sum()) == int((inside != 0).sum())
