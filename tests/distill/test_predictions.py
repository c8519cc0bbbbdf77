"""Clean images from what networks predict, and the loss, against their definitions."""

import pytest
import torch

from effcli.distill.predictions import PREDICTION_TYPES, to_x0, truncated_snr_loss


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_the_right_prediction_means_the_clean_image(kind):
    x, eps, alpha, sigma = parts()
    prediction = {"epsilon": eps, "sample": x, "v_prediction": alpha * eps - sigma * x}[kind]
    torch.testing.assert_close(to_x0(prediction, alpha * x + sigma * eps, alpha, sigma, kind), x)


def test_loss_is_the_larger_of_both_errors():
    x, eps, alpha, sigma = parts()
    x_hat = x + 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    eps_hat = (alpha * x + sigma * eps - alpha * x_hat) / sigma
    errors = [((a - b) ** 2).mean((1, 2, 3)) for a, b in ((x_hat, x), (eps_hat, eps))]
    torch.testing.assert_close(truncated_snr_loss(x_hat, x, alpha, sigma), torch.maximum(*errors).mean())


def parts():
    generator = torch.Generator().manual_seed(0)
    x, eps = (torch.randn(4, 1, 3, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    sigma = torch.tensor([0.1, 0.5, 0.8, 0.99], dtype=torch.float64)[:, None, None, None]
    return x, eps, (1 - sigma**2).sqrt(), sigma
