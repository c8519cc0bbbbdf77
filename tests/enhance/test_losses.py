"""The training loss: closed forms, a slow SSIM, torchmetrics."""

import math

import pytest
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from effcli.enhance.losses import scale_to_mean, ssim_loss, total_variation, training_loss, walmafa_loss


def slow_ssim(x: torch.Tensor, y: torch.Tensor) -> float:
    """Window by window, from the definition."""
    taps = torch.tensor([math.exp(-((i - 5) ** 2) / 4.5) for i in range(11)], dtype=torch.float64)
    window = torch.outer(taps, taps) / taps.sum() ** 2
    values = []
    for a, b in zip(x.double().flatten(0, 1), y.double().flatten(0, 1), strict=True):
        for i in range(a.shape[0] - 10):
            for j in range(a.shape[1] - 10):
                p, q = a[i : i + 11, j : j + 11], b[i : i + 11, j : j + 11]
                mean_p, mean_q = (window * p).sum(), (window * q).sum()
                var_p, var_q = (window * (p - mean_p) ** 2).sum(), (window * (q - mean_q) ** 2).sum()
                covariance = (window * (p - mean_p) * (q - mean_q)).sum()
                luminance = (2 * mean_p * mean_q + 1e-4) / (mean_p**2 + mean_q**2 + 1e-4)
                values.append(luminance * (2 * covariance + 9e-4) / (var_p + var_q + 9e-4))
    return float(torch.stack(values).mean())


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    y = torch.rand(2, 3, 15, 13, generator=generator)
    return y + 0.2 * torch.randn(y.shape, generator=generator), y


def test_ssim_matches_the_definition():
    x, y = pair()
    assert float(ssim_loss(x, y)) == pytest.approx(1 - slow_ssim(x, y), abs=1e-5)


def test_ssim_matches_torchmetrics_away_from_its_padding():
    x, y = (torch.nn.functional.interpolate(t, scale_factor=3.0, mode="bicubic") for t in pair())
    _, ssim_map = structural_similarity_index_measure(x, y, data_range=1.0, return_full_image=True)
    assert float(ssim_loss(x, y)) == pytest.approx(1 - float(ssim_map[..., 5:-5, 5:-5].mean()), abs=1e-5)


def test_ssim_refuses_pictures_smaller_than_its_window():
    with pytest.raises(ValueError, match="at least 11 pixels"):
        ssim_loss(torch.zeros(1, 3, 10, 20), torch.zeros(1, 3, 10, 20))


def test_total_variation_of_unit_steps():
    ramp = torch.arange(6.0).expand(2, 3, 4, 6)  # each horizontal step is 1, each vertical step 0
    assert float(total_variation(ramp)) == pytest.approx(2.0)
    one_step = torch.zeros(1, 1, 4, 6)
    one_step[..., 3:] = 1  # 4 steps of 1 among 4 x 5 horizontal ones
    assert float(total_variation(one_step)) == pytest.approx(2 * 4 / 20)


def test_total_variation_is_the_released_sum():
    x, _ = pair()
    b, c, h, w = x.shape
    vertical = sum(float((x[:, :, i + 1] - x[:, :, i]).square().sum()) for i in range(h - 1))
    horizontal = sum(float((x[..., j + 1] - x[..., j]).square().sum()) for j in range(w - 1))
    expected = 2 * (vertical / (c * (h - 1) * w) + horizontal / (c * h * (w - 1))) / b
    assert float(total_variation(x)) == pytest.approx(expected, rel=1e-5)


def test_loss_of_equal_pictures_is_their_variation():
    _, y = pair()
    assert float(walmafa_loss(y, y)) == pytest.approx(0.05 * float(total_variation(y)), abs=1e-6)
    assert float(walmafa_loss(torch.ones(1, 3, 16, 16), torch.ones(1, 3, 16, 16))) == pytest.approx(
        0, abs=1e-6
    )


def test_weights_of_the_terms():
    x, y = pair()
    l1, ssim, tv = float((x - y).abs().mean()), float(ssim_loss(x, y)), float(total_variation(x))
    assert float(walmafa_loss(x, y)) == pytest.approx(0.95 * (l1 + ssim) + 0.05 * tv, rel=1e-5)
    assert float(walmafa_loss(x, y, tv_weight=0.2)) == pytest.approx(0.8 * (l1 + ssim) + 0.2 * tv, rel=1e-5)
    assert float(walmafa_loss(x, y, ssim=False)) == pytest.approx(0.95 * l1 + 0.05 * tv, rel=1e-5)


def test_loss_is_float32_under_autocast_and_differentiable():
    x, y = pair()
    x.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = walmafa_loss(x, y)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, walmafa_loss(x, y))
    loss.backward()
    assert x.grad is not None and x.grad.isfinite().all() and x.grad.any()


def test_scaling_to_the_mean_undoes_a_gain_of_each_picture():
    _, y = pair()
    darker = y * torch.tensor([0.3, 0.8])[:, None, None, None]
    torch.testing.assert_close(scale_to_mean(darker, y), y)
    assert scale_to_mean(-y, y).isfinite().all()  # early in training the mean may be negative


def test_gradients_do_not_flow_through_the_mean():
    x, y = pair()
    x.requires_grad_()
    scale_to_mean(x, y).sum().backward()
    factor = y.mean((1, 2, 3)) / x.detach().mean((1, 2, 3))
    torch.testing.assert_close(x.grad, factor[:, None, None, None].expand_as(x))


def test_gt_mean_weight_mixes_both_losses():
    x, y = pair()
    aware, blind = walmafa_loss(x, y), walmafa_loss(scale_to_mean(x, y), y)
    assert float(training_loss(x, y, tv_weight=0.05, ssim=True, gt_mean_weight=0.0)) == float(aware)
    mixed = training_loss(x, y, tv_weight=0.05, ssim=True, gt_mean_weight=0.25)
    torch.testing.assert_close(mixed, 0.75 * aware + 0.25 * blind)
