"""KID, precision and recall against slow forms and sets whose values are known."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from effcli.distill.evaluation import _against_images, _metrics, kernel_distance, share_within
from effcli.metrics.distance_settings import DistanceSettings
from effcli.metrics.features import load_features, real_features, real_moments


def features(n: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(n, 4, generator=torch.Generator().manual_seed(seed)) + shift


def test_kid_is_the_unbiased_mmd() -> None:
    x, y = features(20, 0).double(), features(20, 1, 0.5).double()

    def kernel(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a @ b.T / 4 + 1) ** 3

    def inner(a: torch.Tensor) -> torch.Tensor:
        return (kernel(a, a).sum() - kernel(a, a).diagonal().sum()) / (20 * 19)

    expected = inner(x) + inner(y) - 2 * kernel(x, y).mean()
    assert kernel_distance(x, y) == pytest.approx(float(expected))
    assert kernel_distance(x, torch.cat([y, x])) == pytest.approx(float(expected))
    assert kernel_distance(x, y[:1]) is None


def test_precision_and_recall_of_half_a_set() -> None:
    left, right = features(200, 0, -50.0), features(200, 1, 50.0)
    real = torch.cat([left, right])
    again = features(200, 2, -50.0)
    assert share_within(again, real) > 0.8
    assert share_within(real, again) == pytest.approx(0.5, abs=0.1)
    assert share_within(right, again) == 0.0
    assert share_within(real, real) == 1.0
    assert share_within(left[:2], left[:2]) == 1.0


def test_measures_by_steps() -> None:
    sampled = {"teacher-8": features(50, 0), "student-2": features(50, 1), "student-1": features(50, 2, 3.0)}
    found = _against_images(sampled, features(300, 3), [1, 2], 8)
    assert set(found["kid_by_steps"]) == {"1", "2"}
    assert found["kid_by_steps"]["1"] > 10 * abs(found["kid_by_steps"]["2"])
    assert found["precision_by_steps"]["1"] < 0.3 < found["precision_teacher"]
    assert found["recall_by_steps"]["1"] < found["recall_teacher"]


@pytest.mark.parametrize("name", ["pixels", "builtin:fashion-features"])
def test_a_single_image_is_compared_with_nothing_and_said(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Image.new("L", (16, 16)).save(tmp_path / "only.png")
    settings, space = DistanceSettings(data=str(tmp_path)), load_features(name)
    like = torch.zeros(4, 1, 16, 16, dtype=torch.uint8)
    assert real_features(settings, space, like) is None
    assert "has a single image" in caplog.text
    assert real_moments(settings, space, like) is None
    images = torch.randint(256, (4, 1, 16, 16), dtype=torch.uint8)
    sampled = {one: {"images": images, "seconds": 1.0} for one in ("teacher-2", "ddim-1", "student-1")}
    found = _metrics(sampled, [1], 2, (1, 16, 16), settings)
    assert found["fd_by_steps"] == {"1": None} and "kid_by_steps" not in found
