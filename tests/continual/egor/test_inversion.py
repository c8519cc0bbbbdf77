"""Inversion: what it is pulled by, and that it works on a detector that has learned something."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from effcli.continual.egor import inversion
from effcli.continual.egor.detectors.detector import Targets
from effcli.continual.egor.detectors.feature_statistics import own_statistics, watched_layers
from effcli.continual.egor.detectors.gfl import Gfl, tiny_config
from effcli.continual.egor.inversion import (
    AspectHistogram,
    Pixels,
    StatisticsPrior,
    aspect_histogram,
    augment,
    confidences,
    cut_out,
    invert,
    new_adam,
    sample_boxes,
    to_pictures,
    total_variation,
)
from effcli.continual.egor.recipe import EgorRecipe, InversionSection
from effcli.core.resuming.checkpoint import SaveEvery
from effcli.core.run import open_run
from effcli.core.runtime import create_runtime
from effcli.nn.schedules import cosine, set_rate


def test_total_variation_of_a_constant_and_of_a_ramp() -> None:
    assert float(total_variation(torch.full((1, 3, 8, 8), 0.7))) == 0
    ramp = 0.25 * torch.arange(16.0).expand(1, 3, 16, 16)
    assert float(total_variation(ramp)) == pytest.approx(3 * 0.25)
    assert float(total_variation(ramp.transpose(2, 3))) == pytest.approx(3 * 0.25)


def test_the_batchnorm_prior_is_zero_where_statistics_agree() -> None:
    network: Any = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.BatchNorm2d(5)).eval()
    x = torch.randn(4, 3, 9, 9)
    with torch.no_grad():
        for layer in (1, 3):
            inputs = network[:layer](x)
            network[layer].running_mean.copy_(inputs.mean((0, 2, 3)))
            network[layer].running_var.copy_(inputs.var((0, 2, 3), unbiased=False))
        prior = StatisticsPrior(network, own_statistics(network))
        with prior.watching():
            network(x)
        assert float(prior.value(0.1, 0.3)) == pytest.approx(0, abs=1e-6)
        network[1].running_mean += torch.tensor([3.0, 0, 4, 0, 0])
        network[3].running_var += torch.tensor([0.0, 2, 0, 0, 0])
        with prior.watching():
            inputs = network[2](network[1](network[0](x)))
            network[3].running_mean.copy_(inputs.mean((0, 2, 3)))
            network[3].running_var.copy_(
                inputs.var((0, 2, 3), unbiased=False) + torch.tensor([0, 2.0, 0, 0, 0])
            )
            network[3](inputs)
        assert float(prior.value(0.1, 0.3)) == pytest.approx(0.1 * (5 + 2) + 0.3 * 5, rel=1e-4)
    assert not any(m._forward_pre_hooks for m in network.modules())


def test_frozen_batchnorm_of_torchvision_is_watched_too() -> None:
    assert len(watched_layers(nn.Sequential(FrozenBatchNorm2d(4), nn.GroupNorm(2, 4)))) == 1


def test_adam_without_memory_is_sign_descent() -> None:
    pixels = nn.Module()
    pixels.values = nn.Parameter(torch.zeros(3))
    optimizer = new_adam(pixels, 0.2)
    pixels.values.grad = torch.tensor([1.0, -5.0, 0.001])
    optimizer.step()
    assert pixels.values.tolist() == pytest.approx([-0.2, 0.2, -0.2], abs=2.1e-6)
    rates = []
    for step in range(2000):
        set_rate(optimizer, cosine(step + 1, 2000, 0.2, 0.0))
        rates.append(optimizer.param_groups[0]["lr"])
    assert sum(rates) == pytest.approx(199.9, abs=1e-6)
    assert rates[-1] == 0


def test_pixels_begin_between_0_and_1() -> None:
    torch.manual_seed(0)
    images = Pixels(4, 64).images.detach()
    assert float((images == 0).float().mean()) == pytest.approx(0.5, abs=0.01)
    assert float((images == 1).float().mean()) == pytest.approx(0.159, abs=0.01)
    assert float(images.mean()) == pytest.approx(0.315, abs=0.01)


def test_aspect_histogram() -> None:
    wide = torch.tensor([[0.0, 0, 20, 10]] * 30 + [[0.0, 0, 10, 10]] * 30)
    tall = torch.tensor([[5.0, 5, 15, 45]] * 40)
    outliers = torch.tensor([[0.0, 0, 100, 1]] * 2 + [[0.0, 0, 1, 100]] * 2)
    found = aspect_histogram(torch.cat([wide, tall, outliers]))
    assert sum(found.counts) == 104 - 2 * 5
    assert not [ratio for ratio in found.ratios if -1 < ratio < 1]
    assert min(found.ratios) == -4  # signed: four times as high as wide
    assert aspect_histogram(torch.zeros(0, 4)) == AspectHistogram((1.0,), (1,))


def test_sampled_boxes_are_inside_and_of_the_wanted_form() -> None:
    histograms = [AspectHistogram((-3.0, 1.0, 2.5), (1, 2, 3)), AspectHistogram((1.0,), (5,))]
    boxes, labels = sample_boxes(histograms, 10, (0.6, 0.8), np.random.default_rng(0))
    assert labels.tolist() == [0, 1] * 10
    assert float(boxes.min()) >= 0
    assert float(boxes.max()) <= 1
    sides = boxes[:, 2:] - boxes[:, :2]
    longer = sides.amax(1)
    assert float(longer.min()) >= 0.6 - 1e-6
    assert float(longer.max()) <= 0.8 + 1e-6
    ratios = {round(float(w / h if w >= h else -h / w), 3) for w, h in sides + torch.tensor([1e-6, 0.0])}
    assert ratios == {-3.0, 1.0, 2.5}


def test_augmentation_moves_boxes_along() -> None:
    plain = InversionSection(flip=0, brightness=0, erase=0, shift=0.25)
    mirrored = InversionSection(flip=1, brightness=0, erase=0, shift=0.0)
    image = torch.zeros(1, 3, 32, 32)
    image[..., 10:20, 6:14] = 1.0
    box = torch.tensor([[6.0, 10, 14, 20]])
    for seed in range(8):
        torch.manual_seed(seed)
        moved, boxes = augment(image, box, plain)
        left, top, right, bottom = boxes[0].int().tolist()
        assert float(moved[0, :, top:bottom, left:right].min()) == 1
    turned, boxes = augment(image, box, mirrored)
    assert boxes.tolist() == [[18, 10, 26, 20]]
    assert float(turned[0, :, 10:20, 18:26].min()) == 1
    far = torch.tensor([[0.0, 0, 1, 1]])
    torch.manual_seed(2)
    _, stays = augment(image, far, plain)
    assert ((stays[:, 2:] - stays[:, :2]).prod(1) >= 1).all()


def test_patches_are_missing_from_a_share_of_the_images() -> None:
    torch.manual_seed(0)
    images = torch.ones(400, 3, 32, 32)
    erased, _ = augment(images, torch.zeros(400, 4), InversionSection(flip=0, brightness=0, shift=0.0))
    missing = (erased == 0).float().mean((1, 2, 3))
    assert float((missing > 0).float().mean()) == pytest.approx(0.5, abs=0.08)
    some = missing[missing > 0]
    assert float(some.min()) > 0.01
    assert float(some.max()) < 0.25


def test_pictures_in_both_forms() -> None:
    detector = Gfl(tiny_config(1))
    images = torch.randn(2, 3, 8, 8)
    stretched = to_pictures(detector, images, "minmax")
    assert [int(p.min()) for p in stretched] == [0, 0]
    assert [int(p.max()) for p in stretched] == [255, 255]
    shown = to_pictures(detector, images, "denormalise")
    again = detector.normalise(shown)
    inside = (shown > 0) & (shown < 255)
    assert float((again - images)[inside].abs().max()) < 0.02


def test_objects_are_cut_out() -> None:
    pictures = torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8).expand(1, 3, 8, 8)
    (crop,) = cut_out(pictures, torch.tensor([[2.0, 1, 5, 7]]), torch.tensor([3]))
    assert crop.label == 3
    assert torch.equal(crop.pixels, pictures[0, :, 1:7, 2:5])


BOX = (0.2, 0.1, 0.9, 0.8)


@pytest.fixture(scope="module")
def knows_colours() -> Gfl:
    """A detector that has seen squares of three colours on grey noise for a few seconds."""
    torch.manual_seed(0)
    detector = Gfl(tiny_config(3)).train()
    optimizer = torch.optim.Adam(detector.parameters(), 2e-3)
    for _ in range(240):
        images = torch.rand(8, 3, 32, 32) * 0.4
        labels, sides = torch.randint(3, (8, 1)), torch.randint(14, 26, (8, 2))
        corner = (torch.rand(8, 2) * (32 - sides)).floor().long()
        for i in range(8):
            (x, y), (w, h) = corner[i].tolist(), sides[i].tolist()
            images[i, int(labels[i]), y : y + h, x : x + w] += 0.6
        boxes = torch.cat([corner, corner + sides], 1).float()[:, None]
        valid = torch.ones(8, 1, dtype=torch.bool)
        raw = detector(detector.normalise((images * 255).to(torch.uint8)))
        loss = detector.detection_loss(raw, Targets(boxes, labels, valid)).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return detector


def inverted(
    folder: Path, detector: Gfl, n: int, batch_size: int, iterations: int = 25, **more: Any
) -> tuple[Tensor, list[float]]:
    """Images, and the losses of the first batch."""
    runtime = create_runtime(device="cpu", precision="fp32", seed=3, threads=1)
    run = open_run(folder, EgorRecipe(data={"tasks": 2}), runtime, verb="run", recipe_name="x", **more)
    settings = InversionSection(iterations=iterations, side=32, batch_size=batch_size)
    boxes, labels = torch.tensor([BOX]).expand(n, 4), torch.arange(n) % 3
    with run:
        images = invert(detector, boxes, labels, settings, run, "invert", own_statistics(detector))
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return images, [line["loss"] for line in lines if line["stage"] == "invert-0"]


@pytest.mark.slow
def test_a_detector_finds_what_is_drawn_out_of_it_and_stays_as_it_was(
    tmp_path: Path, knows_colours: Gfl
) -> None:
    before = {name: value.clone() for name, value in knows_colours.state_dict().items()}
    images, losses = inverted(tmp_path / "a", knows_colours, 6, 6, iterations=201)
    assert images.shape == (6, 3, 32, 32)
    assert losses[-1] < 0.5 * losses[0]
    boxes, labels = (torch.tensor([BOX]) * 32).expand(6, 4), torch.arange(6) % 3
    pictures = to_pictures(knows_colours, images, "denormalise")
    scores = confidences(knows_colours, pictures, boxes, labels, torch.device("cpu"))
    assert float((scores > 0.3).float().mean()) >= 0.8
    turned = confidences(knows_colours, pictures, boxes, (labels + 1) % 3, torch.device("cpu"))
    assert float(turned.mean()) < 0.5 * float(scores.mean())
    assert all(torch.equal(value, before[name]) for name, value in knows_colours.state_dict().items())
    assert not any(module._forward_pre_hooks for module in knows_colours.modules())
    assert all(p.requires_grad for p in knows_colours.parameters())
    assert knows_colours.training


@pytest.mark.slow
def test_inversion_depends_on_seed_and_batches_alone(tmp_path: Path, knows_colours: Gfl) -> None:
    first, _ = inverted(tmp_path / "a", knows_colours, 6, 6)
    again, _ = inverted(tmp_path / "b", knows_colours, 6, 6)
    parts, _ = inverted(tmp_path / "c", knows_colours, 6, 4)
    assert torch.equal(again, first)
    assert parts.shape == first.shape
    assert not torch.equal(parts, first)


@pytest.mark.slow
def test_a_resumed_inversion_ends_the_same(
    tmp_path: Path, knows_colours: Gfl, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = knows_colours
    whole, _ = inverted(tmp_path / "whole", detector, 3, 3)
    calls = 0
    plain = inversion.augment

    def fail(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 20:
            raise KeyboardInterrupt
        return plain(*arguments)

    monkeypatch.setattr(inversion, "augment", fail)
    every = SaveEvery.parse("5steps")
    with pytest.raises(KeyboardInterrupt):
        inverted(tmp_path / "cut", detector, 3, 3, save_every=every)
    monkeypatch.setattr(inversion, "augment", plain)
    resumed, _ = inverted(tmp_path / "cut", detector, 3, 3, save_every=every, resume=True)
    assert torch.equal(resumed, whole)
