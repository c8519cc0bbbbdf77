"""The frozen networks whose feature maps RCFD and RDD compare.

``builtin``: the classifier in the package, for grey 16x16 clothes; ``builtin:cifar10-resnet20``: the one for 32x32
photographs in colour. A file: a classifier of `effcli distill train`.
``torchvision:NAME`` and ``timm:NAME``: an ImageNet network; its weights are downloaded once. ``unet``: the teacher,
its middle block on clean images, which needs no classifier. All but the last see a latent teacher's images decoded.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effcli.core.errors import InputError
from effcli.core.tensor_file import BUILTIN_PREFIX, builtin_file
from effcli.diffusion.denoisers.classes import class_name_of, is_unet
from effcli.diffusion.processes import process_of
from effcli.distill.inputs.teacher import DiffusionTeacher
from effcli.distill.time_grid import TimeGrid
from effcli.metrics.features import FORMAT, load_classifier
from effcli.nn.classifiers.dense_classifier import DenseClassifier

BUILTIN = "builtin:fashion-classifier"
COLOUR = "builtin:cifar10-resnet20"
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_Call = Callable[[Tensor], Tensor]
_Maps = Callable[[Tensor], list[Tensor]]
_HINT = "--features unet compares features of the teacher itself; or train a classifier with `effcli distill train`"


@dataclass(frozen=True)
class FeatureNetwork:
    """A frozen network.

    Attributes:
        name: as the recipe has it.
        feature_map: what the teacher denoises, ``[B, C, S, S]``, to the last map ``[B, D, h, w]``; differentiable.
        feature_maps: the same to all maps, in the network's order: every convolution's of the small classifier,
            every stage's of a residual network for CIFAR, every block's of a UNet, of other networks the last of each
            resolution larger than one pixel.
        network: its weights; None where they are the teacher's.
    """

    name: str
    feature_map: _Call
    feature_maps: _Maps
    network: nn.Module | None = None

    def to(self, device: torch.device) -> FeatureNetwork:
        """The same, computing on ``device``."""
        if self.network is not None:
            self.network.to(device)
        return self


def load_feature_network(name: str, teacher: DiffusionTeacher, *, side: int | None = None) -> FeatureNetwork:
    """A feature network by name; see the first lines of this file.

    Args:
        name: which.
        teacher: whose images it is for, and where it computes.
        side: images are resized to this side first; ImageNet networks need that for maps larger than one pixel.

    Raises:
        InputError: there is none, its weights cannot be loaded, it is for other images, or its maps are too small to
            relate their pixels.
    """
    network: nn.Module | None = None
    device, shape = teacher.guided.device, teacher.picture_shape
    if name == "unet":
        maps = _maps_of_unet(teacher)
        call = _last_of(maps)
    elif name.startswith(("torchvision:", "timm:")):
        network, call = _imagenet_network(name, device)
        maps = _maps_by_resolution(network, call)
    else:
        network, call, maps = _classifier(BUILTIN if name == "builtin" else name, shape, device)
    autoencoder = None if name == "unet" else teacher.autoencoder

    def prepared(x: Tensor) -> Tensor:
        if autoencoder is not None:
            x = autoencoder.decode(x)
        if side is None:
            return x
        return F.interpolate(x, (side, side), mode="bilinear", antialias=side < x.shape[-1])

    def feature_map(x: Tensor) -> Tensor:
        return call(prepared(x))

    _check_map(name, feature_map, teacher.model.sample_shape, device)
    return FeatureNetwork(name, feature_map, lambda x: maps(prepared(x)), network)


def _last_of(maps: _Maps) -> _Call:
    return lambda images: maps(images)[-1]


def _check_map(
    name: str, feature_map: Callable[[Tensor], Tensor], sample_shape: tuple[int, ...], device: torch.device
) -> None:
    try:
        with torch.no_grad():
            out = feature_map(torch.zeros(1, *sample_shape, device=device))
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"does not take these images: {reason}", place=name, hint=_HINT) from None
    shape = "x".join(map(str, sample_shape))
    if out.ndim != 4:
        raise InputError("has no feature map (is it a transformer?)", place=name, hint=_HINT)
    if min(out.shape[-2:]) < 2:
        raise InputError(
            f"its map of images of {shape} is {out.shape[-2]}x{out.shape[-1]}: no pixels to relate",
            place=name,
            hint="resize its input, for example with -s feature_side=128",
        )


def _classifier(
    name: str, picture_shape: tuple[int, ...], device: torch.device
) -> tuple[nn.Module, _Call, _Maps]:
    if name.startswith(BUILTIN_PREFIX):
        with builtin_file(name, FORMAT) as file:
            network, _ = load_classifier(file, name)
    elif Path(name).is_file():
        network, _ = load_classifier(Path(name), name)
    else:
        raise InputError(
            "no such feature network",
            place=name,
            hint=f"available: builtin, {COLOUR}, unet, torchvision:NAME, timm:NAME, or a "
            "classifier's .safetensors file",
        )
    config = network.config
    wanted = (config.channels, config.side, config.side)
    if wanted != picture_shape:
        shapes = ("x".join(map(str, shape)) for shape in (wanted, picture_shape))
        hint = f"--features {COLOUR} is for such images; {_HINT}" if picture_shape == (3, 32, 32) else _HINT
        raise InputError("is for images of {}, the teacher's are {}".format(*shapes), place=name, hint=hint)
    network.to(device)
    if isinstance(network, DenseClassifier):
        return network, network.feature_map, _maps_by_resolution(network, network.feature_map)
    return network, network.feature_map, network.feature_maps


def _imagenet_network(name: str, device: torch.device) -> tuple[nn.Module, _Call]:
    library, _, model = name.partition(":")
    try:
        with contextlib.redirect_stdout(sys.stderr):  # the libraries say there that they download
            if library == "timm":
                import timm

                network: Any = timm.create_model(model, pretrained=True, num_classes=0)
                call: _Call = network.forward_features
            else:
                from torchvision.models import get_model

                network = get_model(model, weights="DEFAULT")
                call = _last_map_of(network)
    except ImportError:
        raise InputError("timm is not installed", place=name, hint="pip install timm") from None
    except Exception as error:  # of whatever library fetches the weights
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"cannot be loaded: {reason}",
            place=name,
            hint="check the name; its weights are downloaded when they are first used",
        ) from None
    network.to(device).eval().requires_grad_(False)

    def normalised(images: Tensor) -> Tensor:
        mean, std = (
            torch.tensor(values, device=images.device)[:, None, None]
            for values in (_IMAGENET_MEAN, _IMAGENET_STD)
        )
        return call(((images + 1) / 2 - mean) / std)  # grey images become three equal channels

    return network, normalised


def _last_map_of(network: nn.Module) -> _Call:
    """The last output of a module inside ``network`` that has the form of a map of more than one pixel."""

    def call(images: Tensor) -> Tensor:
        maps = _recorded_maps(network, lambda: network(images))
        if not maps:
            raise ValueError("none of its maps is larger than one pixel")
        return maps[-1]

    return call


def _maps_by_resolution(network: nn.Module, call: _Call) -> _Maps:
    """The last map of every resolution, in the network's order; ``call``'s own stands for its resolution."""

    def maps(images: Tensor) -> list[Tensor]:
        own: list[Tensor] = []
        found = {one.shape[-2:]: one for one in _recorded_maps(network, lambda: own.append(call(images)))}
        found.pop(own[0].shape[-2:], None)
        return [*found.values(), own[0]]

    return maps


def _recorded_maps(network: nn.Module, run: Callable[[], Any]) -> list[Tensor]:
    """All outputs of modules inside ``network``, while ``run`` runs, that have the form of a map above one pixel."""
    maps: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and min(output.shape[-2:]) > 1:
            maps.append(output)

    hooks = [module.register_forward_hook(keep) for module in network.modules()]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return maps


def _maps_of_unet(teacher: DiffusionTeacher) -> _Maps:
    """The blocks of the down path and the middle one of a UNet, told the least noise and no condition.

    Raises:
        InputError: it is not a UNet.
    """
    unet: Any = teacher.model.unet
    config = teacher.model.scheduler_config
    grid = TimeGrid(config, torch.device("cpu"))
    least = 0 if process_of(config) is None else grid.timesteps(grid.span)[-1]
    if not is_unet(unet):
        raise InputError(
            f"the teacher is a {class_name_of(unet)}, which has no middle block", place="features", hint=_HINT
        )
    if class_name_of(unet) == "UNet2DModel":
        return lambda x: _maps_of_image_unet(unet, x, least)
    return lambda x: _maps_until_middle(teacher, x, least)


def _maps_of_image_unet(unet: Any, images: Tensor, least: float) -> list[Tensor]:
    """Of a `UNet2DModel`, whose class is left out."""
    t = torch.full((len(images),), least, device=images.device)
    embedding = unet.time_embedding(unet.time_proj(t).to(images.dtype))
    hidden, skip = unet.conv_in(images), images
    found = []
    for block in unet.down_blocks:
        if hasattr(block, "skip_conv"):
            hidden, _, skip = block(hidden, embedding, skip)
        else:
            hidden, _ = block(hidden, embedding)
        found.append(hidden)
    return [*found, unet.mid_block(hidden, embedding)]


class _MiddleReached(Exception):  # noqa: N818
    """What is behind the middle block need not be computed."""


def _maps_until_middle(teacher: DiffusionTeacher, x: Tensor, least: float) -> list[Tensor]:
    """Of a UNet that is conditioned on more than classes, under the condition that means none."""
    unet: Any = teacher.model.unet
    found: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        found.append(output[0] if isinstance(output, tuple) else output)
        if module is unet.mid_block:
            raise _MiddleReached

    hooks = [block.register_forward_hook(keep) for block in (*unet.down_blocks, unet.mid_block)]
    condition = {name: value.to(x.device) for name, value in teacher.guided.no_condition(len(x)).items()}
    try:
        teacher.guided.call(x, torch.full((len(x),), least, device=x.device), condition)
    except _MiddleReached:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return found
