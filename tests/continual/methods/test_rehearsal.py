"""Rehearsal: each loss written out once more, what the buffer gets, and what a checkpoint has to hold."""

from __future__ import annotations

import ast
import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import effcli.continual
from effcli.continual.methods.cls_er import ClsEr
from effcli.continual.methods.rehearsal import IncrementalMethod, cross_entropy
from tests.continual.streams import begin, learn, seed, step, tiny_method, tiny_tasks

NO_AUGMENTATION = ("augment.pad=0", "augment.flip=0")
HOSTS = ["er", "derpp", "er-ace", "cls-er"]
TASKS = tiny_tasks()
NEW, NEW_LABELS = TASKS[1].train.images[:8], TASKS[1].train.labels[:8]
OLD, OLD_LABELS = TASKS[0].train.images[:4], TASKS[0].train.labels[:4]
OLD_LOGITS = torch.linspace(-1, 1, 16).view(4, 4)


def with_buffer(name: str, *settings: str) -> IncrementalMethod:
    """In its second task, with a buffer of four images that are all drawn each time."""
    method = tiny_method(name, *NO_AUGMENTATION, "buffer.size=4", "buffer.batch_size=4", *settings)
    method.buffer.offer(OLD, OLD_LABELS, OLD_LOGITS if name == "derpp" else None)
    begin(method, TASKS[1])
    return method


def logits_of(method: IncrementalMethod, *batches: Tensor) -> list[Tensor]:
    """Of batches through the network after each other, in training mode, which leaves no trace."""
    network = copy.deepcopy(method.learner.classifier)
    return [network((one.float() / 255 - 0.5) / 0.25) for one in batches]


@pytest.mark.parametrize("name", [*HOSTS, "sgd"])
def test_the_first_task_is_plain_cross_entropy(name: str) -> None:
    method = tiny_method(name, *NO_AUGMENTATION)
    begin(method, TASKS[0])
    x, y = TASKS[0].train.images[:8], TASKS[0].train.labels[:8]
    wanted = F.cross_entropy(logits_of(method, x)[0], y)
    terms = method.loss(x, y)
    assert list(terms) == ["ce"]
    torch.testing.assert_close(terms["ce"], wanted)


@pytest.mark.parametrize("name", ["er", "cls-er"])
def test_one_pass_averages_over_new_and_kept_images(name: str) -> None:
    method = with_buffer(name, "passes=joint")
    both = logits_of(method, torch.cat([NEW, OLD]))[0]
    wanted = F.cross_entropy(both, torch.cat([NEW_LABELS, OLD_LABELS]))
    torch.testing.assert_close(method.loss(NEW, NEW_LABELS)["ce"], wanted)


@pytest.mark.parametrize("name", ["er", "cls-er"])
def test_two_passes_add_two_losses(name: str) -> None:
    method = with_buffer(name, "passes=separate")
    new, old = logits_of(method, NEW, OLD)
    terms = method.loss(NEW, NEW_LABELS)
    torch.testing.assert_close(terms["ce"], F.cross_entropy(new, NEW_LABELS))
    torch.testing.assert_close(terms["replay"], F.cross_entropy(old, OLD_LABELS))


def test_passes_are_apart_in_the_frequency_domain_alone() -> None:
    assert "replay" not in with_buffer("er").loss(NEW, NEW_LABELS)
    method = tiny_method("er", "frequency.enabled=true")
    learn(method, TASKS[:1])
    begin(method, TASKS[1])
    assert "replay" in method.loss(NEW, NEW_LABELS)


def test_derpp_pulls_towards_kept_logits_and_labels() -> None:
    method = with_buffer("derpp", "alpha=0.3", "beta=0.7")
    new, old = logits_of(method, NEW, OLD)
    terms = method.loss(NEW, NEW_LABELS)
    torch.testing.assert_close(terms["ce"], F.cross_entropy(new, NEW_LABELS))
    torch.testing.assert_close(terms["logits"], 0.3 * (old - OLD_LOGITS).square().mean())
    torch.testing.assert_close(terms["replay"], 0.7 * F.cross_entropy(old, OLD_LABELS))


