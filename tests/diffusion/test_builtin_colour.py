"""The colour model in the package makes pictures of the class it is told."""

import pytest
import torch

from effcli.core.runtime import create_runtime
from effcli.core.tensor_file import builtin_file
from effcli.diffusion.conditioning import Guided
from effcli.diffusion.models import load_model
from effcli.diffusion.sampler_settings import SamplerSettings
from effcli.diffusion.sampling import sample_images
from effcli.metrics.features import FORMAT, load_classifier

RESNET = "builtin:cifar10-resnet56"
N = 20


@pytest.mark.slow
def test_guided_pictures_are_of_their_class() -> None:
    """A classifier that the model has not seen finds the class of most; by chance it would be one in ten."""
    model = load_model("builtin:colour-diffusion")
    guided = Guided(model, model.unet, guidance=3.0)
    assert (model.sample_shape, guided.null_class) == ((3, 32, 32), 10)
    labels = torch.arange(N) % 10
    runtime = create_runtime(device="cpu", precision="fp32")
    images = sample_images(guided, SamplerSettings(steps=8), N, N, runtime, labels=labels)
    with builtin_file(RESNET, FORMAT) as file:
        classifier, _ = load_classifier(file, RESNET)
    found = classifier.eval()(images).argmax(1)
    assert int((found == labels).sum()) >= 8
