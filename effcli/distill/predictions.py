"""What diffusion networks predict, as the clean image; and the loss on it. z = alpha x + sigma eps throughout."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

PredictionType = Literal["epsilon", "sample", "v_prediction"]
PREDICTION_TYPES = ("epsilon", "sample", "v_prediction")


def to_x0(prediction: Tensor, z: Tensor, alpha: Tensor, sigma: Tensor, prediction_type: str) -> Tensor:
    """The clean image x^ that a prediction means, ``[B, C, H, W]``.

    ``epsilon``: (z - sigma eps) / alpha; ``sample``: as it is; ``v_prediction``, v = alpha eps - sigma x: alpha z -
    sigma v.

    Args:
        prediction: of the network.
        z: what the network saw.
        alpha, sigma: ``[B, 1, 1, 1]``.
        prediction_type: by its diffusers name.

    Raises:
        KeyError: another name.
    """
    if prediction_type == "epsilon":
        return (z - sigma * prediction) / alpha
    return {"sample": prediction, "v_prediction": alpha * z - sigma * prediction}[prediction_type]


def truncated_snr_loss(x_hat: Tensor, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Mean over the batch of max(mse(x^, x), mse(eps^, eps)) = max(1, SNR) mse(x^, x), SNR = alpha^2 / sigma^2.

    Progressive distillation, "truncated SNR"; RDD, sections 3.3 and 3.4.

    Args:
        x_hat, x: ``[B, C, H, W]``.
        alpha, sigma: ``[B, 1, 1, 1]``.
    """
    weight = (alpha / sigma).square().clamp(min=1).flatten()
    return (weight * (x_hat - x).square().mean((1, 2, 3))).mean()
