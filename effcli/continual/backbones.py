"""Trained networks that turn images into features, by name, from timm, torchvision and open_clip, and our own.

efficientnet-lite0                  ImageNet weights of a package that is installed with effcli
timm:NAME, timm:NAME:FILE           of the timm library; weights from the hub, or from FILE
torchvision:NAME[:FILE]             of torchvision
open_clip:NAME:TAG, or :NAME:FILE   the image tower of a CLIP model

Those of a run's classifier, or of its file, are taken from it (:func:`effcli.continual.network.backbone_of`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

import torch.nn.functional as F
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from effcli.continual.adapted_vit import AdaptedViT, AdapterSpec
from effcli.continual.methods.frequency_encoder import N_FEATURE_MAPS, FrequencyEncoder, top_units
from effcli.core.errors import InputError, UsageError
from effcli.core.library_errors import as_input_errors, hub_asked_once
from effcli.core.tensor_file import read_pickled_tensors, read_tensors, require_finite
from effcli.core.weight_file import Count, Side, check_tensors
from effcli.nn.efficientnet_lite import LITE, TIMM_NAME, lite_weights
from effcli.nn.resnet import ResNet18, Widths
from effcli.nn.wavelet_names import HAAR, WaveletName

_HINT = f"available: {LITE}, timm:NAME, torchvision:NAME, open_clip:NAME:TAG, or a run of `effcli continual`"
_OFFLINE = "the weights are downloaded the first time; or name a file with them after another colon"
_STEP, _LEAST = 32, 128
"""Sides that are chosen here are multiples of the first, as networks halve maps five times, and at least the second."""


@dataclass(frozen=True)
class ResNetSpec:
    """What the network of one of our classifiers is built from.

    Attributes:
        outs, mids: channel counts, as in :class:`~effcli.nn.resnet.Widths`.
        channels: of the images.
        is_encoded: whether frequency features go in.
        n_kept: how many of the features are kept for an image (CFFS); None for all.
        wavelet: of the frequency features.
    """

    outs: Annotated[tuple[Count, ...], Field(min_length=4, max_length=4)]
    mids: Annotated[tuple[Count, ...], Field(min_length=8, max_length=8)]
    channels: Literal[1, 3]
    is_encoded: bool
    n_kept: Count | None
    wavelet: WaveletName = HAAR

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")


@dataclass(frozen=True)
class BackboneSpec:
    """What a trained backbone is built from.

    Attributes:
        library: that has its network; effcli for a classifier of ours.
        name: of the network there; of ours the method that it was learned with.
        side: images are resized to squares of this side before they go in, pixels.
        mean, std: of each channel, 0..1: images are normalised with them.
        resnet: of ours.
        adapters: in a Vision Transformer, whose features are those of all their spaces; None for none.
    """

    library: Literal["timm", "torchvision", "open_clip", "effcli"]
    name: str
    side: Side
    mean: Annotated[tuple[float, ...], Field(min_length=1, max_length=3)]
    std: Annotated[tuple[float, ...], Field(min_length=1, max_length=3)]
    resnet: ResNetSpec | None = field(default=None, repr=False)
    adapters: AdapterSpec | None = field(default=None, repr=False)

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")


class Backbone(nn.Module):
    """Features of a network of a library.

    Args:
        about: what it is.
        network: from images to features.
        dim: D, their number.
        takes_any_side: whether images of other sides than its own can go in.

    Attributes:
        is_frozen: it is never trained, and stays in evaluation mode.
    """

    is_frozen: bool = False

    def __init__(
        self, about: BackboneSpec, network: nn.Module, dim: int, *, takes_any_side: bool = True
    ) -> None:
        super().__init__()
        self.about = about
        self.network = network
        self.dim = dim
        self.takes_any_side = takes_any_side

    def freeze(self) -> Backbone:
        """Let nothing change its weights and statistics."""
        self.is_frozen = True
        return self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> Backbone:
        """Training mode, unless it is frozen."""
        return super().train(mode and not self.is_frozen)

    def forward(self, x: Tensor) -> Tensor:
        """Features ``[B, D]`` of normalised images ``[B, 3, S, S]`` of any side."""
        features: Tensor = self.network(self.resized(x))
        return features

    def resized(self, x: Tensor) -> Tensor:
        """Normalised images of any side, as the network takes them."""
        side = self.about.side
        if x.shape[-1] == side:
            return x
        return F.interpolate(x, (side, side), mode="bicubic", antialias=x.shape[-1] > side)


class OwnFeatures(nn.Module):
    """The features that one of our classifiers looks at.

    Args:
        about: its parts.
    """

    def __init__(self, about: ResNetSpec) -> None:
        super().__init__()
        self.encoder = FrequencyEncoder(about.channels, about.wavelet) if about.is_encoded else None
        in_channels = N_FEATURE_MAPS if about.is_encoded else about.channels
        self.backbone = ResNet18(Widths(about.outs, about.mids), in_channels)
        self.n_kept = about.n_kept

    def forward(self, x: Tensor) -> Tensor:
        """``[B, D]`` of normalised images ``[B, C, S, S]``."""
        features: Tensor = self.backbone(x if self.encoder is None else self.encoder(x))
        return features if self.n_kept is None else features * top_units(features, self.n_kept)


def open_backbone(name: str, side: int | None, image_side: int) -> Backbone:
    """A trained backbone, in evaluation mode.

    Args:
        name: as in the table above.
        side: of the images that go in; None: the backbone's own, but at most about twice ``image_side``, or 128.
        image_side: of the images there are.

    Raises:
        InputError: the name is unknown, or its weights cannot be loaded.
        UsageError: it takes images of its own side alone.
    """
    library, _, rest = name.partition(":")
    model, _, weights = rest.partition(":")
    if name == LITE:
        library, model, weights = "timm", TIMM_NAME, LITE
    if library not in LIBRARIES or not model:
        raise InputError("no such backbone", place=name, hint=_HINT)
    with as_input_errors(name, offline=_OFFLINE):
        found = LIBRARIES[library](model, weights or None, trained=True)
    chosen = side or min(found.about.side, max(_LEAST, 2 * image_side // _STEP * _STEP))
    return with_side(found, chosen if found.takes_any_side else side).eval()


def build_backbone(about: BackboneSpec) -> Backbone:
    """A backbone whose weights are still to be filled in.

    Raises:
        InputError: its library does not know the network.
    """
    if about.resnet is not None:
        return Backbone(about, OwnFeatures(about.resnet), about.resnet.outs[-1])
    if about.library not in LIBRARIES:
        raise InputError("does not say what its network is", place=f"{about.library}:{about.name}")
    with as_input_errors(f"{about.library}:{about.name}"):
        found = LIBRARIES[about.library](about.name, None, trained=False)
    network, dim = found.network, found.dim
    if (adapters := about.adapters) is not None:
        network, dim = (
            AdaptedViT(network, dim, adapters.hidden, adapters.scale, n=adapters.n),
            dim * adapters.n,
        )
    return Backbone(about, network, dim, takes_any_side=found.takes_any_side)


def with_side(backbone: Backbone, side: int | None) -> Backbone:
    """The backbone for images that are resized to another side; None: its own.

    Raises:
        UsageError: it does not take images of that side.
    """
    about = backbone.about
    if side is None or side == about.side:
        return backbone
    if not backbone.takes_any_side:
        raise UsageError(
            f"{about.name} takes only images of {about.side} pixels, not {side}", place="network.side"
        )
    if about.resnet is not None and about.resnet.is_encoded and side % 2:
        raise UsageError(f"the wavelet transform needs even sides, not {side}", place="network.side")
    backbone.about = replace(about, side=side)
    return backbone


def _from_timm(name: str, weights: str | None, *, trained: bool) -> Backbone:
    import timm
    import timm.data

    if not timm.is_model(name):
        raise InputError("timm has no such model", place=name, hint=_nearest(name, timm.list_models()))
    from_hub = trained and weights is None
    with hub_asked_once(f"timm:{name}", hint=_OFFLINE) if from_hub else nullcontext():
        network: Any = timm.create_model(name, pretrained=from_hub, num_classes=0)
    if weights == LITE:
        network.load_state_dict(lite_weights())
    elif weights is not None:
        _fill(network, weights, str(network.default_cfg.get("classifier")))
    config = timm.data.resolve_model_data_config(network)  # type: ignore[attr-defined, no-untyped-call]
    side, mean, std = max(config["input_size"][1:]), tuple(config["mean"]), tuple(config["std"])
    dim = int(getattr(network, "head_hidden_size", network.num_features))
    about = BackboneSpec("timm", name, side, mean, std)
    return Backbone(about, network, dim, takes_any_side=not network.default_cfg.get("fixed_input_size"))


def _from_torchvision(name: str, weights: str | None, *, trained: bool) -> Backbone:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise InputError("torchvision has no such classifier", place=name, hint=_nearest(name, known))
    best = models.get_model_weights(name).DEFAULT
    network = models.get_model(name, weights=best if trained and weights is None else None)
    last = [one for one, layer in network.named_modules() if isinstance(layer, nn.Linear)][-1]
    dim = network.get_submodule(last).in_features
    network.set_submodule(last, nn.Identity())
    if weights is not None:
        _fill(network, weights, last)
    transform = best.transforms()
    about = BackboneSpec(
        "torchvision", name, transform.crop_size[0], tuple(transform.mean), tuple(transform.std)
    )
    return Backbone(about, network, dim, takes_any_side=not name.startswith("vit_"))


def _from_open_clip(name: str, weights: str | None, *, trained: bool) -> Backbone:
    import open_clip

    known = open_clip.list_models()
    if name not in known:
        raise InputError("open_clip has no such model", place=name, hint=_nearest(name, known))
    if trained and weights is None:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none known"
        raise InputError(
            "the name does not say which weights",
            place=name,
            hint=f"open_clip:{name}:TAG or :FILE; tags: {tags}",
        )
    from_hub = weights is not None and not Path(weights).is_file()
    with hub_asked_once(f"open_clip:{name}:{weights}", hint=_OFFLINE) if from_hub else nullcontext():
        visual = open_clip.create_model(name, pretrained=weights, weights_only=True).visual
    colours = visual.preprocess_cfg
    side = max(visual.image_size) if isinstance(visual.image_size, tuple | list) else visual.image_size
    about = BackboneSpec("open_clip", name, side, tuple(colours["mean"]), tuple(colours["std"]))
    dim: int = open_clip.get_model_config(name)["embed_dim"]
    return Backbone(about, visual, dim, takes_any_side=False)


LIBRARIES: dict[str, Callable[..., Backbone]] = {
    "timm": _from_timm,
    "torchvision": _from_torchvision,
    "open_clip": _from_open_clip,
}
"""Library -> ``(name, weights: FILE | TAG | None, trained) -> backbone``."""


def _fill(network: nn.Module, weights: str, head: str) -> None:
    """The weights of a file, of which those of a classifier's last layer are not needed."""
    file = Path(weights)
    if not file.is_file():
        raise InputError("no such file", place=weights)
    if file.suffix == ".safetensors":
        _, tensors = read_tensors(file, weights)
    else:
        tensors = read_pickled_tensors(file, weights)
        require_finite(tensors, weights)
    bare = {name.removeprefix("module."): value for name, value in tensors.items()}
    needed = {name: value for name, value in bare.items() if not name.startswith(f"{head}.")}
    check_tensors(network.state_dict(), needed, weights)
    network.load_state_dict(needed)


def _nearest(name: str, known: Sequence[str]) -> str | None:
    near = get_close_matches(name, known, n=3)
    return f"did you mean {', '.join(near)}?" if near else None
