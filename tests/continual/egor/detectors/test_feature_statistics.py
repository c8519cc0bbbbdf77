"""Statistics of features: measured, shipped with the detector in the package, and used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from effcli.continual.egor.data.detection_sets import ScaledImages, single_image
from effcli.continual.egor.detectors.feature_statistics import (
    FeatureStatistics,
    channel_moments,
    load_statistics,
    measured_statistics,
    own_statistics,
    save_statistics,
    watched_layers,
    watching,
)
from effcli.continual.egor.detectors.gfl import Gfl, tiny_config
from effcli.continual.egor.detectors.nanodet import NanoDetM
from effcli.continual.egor.inversion import StatisticsPrior
from effcli.continual.egor.objects import statistics_of
from effcli.continual.egor.recipe import InversionSection
from effcli.continual.egor.weights import BUILTIN, load_detector
from effcli.core.errors import InputError
from effcli.core.tensor_file import read_tensors, save_tensors
from effcli.data.images import read_image

EXAMPLES = Path(__file__).resolve().parents[4] / "examples"
CPU = torch.device("cpu")


def pixels(*sizes: tuple[int, int]) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(1, 3, *size) for size in sizes]


def test_moments_of_channels_and_their_gradients() -> None:
    torch.manual_seed(0)
    x = (3 * torch.randn(3, 4, 5, 2, dtype=torch.float64) + 100).requires_grad_()
    channels = x.transpose(0, 1).flatten(1)
    mean, variance = channel_moments(x)
    torch.testing.assert_close(mean, channels.mean(1))
    torch.testing.assert_close(variance, channels.var(1, unbiased=False))
    assert torch.autograd.gradcheck(channel_moments, (x,))
    one = channel_moments(x[:1, :, :1, :1].detach())
    assert torch.equal(one[0], x[0, :, 0, 0]) and torch.equal(one[1], torch.zeros(4, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["batch norm", "folded"])
def test_every_pixel_of_every_image_counts_the_same(kind: str) -> None:
    torch.manual_seed(1)
    network = (Gfl(tiny_config(2)) if kind == "batch norm" else NanoDetM(2)).eval()
    batches = pixels((32, 64), (64, 64))
    found = measured_statistics(network, batches)
    seen: dict[str, list[Tensor]] = {}
    layers = watched_layers(network)
    with torch.no_grad(), watching(layers, lambda name, x: seen.setdefault(name, []).append(x)):
        for images in batches:
            network(images)
    assert found.layers == tuple(seen) and len(found.layers) == (8 if kind == "batch norm" else 55)
    for name, mean, variance in zip(found.layers, found.means, found.variances, strict=True):
        features = torch.cat([one.transpose(0, 1).flatten(1) for one in seen[name]], 1)
        torch.testing.assert_close(mean, features.mean(1), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(variance, features.var(1, unbiased=False), atol=1e-5, rtol=1e-4)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


def test_batch_norm_brings_its_own(tmp_path: Path) -> None:
    network = Gfl(tiny_config(2))
    found = own_statistics(network)
    assert found is not None
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(mean is norm.running_mean for mean, norm in zip(found.means, norms, strict=True))


def test_those_shipped_are_of_the_backbone_in_the_package_alone() -> None:
    detector = load_detector(BUILTIN)[0]
    assert isinstance(detector, NanoDetM)
    found = own_statistics(detector)
    assert found is not None and len(found.layers) == 55
    assert {name: len(mean) for name, mean in zip(found.layers, found.means, strict=True)} == {
        name: layer.out_channels for name, layer in watched_layers(detector).items()
    }
    detector.grow(2)  # the backbone is as it was
    assert own_statistics(detector) is not None
    with torch.no_grad():
        detector.backbone.stem[0].weight[0, 0, 0, 0] += 1.0
    assert own_statistics(detector) is None


def test_a_photograph_is_nearer_to_those_shipped_than_noise_is() -> None:
    detector = load_detector(BUILTIN)[0]
    photo = single_image(read_image(EXAMPLES / "boats.jpg"), 320, None)[0][0][None, :, :192]
    noise = torch.randint(0, 256, photo.shape, dtype=torch.uint8)
    prior = StatisticsPrior(detector, own_statistics(detector))
    distances = []
    for image in (photo, noise):
        with torch.no_grad(), prior.watching():
            detector(detector.normalise(image))
        distances.append(float(prior.value(1.0, 0.0)))
    assert distances[0] < 0.7 * distances[1]


def test_the_recipe_says_which(caplog: pytest.LogCaptureFixture) -> None:
    detector = load_detector(BUILTIN)[0]
    images: ScaledImages = single_image(torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8), 96, None)
    shipped, measured, none = (
        statistics_of(detector, InversionSection(statistics=kind), images, CPU)
        for kind in ("shipped", "images", "none")
    )
    assert none is None and shipped is not None and measured is not None
    assert measured.layers == shipped.layers
    expected = measured_statistics(detector, [detector.normalise(images[0][0][None])])
    assert all(map(torch.equal, measured.means, expected.means))
    assert not all(map(torch.equal, measured.means, shipped.means))
    assert statistics_of(NanoDetM(2).eval(), InversionSection(), images, CPU) is None
    assert "nothing is known of the statistics" in caplog.text
    assert "inversion.statistics=images" in caplog.text


def test_a_file_gives_the_same(tmp_path: Path) -> None:
    found = FeatureStatistics(("a", "b"), (torch.randn(3), torch.randn(2)), (torch.rand(3), torch.rand(2)))
    save_statistics(tmp_path / "s.safetensors", found, {"photographs": "x"})
    again = load_statistics(tmp_path / "s.safetensors", "s")
    assert again.layers == found.layers
    assert all(map(torch.equal, (*again.means, *again.variances), (*found.means, *found.variances)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": json.dumps({"a": 4})}, "its statistics are not of 4 channels"),
        ({"layers": json.dumps({"a": 0})}, "its metadata are damaged: layers"),
        ({"layers": "{}"}, "its metadata are damaged: layers"),
        ({"format": "other"}, "not a file of the format effcli-feature-statistics"),
    ],
)
def test_damaged_files_are_refused(change: dict[str, str], message: str, tmp_path: Path) -> None:
    file = tmp_path / "s.safetensors"
    save_statistics(file, FeatureStatistics(("a",), (torch.zeros(3),), (torch.ones(3),)), {})
    metadata, tensors = read_tensors(file, "s")
    save_tensors(file, tensors, {**metadata, **change})
    with pytest.raises(InputError, match=message):
        load_statistics(file, "s")


def test_negative_variances_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "s.safetensors"
    save_statistics(file, FeatureStatistics(("a",), (torch.zeros(3),), (-torch.ones(3),)), {})
    with pytest.raises(InputError, match="negative variances"):
        load_statistics(file, "s")