def test_derpp_keeps_the_logits_of_the_step_that_an_image_came_in_with() -> None:
    method = tiny_method("derpp", *NO_AUGMENTATION)
    begin(method, TASKS[0])
    x, y = TASKS[0].train.images[:8], TASKS[0].train.labels[:8]
    wanted = logits_of(method, x)[0]
    step(method, method.optimizer(), x, y)
    kept = method.buffer.draw(8)
    assert kept.logits is not None
    for item, label, logits in zip(kept.items, kept.labels, kept.logits, strict=True):
        row = next(k for k in range(8) if torch.equal(x[k], item))
        assert y[row] == label
        torch.testing.assert_close(logits, wanted[row].detach())


def test_er_ace_leaves_old_classes_out_of_the_loss_of_new_images() -> None:
    method = with_buffer("er-ace")
    only = NEW_LABELS == 2
    x, y = NEW[only], NEW_LABELS[only]  # class 3, of the same task, has no image in the batch
    new, old = logits_of(method, x, OLD)
    terms = method.loss(x, y)
    # classes 0, 1 and 3 have been met and are not in the batch: only its own logit is left, and the loss is 0
    torch.testing.assert_close(terms["ce"], F.cross_entropy(new[:, [2]], y - 2))
    torch.testing.assert_close(terms["replay"], F.cross_entropy(old, OLD_LABELS))
    terms = method.loss(NEW, NEW_LABELS)
    new = logits_of(method, NEW)[0]
    torch.testing.assert_close(terms["ce"], F.cross_entropy(new[:, 2:], NEW_LABELS - 2))


def test_er_ace_does_not_leave_future_classes_out() -> None:
    method = tiny_method("er-ace", *NO_AUGMENTATION, "buffer.size=4", "buffer.batch_size=4", n_classes=6)
    method.buffer.offer(OLD, OLD_LABELS)
    begin(method, TASKS[1], n_tasks=3)
    new = logits_of(method, NEW)[0]
    wanted = F.cross_entropy(new[:, 2:], NEW_LABELS - 2)
    torch.testing.assert_close(method.loss(NEW, NEW_LABELS)["ce"], wanted)


# --- CLS-ER's averages -------------------------------------------------------------------------------


def weights_of(method: IncrementalMethod, name: str) -> Tensor:
    return torch.cat([one.flatten().float() for one in getattr(method, name).state_dict().values()]).clone()


def test_an_average_follows_the_closed_form_of_its_decay() -> None:
    """1 - 1 / (n + 1), at most 0.9: the first steps are the plain mean of the network and the start."""
    method = tiny_method("cls-er", "plastic_rate=1.0", "stable_rate=0.0", "decay=0.9")
    begin(method, TASKS[0])
    optimizer = method.optimizer()
    at_first = weights_of(method, "stable")
    average = weights_of(method, "plastic")
    for n in range(1, 13):
        rows = torch.randint(len(TASKS[0].train), (8,))
        step(method, optimizer, TASKS[0].train.images[rows], TASKS[0].train.labels[rows])
        decay = min(1 - 1 / (n + 1), 0.9)
        now = torch.cat([one.flatten().float() for one in method.learner.classifier.state_dict().values()])
        average = decay * average + (1 - decay) * now
    found = weights_of(method, "plastic")
    is_count = torch.cat(
        [
            torch.full((one.numel(),), not one.is_floating_point())
            for one in method.learner.classifier.state_dict().values()
        ]
    )
    torch.testing.assert_close(found[~is_count], average[~is_count], atol=1e-4, rtol=1e-4)
    assert torch.equal(weights_of(method, "stable"), at_first)


