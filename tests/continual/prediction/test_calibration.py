"""Scores that are as often right as they say, and a threshold that most known images reach."""

from __future__ import annotations

import pytest
import torch

from effcli.continual.prediction.calibration import KEPT_SHARE, calibrate, fitting_temperature


def logits_of(n: int, n_classes: int, noise: float, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(0)
    labels = torch.randint(n_classes, (n,), generator=draws)
    clean = torch.nn.functional.one_hot(labels, n_classes).float()
    return scale * (clean + noise * torch.randn(n, n_classes, generator=draws)), labels


@pytest.mark.parametrize("scale", [1e-2, 1.0, 300.0])
@pytest.mark.parametrize("noise", [0.1, 0.5, 1.5])
def test_the_mean_score_is_the_share_of_right_answers(noise: float, scale: float) -> None:
    logits, labels = logits_of(400, 5, noise, scale)
    found = calibrate(logits, labels)
    scores = torch.softmax(logits.double() / found.temperature, 1).amax(1)
    right = int((logits.argmax(1) == labels).sum())
    assert float(scores.mean()) == pytest.approx((right + 1) / 402, abs=1e-6)
    assert float((scores >= found.unknown_below).double().mean()) == pytest.approx(KEPT_SHARE, abs=0.01)
    assert found.n_images == 400


def test_the_scale_of_the_logits_does_not_matter() -> None:
    logits, labels = logits_of(200, 4, 0.7, 1.0)
    wanted = 40 * fitting_temperature(logits, labels)
    assert fitting_temperature(40 * logits, labels) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("label", [0, 1])
def test_one_image_is_enough_whether_right_or_wrong(label: int) -> None:
    found = calibrate(torch.tensor([[1.0, 0.0]]), torch.tensor([label]))
    assert found.temperature > 0 and 0 <= found.unknown_below <= 1
