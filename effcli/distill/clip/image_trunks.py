"""Trained image towers for a student: those of timm and torchvision, by name or as a file."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from effcli.core.errors import InputError
from effcli.core.tensor_file import require_finite
from effcli.distill.clip.clip_model import ClipModel

TORCHVISION = "torchvision:"
_CLASSIFIERS = ("fc", "classifier", "heads", "head")
_PLACE = "init.image"
_CLOSE = 1e-3
"""Largest difference of outputs, as a share of the largest output, of one network in two libraries."""


def load_trunk(student: ClipModel, source: str) -> None:
    """Set the weights of a student's timm trunk in place.

    Args:
        student: with a configuration that has a timm_model_name.
        source: ``timm``: the weights that timm has for the trunk; ``torchvision:NAME``: those of a model of
            torchvision that is the same network, which its outputs have to show; or a file with a state dict by timm's
            names.

    Raises:
        InputError: the student has no such trunk, or the weights are not there or do not fit.
    """
    name = student.config["vision_cfg"].get("timm_model_name")
    if not name:
        raise InputError(
            f"the image tower of {student.source} is not one of timm",
            place=_PLACE,
            hint="choose a student with a timm trunk, such as ResNet-18, MobileNetV3-S or EfficientNet-B0",
        )
    trunk: nn.Module = student.network.visual.trunk  # type: ignore[union-attr, assignment]
    if source == "timm":
        weights = _of_timm(name)
    elif source.startswith(TORCHVISION):
        weights = _of_torchvision(source, trunk)
    else:
        weights = _of_file(Path(source))
    _load(trunk, weights, source)


def _load(trunk: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    wanted = trunk.state_dict()
    missing = [key for key in wanted if key not in weights or weights[key].shape != wanted[key].shape]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(wanted)} weights are missing or of another shape, such as {missing[0]}",
            place=source,
        )
    require_finite({key: weights[key] for key in wanted}, source)
    trunk.load_state_dict({key: weights[key] for key in wanted})


def _of_timm(name: str) -> dict[str, Tensor]:
    import timm

    try:
        return dict(timm.create_model(name, pretrained=True, num_classes=0).state_dict())
    except Exception as error:  # no network, no such tag: timm and the hub fail in any way
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"timm's weights of {name} cannot be loaded: {reason}",
            place=_PLACE,
            hint="they are downloaded the first time; or name a file",
        ) from None


def _of_file(file: Path) -> dict[str, Tensor]:
    from open_clip.factory import load_state_dict

    if not file.is_file():
        raise InputError(
            "no such file", place=str(file), hint="new, teacher, timm, torchvision:NAME or a file of weights"
        )
    try:
        found = load_state_dict(str(file), weights_only=True)
    except Exception as error:  # a file that is not what it claims to be fails in any way
        raise InputError(f"cannot be read: {' '.join(str(error).split())[:200]}", place=str(file)) from None
    return {key.removeprefix("model.").removeprefix("trunk."): value for key, value in dict(found).items()}


def _of_torchvision(source: str, trunk: nn.Module) -> dict[str, Tensor]:
    from torchvision.models import get_model

    try:
        model: Any = get_model(source.removeprefix(TORCHVISION), weights="DEFAULT")
    except ValueError as error:
        raise InputError(str(error), place=source) from None
    except Exception as error:  # no network
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"cannot be loaded: {reason}", place=source, hint="it is downloaded the first time"
        ) from None
    for name in _CLASSIFIERS:
        if hasattr(model, name):
            setattr(model, name, nn.Identity())
    return same_network(model.eval(), trunk, source)


def same_network(model: nn.Module, trunk: nn.Module, place: str) -> dict[str, Tensor]:
    """The weights of ``model`` by the names of ``trunk``, another library's form of the same network.

    Raises:
        InputError: their weights have other shapes or another order, or their outputs differ.
    """
    theirs, names = list(model.state_dict().values()), list(trunk.state_dict())
    shapes = [one.shape for one in trunk.state_dict().values()]
    if [one.shape for one in theirs] != shapes:
        raise InputError("is not the network of the student's image tower", place=place)
    weights = dict(zip(names, theirs, strict=True))
    copied = copy.deepcopy(trunk)
    copied.load_state_dict(weights)
    picture = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, found = model(picture).flatten(1), copied.eval()(picture).flatten(1)
    if expected.shape != found.shape or (expected - found).abs().max() > _CLOSE * expected.abs().max():
        raise InputError("computes something other than the student's image tower", place=place)
    return weights
