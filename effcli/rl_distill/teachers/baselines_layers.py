"""What a policy of Stable-Baselines3 reads observations with: its preprocessing, extractors and linear layers.

Pictures are bytes 0..255 with three axes, channels first; they are divided by 255. Choices are read one-hot. A
``CombinedExtractor`` reads the parts of a Dict in the order of its space, each flat or by a NatureCNN of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np
from torch import Tensor, nn

from effcli.core.errors import InputError, UsageError
from effcli.rl_distill.environments.observations import Observed, Part
from effcli.rl_distill.network.encoders import OneHot, Parts, UnitPicture

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "Tanh": nn.Tanh,
    "ReLU": nn.ReLU,
    "ELU": nn.ELU,
    "LeakyReLU": nn.LeakyReLU,
    "GELU": nn.GELU,
    "SiLU": nn.SiLU,
}
_EXTRACTORS = ("FlattenExtractor", "NatureCNN", "CombinedExtractor")
_REFUSED = ("squash_output", "use_expln", "sde_net_arch")
"""Settings of a policy that change what its weights compute, and that are not read here."""


@dataclass(frozen=True)
class BaselinesSettings:
    """What the readable text of a zip says of its network.

    Attributes:
        activation: of hidden layers; None where the text does not say.
        scales_pictures: bytes are divided by 255.
        keys: of the Dict that it observes, in order; None where the text does not say, or it is no Dict.
        is_dict: whether it observes a Dict; None where the text does not say.
    """

    activation: type[nn.Module] | None
    scales_pictures: bool
    keys: tuple[str, ...] | None
    is_dict: bool | None


def settings_of(data: Mapping[str, Any], file: str) -> BaselinesSettings:
    """Read them.

    Args:
        data: content of ``data`` in the zip.
        file: the zip, for messages.

    Raises:
        InputError: the network has a part or setting that is not known here.
    """
    given = data.get("policy_kwargs")
    kwargs = {str(k): str(v) for k, v in given.items()} if isinstance(given, Mapping) else {}
    activation = _class_name(kwargs.get("activation_fn"))
    if activation is not None and activation not in _ACTIVATIONS:
        raise InputError(f"its activation {activation[:60]!r} is not known", place=file)
    extractor = _class_name(kwargs.get("features_extractor_class"))
    if extractor is not None and extractor not in _EXTRACTORS:
        raise InputError(
            f"its features extractor {extractor[:60]!r} is not known",
            place=file,
            hint=f"known: {', '.join(_EXTRACTORS)}",
        )
    odd = next((name for name in _REFUSED if kwargs.get(name, "None") not in ("None", "False")), None)
    if odd is not None:
        raise InputError(f"was trained with {odd}={kwargs[odd][:60]}, which is not read", place=file)
    space = data.get("observation_space")
    text = {str(k): str(v) for k, v in space.items()} if isinstance(space, Mapping) else {}
    is_dict = text[":type:"].endswith(".Dict'>") if ":type:" in text else None
    keys = tuple(re.findall(r"'([^']+)': [A-Z]\w*\(", text.get("spaces", ""))) if is_dict else None
    return BaselinesSettings(
        _ACTIVATIONS[activation] if activation is not None else None,
        kwargs.get("normalize_images") != "False",
        keys or None,
        is_dict,
    )


def _class_name(text: str | None) -> str | None:
    return None if text is None else re.sub(r".*\.(\w+)'>$", r"\1", text)


def linear_layer(weights: Mapping[str, Tensor], name: str, file: str) -> nn.Linear:
    """The linear layer of a name.

    Raises:
        InputError: it is something else.
    """
    weight, bias = weights.get(f"{name}.weight"), weights.get(f"{name}.bias")
    if weight is None or bias is None or weight.ndim != 2 or bias.shape != weight.shape[:1]:
        raise InputError(f"{name} is not a linear layer with a bias", place=file)
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer.requires_grad_(False)


def linear_layers(weights: Mapping[str, Tensor], layers: str, file: str) -> list[nn.Linear]:
    """All linear layers of a sequence, in order.

    Raises:
        InputError: one of its layers is something else.
    """
    pattern = re.compile(rf"^{re.escape(layers)}\.(\d+)\.weight$")
    numbers = sorted(int(match[1]) for match in map(pattern.match, weights) if match)
    return [linear_layer(weights, f"{layers}.{number}", file) for number in numbers]


def reader(
    weights: Mapping[str, Tensor], extractor: str, observed: Observed, settings: BaselinesSettings, file: str
) -> nn.Module:
    """From observations to what the linear layers read.

    Args:
        weights: of the zip.
        extractor: beginning of the names of its features extractor.
        observed: observations of the environment in which it is to teach.
        settings: of the zip.
        file: the zip, for messages.

    Raises:
        UsageError: the environment does not show what it observes.
        InputError: a convolution is not one of NatureCNN.
    """
    parts = _parts(observed, settings, file)
    is_several = settings.is_dict or (settings.is_dict is None and len(parts) > 1)
    ends = [0, *accumulate(part.n_values for part in observed.parts)]
    found, shapes, places = [], [], []
    for part in parts:
        name = f"{extractor}.extractors.{part.name}" if is_several else extractor
        found.append(nn.Sequential(*_part_reader(weights, name, part, settings, file)))
        shapes.append(part.shape)
        at = observed.parts.index(part)
        places.append((ends[at], ends[at + 1]))
    return found[0] if observed.is_single else Parts(found, shapes, places)


def _parts(observed: Observed, settings: BaselinesSettings, file: str) -> list[Part]:
    """The parts of an observation that the policy reads, in its order."""
    by_name = {part.name: part for part in observed.parts}
    if "" in by_name:
        if settings.is_dict:
            raise UsageError(
                "reads a Dict of observations, but the environment has a single array", place=file
            )
        return [by_name[""]]
    if settings.is_dict is False:
        raise UsageError("reads a single array of observations, not several parts", place=file)
    missing = [key for key in settings.keys or () if key not in by_name]
    if missing:
        raise UsageError(
            f"reads {missing[0]!r}, which the students' environment does not have",
            place=file,
            hint=f"available: {', '.join(map(repr, by_name))}",
        )
    return [by_name[key] for key in settings.keys or sorted(by_name)]


def _part_reader(
    weights: Mapping[str, Tensor], name: str, part: Part, settings: BaselinesSettings, file: str
) -> list[nn.Module]:
    is_bytes = np.dtype(part.dtype) == np.uint8 and part.scale == 255
    scaled = replace(part, scale=255.0 if is_bytes and settings.scales_pictures else 1.0)
    is_image = part.layout in ("chw", "hwc")
    if f"{name}.cnn.0.weight" in weights:
        if not is_image:
            raise UsageError("reads pictures, which the environment does not have", place=file)
        return [UnitPicture(scaled), *_convolutions(weights, name, file)]
    if part.choices:
        return [OneHot(part)]
    return [*([UnitPicture(scaled)] if is_image and is_bytes else []), nn.Flatten()]


def _convolutions(weights: Mapping[str, Tensor], extractor: str, file: str) -> list[nn.Module]:
    """NatureCNN: three convolutions of strides 4, 2 and 1, and a linear layer."""
    found: list[nn.Module] = []
    for number, stride in ((0, 4), (2, 2), (4, 1)):
        name = f"{extractor}.cnn.{number}"
        weight, bias = weights.get(f"{name}.weight"), weights.get(f"{name}.bias")
        if weight is None or bias is None or weight.ndim != 4:
            raise InputError(f"{name} is not a convolution of NatureCNN", place=file)
        layer = nn.Conv2d(weight.shape[1], weight.shape[0], tuple(weight.shape[2:]), stride)  # type: ignore[arg-type]
        layer.load_state_dict({"weight": weight, "bias": bias})
        found += [layer.requires_grad_(False), nn.ReLU()]
    return [*found, nn.Flatten(), linear_layer(weights, f"{extractor}.linear.0", file), nn.ReLU()]
