"""IR: features that hold still, prototypes, and nothing kept of the images."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from effcli.continual.class_splits import ClassTask
from effcli.continual.evaluation.accuracy_matrix import forgetting
from effcli.continual.methods.ir import Ir, class_means, compensated, linear_layer, space_distance
from effcli.continual.training import Learned, learn_stream
from effcli.core.errors import EffcliError
from effcli.core.run import open_run
from effcli.core.runtime import create_runtime
from tests.continual.streams import begin, learn, seed, step, tiny_method, tiny_recipe, tiny_tasks

TASKS = tiny_tasks(3)
PLAIN = ("augment.pad=0", "augment.flip=0", "augment.brightness=0")


def ir(name: str = "ir", *settings: str) -> Ir:
    method = tiny_method(name, *settings, n_classes=6)
    assert isinstance(method, Ir)
    return method


def run_stream(folder: Path, name: str, *settings: str) -> tuple[Learned, Any]:
    recipe: Any = tiny_recipe(name, *settings)
    with open_run(folder, recipe, create_runtime(device="cpu"), verb="run", recipe_name=name) as run:
        return learn_stream(recipe, TASKS, TASKS, ((0.5,) * 3, (0.25,) * 3), 6, run), recipe


def features_of(method: Ir, task: ClassTask) -> torch.Tensor:
    method.learner.eval()
    with torch.no_grad():
        found: torch.Tensor = method.backbone(method.learner.recognise(task.train.images))
    method.train()
    return found


# --- the loss ----------------------------------------------------------------------------------------


def test_the_first_task_is_supervised_learning_of_the_enlarged_classes() -> None:
    method = ir("ir", *PLAIN)
    begin(method, TASKS[0])
    x, y = TASKS[0].train.images[:8], TASKS[0].train.labels[:8]
    turned = torch.stack([(x.float() / 255 - 0.5).div(0.25).rot90(r, (2, 3)) for r in range(4)], 1).flatten(
        0, 1
    )
    logits = copy.deepcopy(method.head)(copy.deepcopy(method.backbone)(turned)) / 0.1
    labels = (4 * y[:, None] + torch.arange(4)).flatten()
    terms = method.loss(x, y)
    assert list(terms) == ["ce"]
    torch.testing.assert_close(terms["ce"], F.cross_entropy(logits, labels))
    assert method.head.out_features == 8


def test_the_temporary_classifier_is_of_the_tasks_own_classes_and_is_not_kept() -> None:
    method = ir()
    learn(method, TASKS)
    assert method.head.out_features == 4 * 2
    assert not any("head" in name and "classifier" not in name for name in method.learner.state_dict())
    assert method.exported().head.out_features == 6


@pytest.mark.parametrize("reduction", ["batch", "mean"])
def test_space_distance(reduction: str) -> None:
    a, b = torch.randn(7, 5), torch.randn(7, 5)
    rows = [float((x - y).norm()) for x, y in zip(a, b, strict=True)]
    wanted = float(torch.dist(a, b)) if reduction == "batch" else sum(rows) / 7
    assert float(space_distance(a, b, reduction)) == pytest.approx(wanted, rel=1e-5)
    if reduction == "batch":
        assert wanted == pytest.approx(np.sqrt(7) * np.sqrt(np.mean(np.square(rows))), rel=1e-5)
    same = a.clone().requires_grad_()
    found = space_distance(same, a, reduction)
    found.backward()
    assert float(found.detach()) < 1e-5 and same.grad is not None and not same.grad.isnan().any()


def test_the_old_features_stand_still_and_need_no_gradient() -> None:
    method = ir()
    learn(method, TASKS[:1])
    begin(method, TASKS[1])
    assert method.old is not None and not method.old.training
    assert not any(p.requires_grad for p in method.old.parameters())
    before = copy.deepcopy(method.old.state_dict())
    optimizer = method.optimizer()
    for _ in range(2):
        terms = step(method, optimizer, TASKS[1].train.images[:8], TASKS[1].train.labels[:8])
        assert set(terms) == {"ce", "space"}
    assert all(torch.equal(value, before[name]) for name, value in method.old.state_dict().items())
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in (*method.backbone.parameters(), *method.head.parameters())}


def test_without_weight_and_enlargement_it_is_fine_tuning() -> None:
    method = ir("ir", "ir.space_weight=0", "ir.enlarge=none", "ir.temperature=1", *PLAIN)
    learn(method, TASKS[:1])
    begin(method, TASKS[1])
    x, y = TASKS[1].train.images[:8], TASKS[1].train.labels[:8]
    logits = copy.deepcopy(method.head)(copy.deepcopy(method.backbone)(x.float().div(255).sub(0.5).div(0.25)))
    terms = method.loss(x, y)
    assert list(terms) == ["ce"]
    torch.testing.assert_close(terms["ce"], F.cross_entropy(logits, y - 2))


@pytest.mark.slow
def test_a_large_weight_holds_the_features() -> None:
    drifts = []
    for weight in (0, 1e4):
        method = ir("ir", f"ir.space_weight={weight}", "ir.freeze_statistics=true")
        seed(0)
        learn(method, TASKS[:1], 4)
        learn(method, TASKS[1:2], 4)
        drifts.append(method.report()["drift"])
    assert drifts[1] < 0.5 * drifts[0]


def test_statistics_can_be_frozen_after_the_first_task() -> None:
    method = ir("ir", "ir.freeze_statistics=true")
    learn(method, TASKS[:1])
    before = {name: v.clone() for name, v in method.backbone.state_dict().items() if "running" in name}
    begin(method, TASKS[1])
    method.train()
    step(method, method.optimizer(), TASKS[1].train.images[:8], TASKS[1].train.labels[:8])
    after = method.backbone.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_the_rate_is_divided_by_ten_after_45_and_90_of_101_epochs() -> None:
    method = tiny_method("ir", "train.learning_rate=1", "train.decay_every=0.4455")
    per_epoch, n_steps = 10, 1010
    rates = [method.rate(epoch * per_epoch, n_steps) for epoch in range(101)]
    assert rates[44] == 1.0 and rates[46] == pytest.approx(0.1)
    assert rates[89] == pytest.approx(0.1) and rates[91] == pytest.approx(0.01)


# --- prototypes --------------------------------------------------------------------------------------


def test_a_prototype_is_the_mean_of_its_class() -> None:
    features, labels = torch.randn(9, 4), torch.tensor([0, 1, 2, 2, 2, 0, 1, 0, 0])
    found = class_means(features, labels, 3)
    for c in range(3):
        torch.testing.assert_close(found[c], features[labels == c].mean(0))


def test_the_largest_logit_is_the_nearest_prototype() -> None:
    features, prototypes = torch.randn(50, 8), torch.randn(6, 8) * torch.rand(6, 1) * 3
    weight, bias = linear_layer(prototypes, "euclidean")
    nearest = torch.cdist(features, prototypes).argmin(1)
    assert torch.equal((features @ weight.T + bias).argmax(1), nearest)
    weight, bias = linear_layer(prototypes, "cosine")
    cosines = F.cosine_similarity(features[:, None], prototypes[None], dim=2)
    assert torch.equal((features @ weight.T + bias).argmax(1), cosines.argmax(1))


def test_one_vector_a_class_is_kept_and_no_image() -> None:
    method = ir()
    learn(method, TASKS)
    state = method.state_dict()
    assert state["prototypes"].shape == (6, method.backbone.dim)
    assert set(state) == {"prototypes", "head", "old"}
    assert method.sizes() == {"prototype_bytes": 6 * method.backbone.dim * 4}
    assert len(method.buffer) == 0


def test_every_seen_class_can_be_answered_and_no_other() -> None:
    method = ir()
    for n, task in enumerate(TASKS, 1):
        learn(method, [task])
        method.learner.eval()
        assert method.scores(TASKS[0].eval.images).shape == (8, 2 * n)
        method.train()


def test_drift_moves_prototypes_by_what_near_features_did() -> None:
    torch.manual_seed(0)
    prototypes, before, moved = torch.randn(3, 4), torch.randn(20, 4), torch.randn(20, 4)
    found = compensated(prototypes, before, moved, 0.3)
    sigma = 0.3 * float(np.mean([float(row.norm()) for row in before]))
    for k in range(3):
        weights = [float(torch.exp(-(prototypes[k] - row).square().sum() / (2 * sigma**2))) for row in before]
        total = sum(w * m for w, m in zip(weights, moved, strict=True)) / sum(weights)
        torch.testing.assert_close(found[k], prototypes[k] + total, atol=1e-4, rtol=1e-4)
    shifted = compensated(prototypes, before, torch.ones(20, 4), 0.3)
    torch.testing.assert_close(shifted, prototypes + 1)


def test_drift_far_from_all_features_is_no_number_that_is_missing() -> None:
    found = compensated(torch.full((1, 4), 100.0), torch.randn(5, 4), torch.ones(5, 4), 0.3)
    torch.testing.assert_close(found, torch.full((1, 4), 101.0))


def test_frozen_features_forget_nothing_within_a_task(tmp_path: Path) -> None:
    learned, _ = run_stream(tmp_path / "run", "frozen-ncm")
    method = learned.method
    assert isinstance(method, Ir)
    for task in TASKS:
        means = class_means(features_of(method, task), task.train.labels - task.first_class, 2)
        torch.testing.assert_close(
            method.prototypes[task.first_class : task.end_class], means, atol=1e-5, rtol=1e-4
        )
    rows = np.full((3, 3), np.nan)
    for k, row in enumerate(learned.rows):
        rows[k, : k + 1] = row.task_il
    assert forgetting(rows) == 0.0


def test_no_epochs_after_the_first_task_add_prototypes_alone(tmp_path: Path) -> None:
    learned, _ = run_stream(tmp_path / "run", "ir", "train.epochs=0")
    control, _ = run_stream(tmp_path / "control", "frozen-ncm")
    assert isinstance(learned.method, Ir) and isinstance(control.method, Ir)
    assert torch.equal(learned.method.prototypes, control.method.prototypes)
    assert learned.method.report()["drift"] == 0.0


def test_frozen_features_cannot_drift() -> None:
    with pytest.raises(EffcliError, match="do not drift"):
        tiny_recipe("frozen-ncm", "ir.prototypes=sdc")


def test_drift_compensation_moves_old_prototypes_alone() -> None:
    kept, moved = ir(), ir("ir", "ir.prototypes=sdc")
    for method in (kept, moved):
        seed(0)
        learn(method, TASKS[:2])
    assert not torch.allclose(kept.prototypes[:2], moved.prototypes[:2])
    assert torch.equal(kept.prototypes[2:], moved.prototypes[2:])


def test_a_checkpoint_holds_all_that_the_next_step_depends_on() -> None:
    method = ir()
    learn(method, TASKS[:1])
    begin(method, TASKS[1])
    optimizer = method.optimizer()
    images, labels = TASKS[1].train.images[:8], TASKS[1].train.labels[:8]
    step(method, optimizer, images, labels)
    states = copy.deepcopy((method.learner.state_dict(), method.state_dict(), optimizer.state_dict()))
    again = ir("ir", "seed=1")
    begin(again, TASKS[1])
    optimizer_again = again.optimizer()
    again.learner.load_state_dict(states[0])
    again.load_state_dict(states[1])
    optimizer_again.load_state_dict(states[2])
    losses = []
    for one, its in ((method, optimizer), (again, optimizer_again)):
        seed(3)
        losses.append([step(one, its, images, labels) for _ in range(3)])
    assert losses[0] == losses[1]
