"""An increment with a trunk that is frozen, and with one that learns."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from effcli.continual.egor.data.detection_sets import DetectionSet, ObjectBoxes, ScaledImages
from effcli.continual.egor.detectors.detector import Detector
from effcli.continual.egor.detectors.gfl import Gfl, tiny_config
from effcli.continual.egor.detectors.nanodet import NanoDetM
from effcli.continual.egor.egor import learn_increment
from effcli.continual.egor.recipe import EgorRecipe
from effcli.core.run import open_run
from effcli.core.runtime import create_runtime


def images() -> ScaledImages:
    """Four of noise with a box each, of the class after the two that are known."""
    torch.manual_seed(5)
    pixels = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    one = ObjectBoxes(torch.tensor([[8.0, 8, 50, 50]]), torch.tensor([2]), torch.tensor([False]))
    names = tuple("abcd")
    found = DetectionSet(lambda i: pixels[i], ((64, 64),) * 4, (one,) * 4, ("x", "y", "new"), names)
    return ScaledImages(found, None, None)


def learned(old: Detector, trunk: str, folder: Path) -> Detector:
    recipe = EgorRecipe(
        data={"tasks": 2},
        composition={"enabled": False},
        learning={"trunk": trunk},
        train={"epochs": 2, "batch_size": 2, "learning_rate": 0.05, "warmup_steps": 0},
    )
    runtime = create_runtime(device="cpu", precision="fp32", seed=0, threads=1)
    detector = copy.deepcopy(old)
    detector.grow(1)
    with open_run(folder, recipe, runtime, verb="run", recipe_name="x") as run:
        learn_increment(detector, copy.deepcopy(old).eval(), images(), [], recipe, run, "train")
    return detector


def is_kept(before: tuple[nn.Module, ...], after: tuple[nn.Module, ...]) -> bool:
    states = [nn.ModuleList(parts).state_dict() for parts in (before, after)]
    return all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@pytest.mark.parametrize("kind", ["gfl", "nanodet"])
def test_a_frozen_trunk_stays_and_the_heads_learn(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    old: Detector = Gfl(tiny_config(2)) if kind == "gfl" else NanoDetM(2)
    frozen = learned(old, "frozen", tmp_path / "frozen")
    assert is_kept(old.trunk, frozen.trunk)  # running statistics of batch norm, too
    assert all(p.requires_grad for p in frozen.parameters())
    inside = {id(p) for part in frozen.trunk for p in part.parameters()}
    heads = {name: p for name, p in frozen.named_parameters() if id(p) not in inside}
    before = dict(old.named_parameters())
    changed = [
        name for name, p in heads.items() if p.shape != before[name].shape or not p.equal(before[name])
    ]
    assert len(changed) == len(heads) > 0
    assert not is_kept(old.trunk, learned(old, "learned", tmp_path / "learned").trunk)


def test_the_old_detector_may_see_the_frozen_trunks_pyramid() -> None:
    torch.manual_seed(0)
    old = Gfl(tiny_config(2)).eval()
    new = copy.deepcopy(old)
    new.grow(1)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(old.heads(new(x).pyramid).logits, old(x).logits)
