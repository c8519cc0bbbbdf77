"""What a network gives is finite, or an error: no black pictures, no average precision of 0."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from effcli.core.errors import NonFiniteError
from effcli.core.runtime import create_runtime


def broken(network: nn.Module) -> nn.Module:
    """With weights so large that what it computes overflows."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(3e38)
    return network


def not_finite() -> pytest.RaisesExc[NonFiniteError]:
    return pytest.raises(NonFiniteError, match="are NaN or infinite")


def test_brightened_pictures() -> None:
    from effcli.enhance.enhancer import Enhancer

    bright = Enhancer(lambda picture: picture * torch.nan)
    with not_finite():
        bright.enhance(np.full((16, 16, 3), 40, np.uint8))


def test_sampled_images() -> None:
    from effcli.diffusion.conditioning import Guided
    from effcli.diffusion.models import DiffusionModel
    from effcli.diffusion.sampler_settings import SamplerSettings
    from effcli.diffusion.sampling import sample_images
    from tests.diffusion.tiny_models import SCHEDULER, tiny_unet

    unet = broken(tiny_unet())
    guided = Guided(DiffusionModel(unet, SCHEDULER, "tiny"), unet)
    with not_finite():
        sample_images(guided, SamplerSettings(steps=2), 2, 2, create_runtime())


def test_boxes_in_space() -> None:
    from effcli.detect_stream.network import streamdsgn
    from effcli.detect_stream.network.box_decoding import Limits, boxes_of
    from effcli.detect_stream.network.config import TINY

    head = broken(streamdsgn.Head(4, 4))
    with not_finite():
        boxes_of(head(torch.ones(1, 4, 64, 64)), TINY, Limits())


def test_boxes_in_images() -> None:
    from effcli.continual.egor.detectors.gfl import Gfl, GflConfig

    detector = Gfl(GflConfig("tiny", 2, channels=8, n_convs=1, reg_max=4, n_levels=2)).eval()
    with torch.no_grad(), not_finite():
        detector.gfl_cls.weight.fill_(torch.nan)
        detector.detect(torch.zeros(1, 3, 64, 64))
