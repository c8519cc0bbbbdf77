"""The Frechet distance of Gaussians with a closed form, and the feature spaces."""

import pytest
import torch

from effcli.core.errors import InputError
from effcli.metrics.features import Moments, load_classifier, load_features, save_classifier
from effcli.metrics.frechet import frechet_distance
from effcli.nn.classifiers.small_classifier import SmallClassifier, SmallClassifierConfig
from effcli.nn.efficientnet_lite import lite_network


def test_distance_between_axis_aligned_gaussians():
    mean = torch.tensor([1.0, -2.0], dtype=torch.float64)
    first = Moments(mean, torch.diag(torch.tensor([4.0, 9.0], dtype=torch.float64)), 100)
    second = Moments(0 * mean, torch.diag(torch.tensor([1.0, 1.0], dtype=torch.float64)), 100)
    # |m|^2 + sum (s_1 - s_2)^2 = 5 + 1 + 4
    assert frechet_distance(first, second) == pytest.approx(10, abs=1e-6)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-6)


def test_features_or_their_moments_give_the_same():
    features = torch.randn(50, 3), torch.randn(60, 3) + 1
    assert frechet_distance(*features) == pytest.approx(
        frechet_distance(*(Moments.of(f) for f in features)), rel=1e-9
    )


def test_the_built_in_features_tell_real_clothes_from_noise():
    space = load_features("builtin:fashion-features")
    noise = torch.randint(0, 256, (64, 1, 16, 16), dtype=torch.uint8)
    assert space.reference is not None
    assert frechet_distance(space.features(noise), space.reference) > 10


def test_pixels_take_any_size():
    space = load_features("pixels")
    assert space.features(torch.zeros(3, 3, 40, 24, dtype=torch.uint8)).shape == (3, 3 * 8 * 8)


def test_a_classifier_survives_its_file(tmp_path):
    torch.manual_seed(0)
    network = SmallClassifier(SmallClassifierConfig(channels=1, side=8, width=4, n_classes=3)).eval()
    images = torch.randint(0, 256, (20, 1, 8, 8), dtype=torch.uint8)
    save_classifier(tmp_path / "c.safetensors", network, images)
    again, moments = load_classifier(tmp_path / "c.safetensors", "c")
    space = load_features(str(tmp_path / "c.safetensors"))
    assert moments.n == 20
    torch.testing.assert_close(
        again.features(torch.ones(1, 1, 8, 8)), network.features(torch.ones(1, 1, 8, 8))
    )
    assert frechet_distance(space.features(images), moments) == pytest.approx(0, abs=1e-4)
    with pytest.raises(InputError, match="expects images of 1x8x8, not 3x8x8"):
        space.features(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("name", "message"), [("inception", "unknown feature space"), ("builtin:nothing", "not in the package")]
)
def test_unknown_spaces_are_refused(name, message):
    with pytest.raises(InputError, match=message):
        load_features(name)


@pytest.mark.slow
def test_features_of_efficientnet_lite_are_those_of_timm_with_its_normalisation() -> None:
    images = torch.randint(
        0, 256, (2, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    network, mean, deviation = lite_network()
    assert mean.flatten().tolist() == deviation.flatten().tolist() == [0.5] * 3
    wanted = network(images.float() / 127.5 - 1)
    found = load_features("efficientnet-lite0").features(images)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    assert found.shape == (2, 1280)
