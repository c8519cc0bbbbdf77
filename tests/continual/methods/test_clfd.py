"""CLFD: the wavelet's identities, the two dropouts against loops over classes, and when the encoder stands still."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import pywt
import torch
import torch.nn.functional as F
from torch import Tensor

from effcli.continual.augmentation import random_crop_flip
from effcli.continual.class_splits import ClassTask
from effcli.continual.learner import Classifier
from effcli.continual.methods.clfd import FrequencyLearner, FrequencySelection, similarity
from effcli.continual.methods.frequency_encoder import FrequencyEncoder, bands, top_units
from effcli.continual.methods.rehearsal import IncrementalMethod
from effcli.continual.recipes.rehearsal import FrequencySection
from effcli.continual.stream import load_stream
from effcli.core.errors import RecipeError, UsageError
from effcli.nn.resnet import ResNet18, Widths
from tests.continual.streams import begin, learn, seed, step, tiny_method, tiny_recipe, tiny_tasks

TASKS = tiny_tasks()


def frequency_method(
    host: str = "er", *settings: str, n_classes: int = 4
) -> tuple[IncrementalMethod, FrequencyLearner]:
    method = tiny_method(host, "frequency.enabled=true", *settings, n_classes=n_classes)
    assert isinstance(method.learner, FrequencyLearner)
    return method, method.learner


def selection_of(dim: int = 20, n_classes: int = 4, **settings: Any) -> FrequencySelection:
    return FrequencySelection(n_classes, dim, FrequencySection(**settings))


# --- the encoder -------------------------------------------------------------------------------------


def test_the_four_bands_are_those_of_each_cell() -> None:
    x = torch.randn(2, 3, 6, 8)
    ll, lh, hl, hh = bands(x)
    for i in range(3):
        for j in range(4):
            a, b = x[:, :, 2 * i, 2 * j], x[:, :, 2 * i, 2 * j + 1]
            c, d = x[:, :, 2 * i + 1, 2 * j], x[:, :, 2 * i + 1, 2 * j + 1]
            for band, wanted in (
                (ll, a + b + c + d),
                (lh, a - b + c - d),
                (hl, a + b - c - d),
                (hh, a - b - c + d),
            ):
                torch.testing.assert_close(band[:, :, i, j], wanted / 2)


def test_the_bands_keep_the_energy_and_the_image() -> None:
    x = torch.randn(2, 3, 8, 8)
    ll, lh, hl, hh = bands(x)
    torch.testing.assert_close(sum(one.square().sum() for one in (ll, lh, hl, hh)), x.square().sum())
    a = (ll + lh + hl + hh) / 2
    torch.testing.assert_close(a, x[:, :, ::2, ::2])
    torch.testing.assert_close((ll - lh - hl + hh) / 2, x[:, :, 1::2, 1::2])


def test_the_encoder_has_24_weights_and_halves_the_side() -> None:
    encoder = FrequencyEncoder()
    assert sum(p.numel() for p in encoder.parameters()) == 24
    assert encoder(torch.zeros(2, 3, 32, 32)).shape == (2, 3, 16, 16)
    assert encoder(torch.zeros(2, 3, 64, 64)).shape == (2, 3, 32, 32)
    assert FrequencyEncoder(1)(torch.zeros(2, 1, 28, 28)).shape == (2, 3, 14, 14)


def test_the_paper_s_network_with_the_encoder_has_its_number_of_weights() -> None:
    network = Classifier(ResNet18(Widths.of(64)), 10)
    parts = [*network.parameters(), *FrequencyEncoder().parameters()]
    assert sum(p.numel() for p in parts) == 11_173_986


@pytest.mark.slow
def test_odd_sides_are_refused() -> None:
    with pytest.raises(ValueError):
        FrequencyEncoder()(torch.zeros(1, 3, 7, 8))
    with pytest.raises(UsageError, match="even sides, not 9"):
        load_stream(tiny_recipe("default", "data.source=builtin:fashion-images", "data.side=9"))
    load_stream(
        tiny_recipe("er", "data.source=builtin:fashion-images", "data.side=9", "data.train_per_class=2")
    )


@pytest.mark.parametrize("wavelet", ["db2", "sym4", "bior2.2"])
def test_bands_of_another_wavelet_are_those_of_pywavelets(wavelet: str) -> None:
    x = torch.randn(2, 3, 8, 12)
    ll, (horizontal, vertical, diagonal) = pywt.dwt2(x.numpy(), wavelet, mode="periodization")
    for band, wanted in zip(bands(x, wavelet), (ll, vertical, horizontal, diagonal), strict=True):
        torch.testing.assert_close(band, torch.from_numpy(wanted), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("wavelet", ["haar", "db2", "coif2"])
def test_features_of_black_are_what_the_encoder_makes_of_any_black_image(wavelet: str) -> None:
    _, learner = frequency_method("er", f"frequency.wavelet={wavelet}")
    features = learner.recognise(torch.zeros(1, 3, 8, 8))
    wanted = learner.features_of_black()[None, :, None, None].expand_as(features)
    torch.testing.assert_close(features, wanted, rtol=1e-4, atol=1e-5)


def test_the_wavelet_is_that_of_the_encoder_and_of_the_low_bands() -> None:
    _, learner = frequency_method("er", "frequency.wavelet=sym4")
    assert learner.encoder is not None and learner.encoder.wavelet == "sym4"
    learner.begin_task(TASKS[0], 2)
    images = TASKS[0].train.images[TASKS[0].train.labels == 0]
    wanted = bands(learner.normalised(images), "sym4")[0].flatten(1).sum(0)
    torch.testing.assert_close(learner.low_bands[0], wanted, rtol=1e-4, atol=1e-4)


def test_an_unknown_wavelet_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"frequency\.wavelet: unknown wavelet 'mexh'; available: "):
        tiny_recipe("default", "frequency.wavelet=mexh")


def test_even_crops_before_the_encoder_are_half_crops_after_it() -> None:
    encoder, x = FrequencyEncoder(), torch.randn(1, 3, 16, 16)
    for dy, dx in ((0, 0), (4, 2), (8, 6)):
        padded = F.pad(x, (4,) * 4)
        before = encoder(padded[..., dy : dy + 16, dx : dx + 16])
        after = F.pad(encoder(x), (2,) * 4)[..., dy // 2 : dy // 2 + 8, dx // 2 : dx // 2 + 8]
        torch.testing.assert_close(before, after)


def test_images_are_moved_by_even_numbers_of_pixels() -> None:
    _, learner = frequency_method("er", "augment.flip=0")
    x = torch.arange(64).view(1, 1, 8, 8).expand(64, 3, 8, 8).to(torch.uint8)
    for moved in learner.augmented(x)[:, 0]:
        row, column = (int(one) for one in (moved > 0).nonzero()[0])
        value = int(moved[row, column])
        assert (value // 8 - row) % 2 == 0 and (value % 8 - column) % 2 == 0


# --- which units a class uses ------------------------------------------------------------------------


def test_307_of_512_distinct_units_are_kept_and_they_are_the_largest() -> None:
    z = torch.randn(5, 512)
    kept = top_units(z, FrequencySelection(2, 512, FrequencySection()).n_kept)
    assert kept.sum(1).tolist() == [307] * 5
    for row, mask in zip(z.abs(), kept, strict=True):
        assert row[mask].min() > row[~mask].max()


def test_ties_at_the_border_are_dropped() -> None:
    assert top_units(torch.tensor([[3.0, 2.0, 2.0, 1.0]]), 2).tolist() == [[True, False, False, False]]


def test_all_units_and_open_doors_are_the_host_with_features_alone() -> None:
    method, learner = frequency_method("er", "frequency.kept=1.0")
    assert learner.selection is not None
    learner.selection.keep.fill_(1.0)
    x = torch.randn(6, 3, 4, 4)
    with_selection = learner.classify(x, torch.zeros(6, dtype=torch.long))
    torch.testing.assert_close(with_selection, copy.deepcopy(learner.classifier)(x))
    assert method.recipe.frequency.kept == 1.0


def test_units_are_counted_for_the_class_of_new_images_alone() -> None:
    selection = selection_of()
    z, labels = torch.randn(6, 20), torch.tensor([0, 0, 1, 1, 1, 3])
    selection(z)
    assert not selection.counts.any()
    selection(z, labels)
    kept = top_units(z, 12)
    for c in range(4):
        assert torch.equal(selection.counts[c], kept[labels == c].sum(0).float())


def test_a_closed_unit_is_never_used_and_the_draw_is_one_for_the_batch() -> None:
    selection = selection_of(dim=1000, kept=1.0)
    selection.keep[0], selection.keep[1] = 0.0, 0.5
    out = selection(torch.ones(3, 1000), torch.tensor([0, 1, 1]))
    assert not out[0].any()
    assert torch.equal(out[1], out[2]) and 400 < int(out[1].sum()) < 600


def test_the_first_classes_share_a_fixed_part_and_later_ones_draw() -> None:
    selection = selection_of(dim=512)
    selection.open_for(TASKS[0])
    n_open = math.floor(512 * 1.1 * 0.6)
    assert selection.keep[:2].sum(1).tolist() == [n_open, n_open] and bool(selection.keep[0, :n_open].all())
    selection.open_for(TASKS[1])
    assert bool((selection.keep[2:] == 0.6).all())


@pytest.mark.parametrize("alphas", ["shifted", "equation-4"])
def test_frequency_dropout_is_equation_4(alphas: str) -> None:
    selection = selection_of(alphas=alphas, similarity_weight=0.3)
    selection.counts.copy_(torch.randint(0, 50, (4, 20)))
    s = torch.rand(2, 2) * 0.8 + 0.1
    selection.frequency_dropout([2, 3], s)
    for row, c in enumerate((2, 3)):
        values = [float(s[row, k]) + (1.0 if alphas == "shifted" else 0.0) for k in range(2)]
        most, least = max(range(2), key=values.__getitem__), min(range(2), key=values.__getitem__)
        average = sum(values) / 2
        for j in range(20):
            f_least = float(selection.counts[least, j] / selection.counts[least].max())
            f_most = float(selection.counts[most, j] / selection.counts[most].max())
            wanted = 0.3 * math.exp(-f_least * average / values[least]) + 0.7 * (
                1 - math.exp(-f_most * values[most] / average)
            )
            assert float(selection.keep[c, j]) == pytest.approx(wanted, abs=1e-5)


def test_equally_similar_classes_count_once_each() -> None:
    """Both alphas are 1; what neither class has used is kept with lambda."""
    selection = selection_of(similarity_weight=0.5)
    selection.counts[0, :10] = 7
    selection.frequency_dropout([2], torch.full((1, 2), 0.4))
    used = 0.5 * math.exp(-1) + 0.5 * (1 - math.exp(-1))
    assert selection.keep[2, 0].item() == pytest.approx(used)
    assert selection.keep[2, 15].item() == pytest.approx(0.5)


def test_semantic_dropout_closes_what_was_never_used() -> None:
    selection = selection_of()
    selection.counts[1, :3] = torch.tensor([8.0, 4.0, 0.0])
    selection.semantic_dropout()
    wanted = [1 - math.exp(-2), 1 - math.exp(-1), 0.0]
    assert selection.keep[1, :3].tolist() == pytest.approx(wanted)
    assert wanted[0] == pytest.approx(0.8647, abs=1e-4)
    assert not selection.keep[
        0
    ].any()  # a class without images: everything is closed, and nothing is divided by 0


def test_classes_are_as_similar_as_the_sums_of_their_low_bands() -> None:
    _, learner = frequency_method()
    for task in TASKS:
        learner.begin_task(task, 2)
    sums = []
    for c in range(4):
        images = TASKS[c // 2].train.images[TASKS[c // 2].train.labels == c]
        sums.append(sum(bands((one[None].float() / 255 - 0.5) / 0.25)[0].flatten() for one in images))
    found = similarity(learner.low_bands, range(2, 4))
    for row, c in enumerate((2, 3)):
        for k in range(2):
            wanted = F.cosine_similarity(sums[c], sums[k], dim=0)  # type: ignore[arg-type]
            torch.testing.assert_close(found[row, k], wanted)


# --- the course of the training ----------------------------------------------------------------------


def encodings(learner: FrequencyLearner, tasks: list[ClassTask]) -> Tensor:
    return learner.keep(torch.cat([task.train.images for task in tasks]))


def test_the_encoder_stands_still_after_the_first_task() -> None:
    method, learner = frequency_method("er", "buffer.size=4", n_classes=6)
    assert learner.encoder is not None
    at_first = copy.deepcopy(learner.encoder.state_dict())
    tasks = tiny_tasks(3)
    learn(method, tasks[:1])
    after_one = copy.deepcopy(learner.encoder.state_dict())
    assert any(not torch.equal(at_first[name], after_one[name]) for name in at_first)
    learn(method, tasks[1:])
    assert all(torch.equal(value, after_one[name]) for name, value in learner.encoder.state_dict().items())


@pytest.mark.parametrize("n_epochs", [1, 2, 4])
def test_the_buffer_holds_features_of_the_frozen_encoder_alone(n_epochs: int) -> None:
    method, learner = frequency_method("derpp", "buffer.size=4")
    learn(method, TASKS[:1], n_epochs)
    assert len(method.buffer) == 16 and method.buffer.size == 16  # four times as many
    assert method.buffer.n_seen == len(TASKS[0].train) * n_epochs
    learn(method, TASKS[1:], n_epochs)
    kept, known = method.buffer.draw(16), encodings(learner, TASKS)
    distance = (kept.items.flatten(1)[:, None] - known.flatten(1)).norm(dim=2).min(1)
    assert float(distance.values.max()) < 1e-4
    labels = torch.cat([task.train.labels for task in TASKS])
    assert torch.equal(labels[distance.indices], kept.labels)


def test_features_are_kept_in_half_precision_where_that_is_asked_for() -> None:
    method, _ = frequency_method("er", "buffer.size=4", "buffer.dtype=float16")
    learn(method, TASKS)
    assert method.sizes() == {"buffer_bytes": 16 * (3 * 4 * 4 * 2 + 8)}
    assert method.buffer.draw(4).items.dtype == torch.float32


def test_measuring_and_replaying_leave_no_trace() -> None:
    method, learner = frequency_method("er", "buffer.size=4")
    learn(method, TASKS)
    assert learner.selection is not None
    counts = learner.selection.counts.clone()
    learner.eval()
    once, twice = (method.scores(TASKS[0].eval.images) for _ in range(2))
    assert torch.equal(once, twice)
    learner.train()
    learner.classify(learner.recall(method.buffer.draw(4).items))
    assert torch.equal(learner.selection.counts, counts)


def test_the_first_epoch_of_a_later_task_ends_with_frequency_dropout_the_later_ones_with_semantic() -> None:
    _, learner = frequency_method("er", "frequency.semantic_from=0.4")
    assert learner.selection is not None
    learner.begin_task(TASKS[0], 10)
    learner.begin_task(TASKS[1], 10)
    learner.selection.counts.copy_(torch.randint(1, 9, learner.selection.counts.shape))
    at_first = learner.selection.keep.clone()
    wanted = copy.deepcopy(learner.selection)
    wanted.frequency_dropout(range(2, 4), similarity(learner.low_bands, range(2, 4)))
    learner.end_epoch(TASKS[1], 1, 10)
    assert torch.equal(learner.selection.keep, wanted.keep) and not torch.equal(wanted.keep, at_first)
    for epoch in (2, 3, 4):
        learner.end_epoch(TASKS[1], epoch, 10)
        assert torch.equal(learner.selection.keep, wanted.keep)
    learner.end_epoch(TASKS[1], 5, 10)
    wanted.semantic_dropout()
    assert torch.equal(learner.selection.keep, wanted.keep)


def test_crops_of_kept_features_are_filled_as_if_the_image_had_been_black_there() -> None:
    _, learner = frequency_method("er", "augment.flip=0")
    learner.begin_epoch(TASKS[0], 2, 2)
    assert learner.is_frozen
    images = TASKS[0].train.images[:32]
    seed(1)
    of_images = learner.recognise(random_crop_flip(images, 4, flip=0.0, step=2))
    seed(1)
    of_features = learner.recall(learner.keep(images))
    torch.testing.assert_close(of_images, of_features, atol=1e-5, rtol=1e-5)


def test_a_frozen_encoder_comes_back_frozen_from_a_checkpoint() -> None:
    method, learner = frequency_method("er")
    learn(method, TASKS)
    _, again = frequency_method("er", "seed=1")
    again.load_state_dict(copy.deepcopy(learner.state_dict()))
    assert again.is_frozen and again.selection is not None and learner.selection is not None
    for name in ("counts", "keep"):
        assert torch.equal(getattr(again.selection, name), getattr(learner.selection, name))
    assert torch.equal(similarity(again.low_bands, range(2, 4)), similarity(learner.low_bands, range(2, 4)))


def test_new_classes_get_rows_of_their_own() -> None:
    method, learner = frequency_method("er")
    learn(method, TASKS)
    assert learner.selection is not None
    before = learner.selection.counts.clone()
    method.grow(2)
    assert torch.equal(learner.selection.counts[:4], before) and not learner.selection.counts[4:].any()
    assert learner.low_bands.shape[0] == learner.selection.keep.shape[0] == 6
    third = tiny_tasks(3)[2]
    begin(method, third, n_tasks=3)
    step(method, method.optimizer(), third.train.images[:8], third.train.labels[:8])
    assert bool(learner.selection.counts[4:].any(1).all())


@pytest.mark.parametrize("part", ["encode", "select"])
def test_either_part_can_be_left_out(part: str) -> None:
    method, learner = frequency_method("er", f"frequency.{part}=false")
    learn(method, TASKS)
    assert (learner.encoder is None) == (part == "encode")
    assert (learner.selection is None) == (part == "select")
    assert method.buffer.draw(4).items.dtype == (torch.uint8 if part == "encode" else torch.float32)
    assert method.buffer.size == (8 if part == "encode" else 32)


def test_grey_images(tmp_path: Path) -> None:
    method = tiny_method("er", "frequency.enabled=true", "data.channels=1")
    learn(method, tiny_tasks(channels=1))
    assert method.scores(tiny_tasks(channels=1)[0].eval.images).shape == (8, 4)
