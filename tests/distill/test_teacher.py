"""The base model's loss against its definition, and that training learns."""

import pytest
import torch

from effcli.distill.teacher import truncated_snr_loss


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_loss_is_the_larger_of_both_errors(kind):
    generator = torch.Generator().manual_seed(0)
    x, eps, off = (torch.randn(4, 1, 3, 3, generator=generator, dtype=torch.float64) for _ in range(3))
    sigma = torch.tensor([0.1, 0.5, 0.8, 0.99], dtype=torch.float64)[:, None, None, None]
    alpha = (1 - sigma**2).sqrt()
    z = alpha * x + sigma * eps
    target = {"epsilon": eps, "sample": x, "v_prediction": alpha * eps - sigma * x}[kind]
    prediction = target + 0.3 * off
    x_hat = {
        "epsilon": (z - sigma * prediction) / alpha,
        "sample": prediction,
        "v_prediction": alpha * z - sigma * prediction,
    }[kind]
    eps_hat = (z - alpha * x_hat) / sigma
    errors = [((a - b) ** 2).mean((1, 2, 3)) for a, b in ((x_hat, x), (eps_hat, eps))]
    expected = torch.maximum(*errors)
    snr = (alpha**2 / sigma**2).flatten()
    torch.testing.assert_close(expected, torch.clamp(snr, min=1) * errors[0])  # RDD, acceptance check 4
    torch.testing.assert_close(truncated_snr_loss(prediction, x, eps, alpha, sigma, kind), expected.mean())