def test_each_kept_image_follows_the_average_that_is_surer_of_it() -> None:
    method = with_buffer("cls-er")
    assert isinstance(method, ClsEr)
    torch.manual_seed(5)
    for parameter in method.plastic.parameters():
        parameter.add_(torch.randn_like(parameter))
    m = (OLD.float() / 255 - 0.5) / 0.25
    stable, plastic = method.stable(m), method.plastic(m)
    wanted = torch.stack(
        [
            s if s.softmax(0)[y] > p.softmax(0)[y] else p
            for s, p, y in zip(stable, plastic, OLD_LABELS, strict=True)
        ]
    )
    torch.testing.assert_close(method.remembered(m, OLD_LABELS), wanted)
    old = logits_of(method, OLD)[0]
    ema = method.loss(NEW, NEW_LABELS)["ema"]
    torch.testing.assert_close(ema, 0.15 * (old - wanted).square().mean())


def test_what_cls_er_answers_is_the_stable_average() -> None:
    method = tiny_method("cls-er", "stable_rate=1.0")
    learn(method, TASKS)
    method.learner.eval()
    images = TASKS[0].eval.images
    assert isinstance(method, ClsEr) and not method.stable.training
    torch.testing.assert_close(method.scores(images), method.stable((images.float() / 255 - 0.5) / 0.25))
    assert not torch.allclose(method.scores(images), method.learner.scores(images))


# --- what all of them share --------------------------------------------------------------------------


@pytest.mark.parametrize("name", HOSTS)
def test_images_are_kept_as_they_are_not_as_they_were_augmented(name: str) -> None:
    method = tiny_method(name, "buffer.size=16")
    begin(method, TASKS[0])
    x, y = TASKS[0].train.images[:8], TASKS[0].train.labels[:8]
    step(method, method.optimizer(), x, y)
    kept = method.buffer.draw(8)
    assert kept.items.dtype == torch.uint8
    assert sorted(map(bytes, kept.items.numpy())) == sorted(map(bytes, x.numpy()))


@pytest.mark.parametrize(
    "words", [(h, f) for h in HOSTS for f in ("", "frequency.enabled=true")], ids=" ".join
)
def test_a_checkpoint_holds_all_that_the_next_step_depends_on(words: tuple[str, str]) -> None:
    settings = [one for one in words[1:] if one]
    method = tiny_method(words[0], *settings)
    learn(method, TASKS[:1])
    learner_state, method_state = method.learner.state_dict(), method.state_dict()
    again = tiny_method(words[0], *settings, "seed=1")
    again.learner.load_state_dict(copy.deepcopy(learner_state))
    again.load_state_dict(copy.deepcopy(method_state))
    losses = []
    for one in (method, again):
        seed(3)
        begin(one, TASKS[1])
        optimizer = one.optimizer()
        losses.append([step(one, optimizer, NEW, NEW_LABELS) for _ in range(3)])
    assert losses[0] == losses[1]


@pytest.mark.parametrize("name", [*HOSTS, "e2net"])
def test_a_network_that_grows_keeps_what_it_said_of_old_classes(name: str) -> None:
    method = tiny_method(name, n_classes=2)
    learn(method, TASKS[:1])
    method.learner.eval()
    before = method.scores(OLD)
    method.grow(2)
    after = method.scores(OLD)
    assert after.shape == (4, 4)
    torch.testing.assert_close(after[:, :2], before)
    if name in ("derpp", "e2net"):
        logits = method.buffer.draw(4).logits
        assert logits is not None and logits.shape == (4, 4) and not logits[:, 2:].any()
    method.train()
    begin(method, TASKS[1])
    step(method, method.optimizer(), NEW, NEW_LABELS)


def test_losses_are_float32_in_bfloat16_networks() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        terms = with_buffer("derpp").loss(NEW, NEW_LABELS)
        assert {value.dtype for value in terms.values()} == {torch.float32}
        assert (
            cross_entropy(torch.zeros(2, 3, dtype=torch.bfloat16), torch.tensor([0, 1])).dtype
            == torch.float32
        )


@pytest.mark.parametrize("module", ["er", "derpp", "er_ace", "cls_er", "rehearsal"])
def test_the_methods_do_not_know_of_clfd(module: str) -> None:
    source = (Path(effcli.continual.__file__).parent / "methods" / f"{module}.py").read_text()
    imported: list[Any] = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)]
    assert imported and not any(node.module == "effcli.continual.methods.clfd" for node in imported)
